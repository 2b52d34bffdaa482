// Single reads and writes of a pump, and what lies between them: TLS records are opened in place and sealed into a
// buffer of their own.

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"
#include "bitflow/tls/tls_session.h"
#include "pump.h"

// Once a connection: kept out of what runs for every message.
__attribute__((noinline, cold)) static void note_first_byte(struct pump *pump)
{
    if (pump->side == RELAY_TARGET)
        atomic_store_explicit(&pump->state->relay->first_byte, clock_now(), memory_order_release);
}

void pump_account(struct pump *pump, size_t size)
{
    _Atomic uint64_t *bytes = &pump_from(pump)->bytes;
    // This thread alone writes it, so no locked instruction is needed.
    uint64_t before = atomic_load_explicit(bytes, memory_order_relaxed);
    atomic_store_explicit(bytes, before + size, memory_order_relaxed);
    if (before == 0 && size > 0)
        note_first_byte(pump);
    if (pump_to(pump)->read_timeout > 0)
        atomic_store_explicit(&pump->last_write, clock_now_coarse(), memory_order_relaxed);
}

// To the front, so that a record that has not come in full finds room behind it.
static void compact(struct pump *pump)
{
    if (pump->used == 0)
        return;
    pump->filled -= pump->used;
    memmove(pump->buffers.input, pump->buffers.input + pump->used, pump->filled);
    pump->used = 0;
}

ssize_t pump_receive(struct pump *pump, size_t most, int flags)
{
    compact(pump);
    size_t room = pump->buffers.input_size - pump->filled;
    if (room > most)
        room = most;
    ssize_t received = recv(pump->from, pump->buffers.input + pump->filled, room, flags);
    if (received > 0) {
        pump->filled += (size_t)received;
        pump->full = (size_t)received == room ? pump->full + 1 : 0;
    }
    return received;
}

// What a record's event means besides data. False: the direction has come to its end. What is neither passed on nor
// answered is acknowledged: TLS 1.3 servers send tickets before their first data.
static bool heed(struct pump *pump, const struct tls_received *received)
{
    struct tls_session *session = pump_from(pump)->tls;
    switch (received->event) {
    case TLS_KEY_UPDATE:
        if (received->update_requested) {
            tls_sender_request_key_update(session->sender);
            pump->owes_reply = true;
        }
        socket_acknowledge(pump->from);
        return true;
    case TLS_IGNORED:
        if (received->alert == TLS_ALERT_NO_RENEGOTIATION) {
            tls_sender_refuse_renegotiation(session->sender);
            pump->owes_reply = true;
        }
        socket_acknowledge(pump->from);
        return true;
    case TLS_CLOSE_NOTIFY:
        pump_close_notified(pump);
        return false;
    case TLS_PEER_ALERT:
        pump_tls_failed(pump, 0, received->reason);
        return false;
    case TLS_FAILED:
        pump_tls_failed(pump, received->alert, received->reason);
        return false;
    default:
        return true;
    }
}

// Opens records until one has data. `is_held`: pieces are pending, which are to go first, so that what is no data, and
// may end the direction, waits. False: no data, for now or for good.
static bool open_record(struct pump *pump, bool is_held)
{
    for (;;) {
        struct tls_received received =
            tls_receiver_open(pump->receiver, pump->buffers.input + pump->used, pump->filled - pump->used);
        // The receiver says an alert or a failure again; only a close_notify it would not.
        if (received.event == TLS_NEEDS_MORE ||
            (is_held && (received.event == TLS_PEER_ALERT || received.event == TLS_FAILED)))
            return false;
        pump->used += received.consumed;
        if (received.event == TLS_DATA && received.length > 0) {
            pump->plain = received.data;
            pump->plain_length = received.length;
            return true;
        }
        if (is_held && received.event == TLS_CLOSE_NOTIFY) {
            pump->has_closed = true;
            return false;
        }
        if (!heed(pump, &received))
            return false;
    }
}

static bool next_plain(struct pump *pump, bool is_held)
{
    if (pump->plain_length > 0)
        return true;
    if (pump->receiver != NULL)
        return open_record(pump, is_held);
    pump->plain = pump->buffers.input + pump->used;
    pump->plain_length = pump->filled - pump->used;
    pump->used = pump->filled;
    return pump->plain_length > 0;
}

static void add_piece(struct pump *pump, void *bytes, size_t length)
{
    pump->pieces[pump->piece_count++] = (struct iovec){.iov_base = bytes, .iov_len = length};
    pump->pending += length;
    pump->stalled = false;
}

static void take_plain(struct pump *pump)
{
    while (pump->piece_count < PUMP_PIECES && next_plain(pump, pump->piece_count > 0)) {
        add_piece(pump, pump->plain, pump->plain_length);
        pump->plain_length = 0;
    }
}

