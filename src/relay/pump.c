#include "pump.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"
#include "bitflow/relay/pipe_pool.h"

// Measured on loopback, one stream. CPU time a byte, copying through 16 KiB being 1: copying through 64 KiB 0.61, 128
// KiB 0.53, 256 KiB 0.47; splice() through the pool's pipes 0.24 (and 2.3 times the bytes a second). With messages of
// 16 KiB splice() and copying cost the same, with 64 KiB splice() costs 0.7, with 200 KB 0.4.
#define BULK_BUFFER ((size_t)256 * 1024) // on the heap, for bulk without a pipe
#define SPLICE_CHUNK ((size_t)1024 * 1024)

#define SMALL_AFTER 8            // reads in a row below the small buffer's size end bulk
#define RETRY_AFTER 256          // reads without a pipe before the pool is asked again
#define BULK_IDLE (1 * NS_PER_S) // a flow silent for so long gives its pipe or big buffer back

// The flow's ways of moving; each stage moves bytes until the flow suits it no more and names the next one.
enum stage { STAGE_SMALL, STAGE_SPLICE, STAGE_BULK_COPY, STAGE_ENDED };

// What a bulk stage makes of a read that brought nothing.
enum verdict { READ_AGAIN, READ_WAS_IDLE, READ_ENDS_BULK, READ_ENDED };

static void begin_write(struct pump *pump)
{
    atomic_store_explicit(&pump->writing, true, memory_order_relaxed);
    pump->stalled = false;
}

static bool end_write(struct pump *pump)
{
    atomic_store_explicit(&pump->writing, false, memory_order_release);
    return pump_within_grace(pump);
}

// A write took less than all: it has waited for a slice, if the socket blocks.
static bool goes_on_writing(struct pump *pump)
{
    if (!pump->stalled)
        pump_release_pages(pump);
    if (!pump_outlasts_stall(pump))
        return false;
    struct pollfd poller = {.fd = pump->to, .events = POLLOUT};
    if (pump_is_nonblocking(pump->to))
        (void)poll(&poller, 1, (int)(pump_slice(pump) / NS_PER_MS));
    return true;
}

// Writes what is pending. False: the direction has ended.
static bool send_pending(struct pump *pump)
{
    begin_write(pump);
    for (;;) {
        ssize_t sent = pump_send(pump, 0);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN) {
            pump_write_failed(pump, errno);
            return false;
        }
        if (pump->pending == 0)
            break;
        if (!goes_on_writing(pump)) {
            (void)end_write(pump);
            return false;
        }
    }
    bool goes_on = end_write(pump);
    if (pump->is_closing)
        pump_finish(pump);
    return goes_on && !pump->over;
}

// Writes all that was read, but for what is no whole record yet.
static bool forward(struct pump *pump)
{
    do
        if (pump->pending > 0 && !send_pending(pump))
            return false;
    while (pump_take(pump));
    return !pump->over;
}

// Waits for something to read. False: the direction has ended.
static bool receive(struct pump *pump)
{
    for (;;) {
        ssize_t received = pump_receive(pump, SIZE_MAX, 0);
        if (received > 0)
            return true;
        if (received == 0) {
            pump_end_of_stream(pump, true);
            return forward(pump);
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN) {
            pump_read_failed(pump, errno);
            return false;
        }
        if (!pump_outlasts_silence(pump, pump_from(pump)->read_timeout))
            return false;
    }
}

static enum stage move_small(struct pump *pump)
{
    while (pump->full < PUMP_BULK_AFTER)
        if (!receive(pump) || !forward(pump))
            return STAGE_ENDED;
    pump->full = 0;
    return pump->splice_unsupported ? STAGE_BULK_COPY : STAGE_SPLICE;
}

// A bulk stage does not wait longer than this for the next bytes while it holds a pipe or a big buffer.
static int64_t bulk_wait(const struct pump *pump)
{
    int64_t timeout = pump_from(pump)->read_timeout;
    return timeout > 0 && timeout < BULK_IDLE ? timeout : BULK_IDLE;
}

static void begin_bulk(const struct pump *pump)
{
    socket_set_receive_timeout(pump->from, bulk_wait(pump));
}

// After a bulk stage, when what it held is given back; `next` is for a flow that just suits the stage no more.
static enum stage end_bulk(struct pump *pump, enum verdict verdict, enum stage next)
{
    if (verdict == READ_ENDED)
        return STAGE_ENDED;
    int64_t timeout = pump_from(pump)->read_timeout;
    socket_set_receive_timeout(pump->from, timeout);
    pump->full = 0;
    if (verdict == READ_AGAIN)
        return next;
    if (verdict == READ_WAS_IDLE && timeout > 0 && !pump_outlasts_silence(pump, bulk_wait(pump)))
        return STAGE_ENDED;
    return STAGE_SMALL;
}

// The pipe's bytes go out by read and send: for a socket that takes no splice.
static bool empty_by_copy(struct pump *pump, const struct bulk_pipe *bulk_pipe, size_t size)
{
    while (size > 0) {
        size_t room = size < pump->buffers.input_size ? size : pump->buffers.input_size;
        ssize_t taken = read(bulk_pipe->read_end, pump->buffers.input, room);
        if (taken < 0 && errno == EINTR)
            continue;
        if (taken <= 0) {
            pump_write_failed(pump, taken < 0 ? errno : EIO);
            return false;
        }
        pump->used = 0;
        pump->filled = (size_t)taken;
        if (!forward(pump))
            return false;
        size -= (size_t)taken;
    }
    return true;
}

