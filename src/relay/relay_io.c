// The path of a piece of data, from recv() to send(), for both engines.

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"
#include "bitflow/tls/tls_session.h"
#include "relay_internal.h"

// To the front, so that a record that has not come in full finds room behind it.
static void compact(struct direction *direction)
{
    if (direction->consumed == 0)
        return;
    direction->filled -= direction->consumed;
    memmove(direction->buffers.input, direction->buffers.input + direction->consumed, direction->filled);
    direction->consumed = 0;
}

// The first input has been filled: what else is there is read behind that, into a bigger one, so that it goes on in one
// piece. Returns how much.
static ssize_t read_on(struct direction *direction)
{
    struct buffers bigger = {.input_size = SMALL_READ, .input = malloc(SMALL_READ)};
    if (bigger.input == NULL)
        return 0; // to fill it again and again counts as bulk: splice() needs no memory here
    direction_change_buffers(direction, &bigger);
    ssize_t more = recv(direction->from->fd, direction->buffers.input + direction->filled,
                        direction->buffers.input_size - direction->filled, MSG_DONTWAIT);
    if (more < 0 && errno != EAGAIN && errno != EINTR)
        direction_read_broken(direction, errno);
    if (more <= 0) // the next read finds the end of the stream again
        return 0;
    direction->filled += (size_t)more;
    return more;
}

// A read has filled the input. Returns how much more was read then. Kept out of what runs for every message.
__attribute__((noinline, cold)) static ssize_t note_full_read(struct direction *direction)
{
    ssize_t more = direction->buffers.input == direction->first_input ? read_on(direction) : 0;
    direction->full_reads = direction->filled == direction->buffers.input_size ? direction->full_reads + 1 : 0;
    return more;
}

void direction_shrink(struct direction *direction)
{
    if (direction->buffers.input == direction->first_input)
        return;
    free(direction->buffers.input);
    direction->buffers = (struct buffers){.input = direction->first_input, .input_size = FIRST_INPUT_SIZE};
    direction->consumed = direction->filled = 0;
}

// All that came before the end of the stream has been read. What cannot be written at once is not worth the trouble:
// the end is then read like any other.
__attribute__((noinline, cold)) static void forward_with_end(struct direction *direction)
{
    direction->last_write_flags = MSG_MORE;
    if (direction_forward(direction) && direction_state(direction) == DIRECTION_READING) {
        direction_end_with_data(direction);
        (void)direction_forward(direction); // a close_notify
    }
    direction->last_write_flags = 0;
}

ssize_t direction_move(struct direction *direction, size_t most, bool may_be_reset)
{
    INVARIANT(direction->pending == 0);
    compact(direction);
    size_t size = direction->buffers.input_size - direction->filled;
    if (size > most)
        size = most;
    ssize_t received;
    do
        received =
            recv(direction->from->fd, direction->buffers.input + direction->filled, size, direction->shared->io_flags);
    while (received < 0 && errno == EINTR);
    if (received < 0) {
        if (errno != EAGAIN)
            direction_read_failed(direction, errno);
        return -1;
    }
    if (received == 0) {
        direction_end_of_stream(direction, may_be_reset);
    } else {
        direction->filled += (size_t)received;
        if (direction->filled < direction->buffers.input_size)
            direction->full_reads = 0;
        else
            received += note_full_read(direction);
        if (direction->is_end_next && direction->filled < direction->buffers.input_size && !direction->has_failed) {
            forward_with_end(direction);
            return received;
        }
    }
    (void)direction_forward(direction);
    return received;
}

// What a record means that is not data. False: the direction has come to its end. What is neither passed on nor
// answered is acknowledged: TLS 1.3 servers send tickets before their first data.
static bool handle_control(struct direction *direction, const struct tls_received *received)
{
    struct tls_session *session = direction->from->tls;
    switch (received->event) {
    case TLS_KEY_UPDATE:
        if (received->update_requested) {
            tls_sender_request_key_update(session->sender);
            direction->is_reply_due = true;
        }
        socket_acknowledge(direction->from->fd);
        return true;
    case TLS_IGNORED:
        if (received->alert == TLS_ALERT_NO_RENEGOTIATION) {
            tls_sender_refuse_renegotiation(session->sender);
            direction->is_reply_due = true;
        }
        socket_acknowledge(direction->from->fd);
        return true;
    case TLS_CLOSE_NOTIFY:
        direction_close_notified(direction);
        return false;
    case TLS_PEER_ALERT:
        direction_tls_failed(direction, 0, received->reason);
        return false;
    case TLS_FAILED:
        direction_tls_failed(direction, received->alert, received->reason);
        return false;
    default:
        return true;
    }
}