static void take_sealed(struct pump *pump)
{
    size_t used = 0;
    pump->carried = 0;
    while (next_plain(pump, used > 0)) {
        size_t part = pump->plain_length < pump->record_limit ? pump->plain_length : pump->record_limit;
        size_t room = pump->buffers.output_size - used;
        if (room < TLS_SEALED_SIZE(part))
            break;
        size_t sealed = tls_sender_seal(pump->sender, pump->plain, part, pump->buffers.output + used, room);
        if (sealed == 0) {
            pump_seal_failed(pump);
            return;
        }
        used += sealed;
        pump->carried += part;
        pump->plain += part;
        pump->plain_length -= part;
    }
    if (used > 0)
        add_piece(pump, pump->buffers.output, used);
}

bool pump_take(struct pump *pump)
{
    if (atomic_load_explicit(&pump->state->is_tls_broken, memory_order_relaxed))
        pump->over = true;
    if (pump->over)
        return false;
    pump->piece_at = pump->piece_count = 0;
    if (pump->has_closed) {
        pump->has_closed = false;
        pump_close_notified(pump);
    } else if (pump->sender == NULL) {
        take_plain(pump);
    } else {
        take_sealed(pump);
    }
    return pump->pending > 0;
}

static void advance(struct pump *pump, size_t size)
{
    pump->pending -= size;
    if (pump->sender == NULL)
        pump_account(pump, size);
    else // records are counted when they are out as a whole; until then it is a sign of life
        pump_account(pump, pump->pending == 0 ? pump->carried : 0);
    while (size > 0) {
        struct iovec *piece = &pump->pieces[pump->piece_at];
        if (size < piece->iov_len) {
            piece->iov_base = (uint8_t *)piece->iov_base + size;
            piece->iov_len -= size;
            return;
        }
        size -= piece->iov_len;
        pump->piece_at++;
    }
}

ssize_t pump_send(struct pump *pump, int flags)
{
    struct iovec *first = &pump->pieces[pump->piece_at];
    unsigned count = pump->piece_count - pump->piece_at;
    ssize_t sent;
    if (count == 1) {
        sent = send(pump->to, first->iov_base, first->iov_len, flags | MSG_NOSIGNAL);
    } else {
        struct msghdr message = {.msg_iov = first, .msg_iovlen = count};
        sent = sendmsg(pump->to, &message, flags | MSG_NOSIGNAL);
    }
    if (sent > 0)
        advance(pump, (size_t)sent);
    return sent;
}

void pump_reply(struct pump *pump)
{
    pump->piece_at = pump->piece_count = 0;
    pump->carried = 0;
    size_t sealed = tls_sender_seal_due(pump->sender, pump->buffers.output, pump->buffers.output_size);
    if (sealed > 0)
        add_piece(pump, pump->buffers.output, sealed);
}

void pump_close_with_notify(struct pump *pump)
{
    pump->piece_at = pump->piece_count = 0;
    pump->carried = 0;
    size_t sealed =
        tls_sender_alert(pump->sender, TLS_ALERT_CLOSE_NOTIFY, pump->buffers.output, pump->buffers.output_size);
    if (sealed == 0) {
        pump_seal_failed(pump);
        return;
    }
    pump->is_closing = true;
    add_piece(pump, pump->buffers.output, sealed);
}

void pump_change_buffers(struct pump *pump, const struct pump_buffers *buffers)
{
    compact(pump);
    memcpy(buffers->input, pump->buffers.input, pump->filled);
    pump->buffers = *buffers;
}

// The whole pages between `kept` bytes and the buffer's end.
static void release_behind(uint8_t *buffer, size_t size, size_t kept)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t offset = (uintptr_t)buffer % page; // from the beginning of its first page, as the following two
    size_t from = (offset + kept + page - 1) / page * page;
    size_t to = (offset + size) / page * page;
    if (from < to)
        (void)madvise(buffer + (from - offset), to - from, MADV_DONTNEED);
}

void pump_release_pages(const struct pump *pump)
{
    const struct pump_buffers *buffers = &pump->buffers, *laid_by = &pump->laid_by;
    // Without a sender the pieces are the input's.
    bool is_input_held = pump->sender == NULL || pump->plain_length > 0 || pump->used < pump->filled;
    size_t sealed = 0;
    if (pump->sender != NULL && pump->pending > 0) {
        const struct iovec *last = &pump->pieces[pump->piece_count - 1];
        sealed = (size_t)((uint8_t *)last->iov_base - buffers->output) + last->iov_len;
    }
    release_behind(buffers->input, buffers->input_size, is_input_held ? pump->filled : 0);
    release_behind(buffers->output, buffers->output_size, sealed);
    release_behind(laid_by->input, laid_by->input_size, 0);
    release_behind(laid_by->output, laid_by->output_size, 0);
}