// Empties the pipe, which has `size` bytes, into the write side. False: the direction has ended, some may be left in
// it.
static bool splice_out(struct pump *pump, const struct bulk_pipe *bulk_pipe, size_t size)
{
    begin_write(pump);
    for (;;) {
        // Never SPLICE_F_MORE: it would hold back the last segment.
        ssize_t moved = splice(bulk_pipe->read_end, NULL, pump->to, NULL, size, SPLICE_F_MOVE);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved < 0 && errno == EINVAL) {
            pump->splice_unsupported = true;
            return empty_by_copy(pump, bulk_pipe, size);
        }
        if (moved == 0 || (moved < 0 && errno != EAGAIN)) {
            pump_write_failed(pump, moved == 0 ? EPIPE : errno);
            return false;
        }
        if (moved > 0) {
            size -= (size_t)moved;
            pump_account(pump, (size_t)moved);
        }
        if (size == 0)
            return end_write(pump);
        if (!goes_on_writing(pump)) {
            (void)end_write(pump);
            return false;
        }
    }
}

// What it means that a bulk stage's read brought nothing (recv's or splice's result and errno).
static enum verdict judge_bulk_read(struct pump *pump, ssize_t result)
{
    // The end of the stream, or urgent data, at which splice() stops too: the small stage's recv() tells which.
    if (result == 0)
        return READ_ENDS_BULK;
    switch (errno) {
    case EINTR:
        return READ_AGAIN;
    case EAGAIN:
        return READ_WAS_IDLE;
    case EINVAL:
        pump->splice_unsupported = true;
        return READ_ENDS_BULK;
    default:
        pump_read_failed(pump, errno);
        return READ_ENDED;
    }
}

static enum stage move_by_splice(struct pump *pump)
{
    struct bulk_pipe bulk_pipe;
    if (!pipe_pool_take(&bulk_pipe))
        return STAGE_BULK_COPY;
    begin_bulk(pump);
    enum verdict verdict = READ_AGAIN;
    for (unsigned small = 0; small < SMALL_AFTER && verdict == READ_AGAIN && !pump->splice_unsupported;) {
        ssize_t moved = splice(pump->from, NULL, bulk_pipe.write_end, NULL, SPLICE_CHUNK, SPLICE_F_MOVE);
        if (moved <= 0) {
            verdict = judge_bulk_read(pump, moved);
            continue;
        }
        if (!splice_out(pump, &bulk_pipe, (size_t)moved)) {
            pipe_pool_discard(&bulk_pipe);
            return STAGE_ENDED;
        }
        small = (size_t)moved < PUMP_BUFFER ? small + 1 : 0;
    }
    pipe_pool_give(&bulk_pipe);
    return end_bulk(pump, verdict, STAGE_SMALL);
}

static bool create_bulk_buffers(const struct pump *pump, struct pump_buffers *buffers)
{
    *buffers = (struct pump_buffers){.input_size = BULK_BUFFER, .input = malloc(BULK_BUFFER)};
    if (pump->sender != NULL) {
        buffers->output_size = TLS_SEALED_SIZE(BULK_BUFFER);
        buffers->output = malloc(buffers->output_size);
    }
    if (buffers->input != NULL && (pump->sender == NULL || buffers->output != NULL))
        return true;
    free(buffers->input);
    free(buffers->output);
    return false;
}

// What is read is to be written without waiting: a peer that takes nothing more would keep a big buffer full. So no
// more is read than the kernel has room for on the other side, but for its own overhead. (While the peer is slow but
// takes something, a write is woken up when a third of the room is free: then reads are big again.)
static size_t bulk_share(const struct pump *pump)
{
    size_t room = socket_room(pump->to);
    size_t fits = room - room / 8;
    return fits > PUMP_ROOM ? fits : PUMP_ROOM;
}

static enum verdict copy_bulk(struct pump *pump, unsigned *small)
{
    ssize_t received = pump_receive(pump, bulk_share(pump), 0);
    if (received <= 0)
        return judge_bulk_read(pump, received);
    *small = (size_t)received < PUMP_BUFFER ? *small + 1 : 0;
    return forward(pump) ? READ_AGAIN : READ_ENDED;
}

static enum stage move_by_big_copy(struct pump *pump)
{
    struct pump_buffers bulk;
    if (!create_bulk_buffers(pump, &bulk))
        return STAGE_SMALL;
    pump->laid_by = pump->buffers;
    pump_change_buffers(pump, &bulk);
    begin_bulk(pump);
    enum verdict verdict = READ_AGAIN;
    unsigned small = 0;
    for (unsigned reads = 0; small < SMALL_AFTER && verdict == READ_AGAIN; reads++) {
        if (reads == RETRY_AFTER && !pump->splice_unsupported)
            break;
        verdict = copy_bulk(pump, &small);
    }
    if (verdict == READ_ENDED)
        pump->filled = pump->used = 0;
    pump_change_buffers(pump, &pump->laid_by); // all is written, but for a part of a record
    pump->laid_by = (struct pump_buffers){.input = NULL};
    free(bulk.input);
    free(bulk.output);
    return end_bulk(pump, verdict, small < SMALL_AFTER ? STAGE_SPLICE : STAGE_SMALL);
}

void pump_run(struct pump *pump)
{
    enum stage stage = forward(pump) ? STAGE_SMALL : STAGE_ENDED;
    while (stage != STAGE_ENDED) {
        if (stage == STAGE_SMALL)
            stage = move_small(pump);
        else if (stage == STAGE_SPLICE)
            stage = move_by_splice(pump);
        else
            stage = move_by_big_copy(pump);
    }
}