// Opens records up to the next one with data. Kept out of what runs for every message of a plain flow.
__attribute__((noinline)) static bool open_records(struct direction *direction, bool has_pieces)
{
    for (;;) {
        struct tls_received received =
            tls_receiver_open(direction->receiver, direction->buffers.input + direction->consumed,
                              direction->filled - direction->consumed);
        // The receiver says an alert or a failure again; only a close_notify it would not.
        if (received.event == TLS_NEEDS_MORE ||
            (has_pieces && (received.event == TLS_PEER_ALERT || received.event == TLS_FAILED)))
            return false;
        direction->consumed += received.consumed;
        if (received.event == TLS_DATA && received.length > 0) {
            direction->plaintext = received.data;
            direction->plaintext_length = received.length;
            return true;
        }
        if (has_pieces && received.event == TLS_CLOSE_NOTIFY) {
            direction->is_close_notify_received = true;
            return false;
        }
        if (!handle_control(direction, &received))
            return false;
    }
}

// Takes plaintext from the input: all there is, or what the next record with data has. `has_pieces`: they are to be
// written first, so what is not data, and may end the direction, waits. False: there is none, for now or for good.
static bool next_plaintext(struct direction *direction, bool has_pieces)
{
    if (direction->plaintext_length > 0)
        return true;
    if (direction->receiver != NULL)
        return open_records(direction, has_pieces);
    direction->plaintext = direction->buffers.input + direction->consumed;
    direction->plaintext_length = direction->filled - direction->consumed;
    direction->consumed = direction->filled;
    return direction->plaintext_length > 0;
}

static void clear_pieces(struct direction *direction)
{
    direction->next_piece = direction->piece_count = 0;
    direction->pending_plaintext = 0;
}

static void add_piece(struct direction *direction, void *bytes, size_t length)
{
    direction->pieces[direction->piece_count++] = (struct iovec){.iov_base = bytes, .iov_len = length};
    direction->pending += length;
}

// Seals as much plaintext as the output holds, into one piece.
static void seal_piece(struct direction *direction)
{
    size_t used = 0;
    while (next_plaintext(direction, used > 0)) {
        size_t part = direction->plaintext_length;
        if (part > direction->record_limit)
            part = direction->record_limit;
        size_t room = direction->buffers.output_size - used;
        if (room < TLS_SEALED_SIZE(part))
            break;
        size_t sealed =
            tls_sender_seal(direction->sender, direction->plaintext, part, direction->buffers.output + used, room);
        if (sealed == 0) {
            direction_seal_failed(direction);
            return;
        }
        used += sealed;
        direction->pending_plaintext += part;
        direction->plaintext += part;
        direction->plaintext_length -= part;
    }
    if (used > 0)
        add_piece(direction, direction->buffers.output, used);
}

// Makes pieces of what was read. True: they are pending. False: there is nothing more in the input, or the direction is
// over: the peer's close_notify, an alert or a broken record may end it.
static bool make_pieces(struct direction *direction)
{
    if (direction_is_over(direction))
        return false;
    if (atomic_load_explicit(&direction->shared->is_tls_broken, memory_order_relaxed)) {
        direction_enter(direction, DIRECTION_STOPPED);
        return false;
    }
    clear_pieces(direction);
    if (direction->is_close_notify_received) {
        direction->is_close_notify_received = false;
        direction_close_notified(direction);
    } else if (direction->sender != NULL) {
        seal_piece(direction);
    } else {
        while (direction->piece_count < direction->pieces_max &&
               next_plaintext(direction, direction->piece_count > 0)) {
            add_piece(direction, direction->plaintext, direction->plaintext_length);
            direction->plaintext_length = 0;
        }
    }
    if (direction->pending == 0)
        return false;
    if (direction_state(direction) == DIRECTION_READING)
        direction_enter(direction, DIRECTION_WRITING);
    return true;
}

// Once a connection: kept out of what runs for every message.
__attribute__((noinline, cold)) static void note_first_byte(struct direction *direction)
{
    if (direction->side == RELAY_TARGET)
        atomic_store_explicit(&direction->shared->relay->first_byte, clock_now(), memory_order_release);
}

void direction_account(struct direction *direction, size_t size)
{
    _Atomic uint64_t *bytes = &direction->from->bytes;
    // This thread alone writes it, so no locked instruction is needed.
    uint64_t before = atomic_load_explicit(bytes, memory_order_relaxed);
    atomic_store_explicit(bytes, before + size, memory_order_relaxed);
    if (before == 0 && size > 0)
        note_first_byte(direction);
    if (direction->shared->is_timed)
        atomic_store_explicit(&direction->last_write, clock_now_coarse(), memory_order_relaxed);
}

void direction_tear(struct direction *direction)
{
    if (direction->sender != NULL && direction->pending > 0) {
        const uint8_t *sealed = direction->buffers.output, *unsent = direction->pieces[direction->next_piece].iov_base;
        direction_account(direction, tls_sender_content_of(direction->sender, sealed, (size_t)(unsent - sealed)));
    }
    direction_enter(direction, DIRECTION_TORN);
}

// `size` bytes of the pieces were written.
static void advance(struct direction *direction, size_t size)
{
    INVARIANT(size <= direction->pending);
    direction->pending -= size;
    if (direction->sender == NULL)
        direction_account(direction, size);
    else // what records stand for is counted when all are out, or by direction_tear(); until then it is a sign of life
        direction_account(direction, direction->pending == 0 ? direction->pending_plaintext : 0);
    while (size > 0) {
        struct iovec *piece = &direction->pieces[direction->next_piece];
        if (size < piece->iov_len) {
            piece->iov_base = (uint8_t *)piece->iov_base + size;
            piece->iov_len -= size;
            return;
        }
        size -= piece->iov_len;
        direction->next_piece++;
    }
}

// Writes the pieces. False: the direction is over, or with MSG_DONTWAIT some of them have to wait.
static bool write_pieces(struct direction *direction)
{
    int flags = direction->shared->io_flags | direction->last_write_flags;
    while (direction->pending > 0) {
        struct iovec *first = &direction->pieces[direction->next_piece];
        unsigned count = direction->piece_count - direction->next_piece;
        ssize_t sent;
        if (count == 1) {
            sent = send(direction->to->fd, first->iov_base, first->iov_len, flags | MSG_NOSIGNAL);
        } else {
            struct msghdr message = {.msg_iov = first, .msg_iovlen = count};
            sent = sendmsg(direction->to->fd, &message, flags | MSG_NOSIGNAL);
        }
        if (sent > 0) {
            advance(direction, (size_t)sent);
            if (direction->pending == 0)
                break;
        } else if (sent < 0 && errno == EINTR) {
            continue;
        } else if (sent < 0 && errno != EAGAIN) {
            direction_write_failed(direction, errno);
            return false;
        }
        if ((flags & MSG_DONTWAIT) != 0) {
            if (!direction->is_stalled)
                direction->stall_checked = clock_now_coarse();
            return false;
        }
        if (!direction_await_peer(direction))
            return false;
    }
    return direction_written(direction);
}

bool direction_written(struct direction *direction)
{
    if (direction_state(direction) == DIRECTION_CLOSING) {
        direction_finish(direction);
        return false;
    }
    direction_enter(direction, DIRECTION_READING);
    if (direction_within_grace(direction))
        return true;
    direction_enter(direction, DIRECTION_STOPPED);
    return false;
}

bool direction_forward(struct direction *direction)
{
    do
        if (direction->pending > 0 && !write_pieces(direction))
            return false;
    while (make_pieces(direction));
    return !direction_is_over(direction);
}

void direction_reply(struct direction *direction)
{
    clear_pieces(direction);
    size_t sealed = tls_sender_seal_due(direction->sender, direction->buffers.output, direction->buffers.output_size);
    if (sealed == 0)
        return;
    add_piece(direction, direction->buffers.output, sealed);
    direction_enter(direction, DIRECTION_WRITING);
    (void)direction_forward(direction);
}

void direction_close_with_notify(struct direction *direction)
{
    clear_pieces(direction);
    size_t sealed = tls_sender_alert(direction->sender, TLS_ALERT_CLOSE_NOTIFY, direction->buffers.output,
                                     direction->buffers.output_size);
    if (sealed == 0) {
        direction_seal_failed(direction);
        return;
    }
    add_piece(direction, direction->buffers.output, sealed);
    direction_enter(direction, DIRECTION_CLOSING);
}

void direction_change_buffers(struct direction *direction, const struct buffers *buffers)
{
    compact(direction);
    INVARIANT(direction->filled <= buffers->input_size);
    memcpy(buffers->input, direction->buffers.input, direction->filled);
    direction->buffers = *buffers;
}

// Gives the whole pages between two addresses back to the system.
static void release_between(uintptr_t from, uintptr_t to)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    from = (from + page - 1) / page * page;
    to = to / page * page;
    if (from < to)
        (void)madvise((void *)from, to - from, MADV_DONTNEED); // NOLINT(performance-no-int-to-ptr)
}

// Those between `kept` bytes and the buffer's end.
static void release_behind(uint8_t *buffer, size_t size, size_t kept)
{
    release_between((uintptr_t)buffer + kept, (uintptr_t)buffer + size);
}

static bool has_unopened(const struct direction *direction)
{
    return direction->plaintext_length > 0 || direction->consumed < direction->filled;
}

// Gives the pages of the buffers that hold nothing back to the system. The buffers remain, and have pages again as they
// are filled.
static void release_pages(const struct direction *direction)
{
    const struct buffers *buffers = &direction->buffers, *saved = &direction->saved_buffers;
    // Without a sender the pieces are the input's.
    bool is_input_held = direction->sender == NULL || has_unopened(direction);
    size_t sealed = 0;
    if (direction->sender != NULL && direction->pending > 0) {
        const struct iovec *last = &direction->pieces[direction->piece_count - 1];
        sealed = (size_t)((uint8_t *)last->iov_base - buffers->output) + last->iov_len;
    }
    release_behind(buffers->input, buffers->input_size, is_input_held ? direction->filled : 0);
    release_behind(buffers->output, buffers->output_size, sealed);
    release_behind(saved->input, saved->input_size, 0);
    release_behind(saved->output, saved->output_size, 0);
}

#define OWN_FRAME ((size_t)512) // of release_stack() and what it calls, at most

// What calls have touched of the stack, below the caller's frame.
__attribute__((noinline)) static void release_stack(const struct relay_shared *shared)
{
    release_between(shared->stack_floor, (uintptr_t)__builtin_frame_address(0) - OWN_FRAME);
}

// The heap may keep a freed buffer: its pages go before that.
static void give_back(struct direction *direction)
{
    if (direction->buffers.input != direction->first_input)
        release_behind(direction->buffers.input, direction->buffers.input_size, 0);
    direction_shrink(direction);
}

void relay_release(struct relay_shared *shared)
{
    struct direction *client = &shared->directions[RELAY_CLIENT], *target = client->opposite;
    INVARIANT(!direction_is_writing(client) && !direction_is_writing(target));
    if (shared->stack_buffers == NULL) {
        give_back(client);
        give_back(target);
    } else if (has_unopened(client) || has_unopened(target)) {
        release_pages(client);
        release_pages(target);
    } else { // as one: where a buffer begins, it shares a page with another
        release_behind(shared->stack_buffers, shared->stack_buffers_size, 0);
    }
    release_stack(shared);
}

static bool may_rest(const struct direction *direction)
{
    bool is_idle = direction_state(direction) == DIRECTION_READING && !has_unopened(direction) &&
                   !direction->is_close_notify_received && !direction->is_reply_due;
    return is_idle || direction_has_finished(direction);
}

bool relay_may_rest(const struct relay_shared *shared)
{
    return shared->grace_end == DEADLINE_NONE && shared->due_alert == 0 &&
           !atomic_load_explicit(&shared->is_tls_broken, memory_order_relaxed) &&
           may_rest(&shared->directions[RELAY_CLIENT]) && may_rest(&shared->directions[RELAY_TARGET]);
}

bool relay_has_more_to_release(const struct relay_shared *shared)
{
    return shared->stack_buffers != NULL ||
           shared->directions[RELAY_CLIENT].buffers.input != shared->directions[RELAY_CLIENT].first_input ||
           shared->directions[RELAY_TARGET].buffers.input != shared->directions[RELAY_TARGET].first_input;
}

bool direction_await_peer(struct direction *direction)
{
    if (!direction->is_stalled)
        release_pages(direction);
    if (!direction_check_write_timeout(direction))
        return false;
    struct pollfd poller = {.fd = direction->to->fd, .events = POLLOUT};
    if (relay_is_nonblocking(direction->to->fd))
        (void)poll(&poller, 1, (int)(direction_write_slice(direction) / NS_PER_MS));
    return true;
}
