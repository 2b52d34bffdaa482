#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"
#include "bitflow/relay/pipe_pool.h"
#include "relay_internal.h"

// Measured on loopback, one stream. CPU time a byte, copying through 16 KiB being 1: copying through 64 KiB 0.61, 128
// KiB 0.53, 256 KiB 0.47; splice() through the pool's pipes 0.24 (and 2.3 times the bytes a second). With messages of
// 16 KiB splice() and copying cost the same, with 64 KiB splice() costs 0.7, with 200 KB 0.4.
#define BULK_BUFFER ((size_t)256 * 1024) // on the heap, for bulk without a pipe
#define SPLICE_CHUNK ((size_t)1024 * 1024)

#define SMALL_AFTER 8   // small reads in a row end bulk
#define RETRY_AFTER 256 // reads without a pipe before the pool is asked again

// The ways in which a flow is moved; each goes on until the flow suits it no more, and names the next one.
enum mode { MODE_SMALL, MODE_SPLICE, MODE_BULK_COPY, MODE_ONE_THREAD, MODE_OVER };

int64_t pump_patience(const struct direction *direction)
{
    return deadline_sooner(direction_least_silence(direction), QUIET_AFTER);
}

static void begin_silence(struct direction *direction, int64_t waited)
{
    direction->is_silent = true;
    direction->is_silence_sampled = false;
    direction->look_interval = QUIET_AFTER;
    direction->opposite_bytes = direction_opposite_bytes(direction);
    if (direction->shared->is_timed)
        direction->last_read = clock_now_coarse() - waited;
}

// A read has found nothing, in time.
static enum mode endure_silence(struct direction *direction)
{
    int fd = direction->from->fd;
    bool has_waited = !relay_is_nonblocking(fd);
    if (!direction->is_silent)
        begin_silence(direction, has_waited ? pump_patience(direction) : 0);
    int64_t left;
    while ((left = direction_check_read_timeout(direction)) > 0) {
        if (!has_waited) {
            struct pollfd poller = {.fd = fd, .events = POLLIN};
            if (deadline_poll(&poller, 1, deadline_after(deadline_sooner(left, QUIET_AFTER))) != 0)
                return MODE_SMALL;
            has_waited = true;
            continue;
        }
        enum quiet quiet = relay_stay_quiet(direction, left);
        if (quiet != QUIET_LASTS)
            return quiet == QUIET_ENDS ? MODE_SMALL : MODE_ONE_THREAD;
    }
    return MODE_OVER;
}

static enum mode move_small(struct direction *direction)
{
    while (direction->full_reads < BULK_AFTER) {
        ssize_t received = direction_move(direction, SIZE_MAX, true);
        if (direction_is_over(direction))
            return MODE_OVER;
        enum mode next = MODE_SMALL;
        if (received >= 0)
            direction->is_silent = false;
        else
            next = endure_silence(direction);
        if (next != MODE_SMALL)
            return next;
    }
    direction->full_reads = 0;
    return direction->can_splice ? MODE_SPLICE : MODE_BULK_COPY;
}

// After bulk, when what it held is given back. `was_idle`: a read has found nothing, in time.
static enum mode end_bulk(struct direction *direction, bool was_idle, enum mode next)
{
    if (direction_is_over(direction))
        return MODE_OVER;
    direction->full_reads = 0;
    return was_idle ? endure_silence(direction) : next;
}

// The pipe's bytes go out by read and send: for a socket that takes no splice.
static bool empty_by_copy(struct direction *direction, const struct bulk_pipe *bulk_pipe, size_t size)
{
    while (size > 0) {
        size_t part = size < direction->buffers.input_size ? size : direction->buffers.input_size;
        ssize_t taken = read(bulk_pipe->read_end, direction->buffers.input, part);
        if (taken < 0 && errno == EINTR)
            continue;
        if (taken <= 0) {
            direction_enter(direction, DIRECTION_WRITING); // what is left in the pipe
            direction_write_failed(direction, taken < 0 ? errno : EIO);
            return false;
        }
        direction->consumed = 0;
        direction->filled = (size_t)taken;
        if (!direction_forward(direction))
            return false;
        size -= (size_t)taken;
    }
    return true;
}

// Empties the pipe, which has `size` bytes, into the write side. False: the direction is over, some may be left in it.
static bool splice_out(struct direction *direction, const struct bulk_pipe *bulk_pipe, size_t size)
{
    direction_enter(direction, DIRECTION_WRITING);
    for (;;) {
        // Never SPLICE_F_MORE: it would hold back the last segment.
        ssize_t moved = splice(bulk_pipe->read_end, NULL, direction->to->fd, NULL, size, SPLICE_F_MOVE);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved < 0 && errno == EINVAL) {
            direction->can_splice = false;
            direction_enter(direction, DIRECTION_READING);
            return empty_by_copy(direction, bulk_pipe, size);
        }
        if (moved == 0 || (moved < 0 && errno != EAGAIN)) {
            direction_write_failed(direction, moved == 0 ? EPIPE : errno);
            return false;
        }
        if (moved > 0) {
            size -= (size_t)moved;
            direction_account(direction, (size_t)moved);
        }
        if (size == 0)
            return direction_written(direction);
        if (!direction_await_peer(direction))
            return false;
    }
}

static enum mode move_by_splice(struct direction *direction)
{
    struct bulk_pipe bulk_pipe;
    if (!pipe_pool_take(&bulk_pipe))
        return MODE_BULK_COPY;
    bool was_idle = false;
    for (unsigned small = 0; small < SMALL_AFTER && !was_idle && direction->can_splice;) {
        ssize_t moved = splice(direction->from->fd, NULL, bulk_pipe.write_end, NULL, SPLICE_CHUNK, SPLICE_F_MOVE);
        if (moved > 0) {
            if (!splice_out(direction, &bulk_pipe, (size_t)moved)) {
                pipe_pool_discard(&bulk_pipe);
                return MODE_OVER;
            }
            small = (size_t)moved < SMALL_READ ? small + 1 : 0;
        } else if (moved == 0) {
            break; // the end of the stream, or urgent data, at which splice() stops too: the next recv() tells which
        } else if (errno == EAGAIN) {
            was_idle = true;
        } else if (errno == EINVAL) {
            direction->can_splice = false;
        } else if (errno != EINTR) {
            direction_read_failed(direction, errno);
            break;
        }
    }
    pipe_pool_give(&bulk_pipe);
    return end_bulk(direction, was_idle, MODE_SMALL);
}

static bool create_bulk_buffers(const struct direction *direction, struct buffers *buffers)
{
    *buffers = (struct buffers){.input_size = BULK_BUFFER, .input = malloc(BULK_BUFFER)};
    if (direction->sender != NULL) {
        buffers->output_size = TLS_SEALED_SIZE(BULK_BUFFER);
        buffers->output = malloc(buffers->output_size);
    }
    if (buffers->input != NULL && (direction->sender == NULL || buffers->output != NULL))
        return true;
    free(buffers->input);
    free(buffers->output);
    return false;
}

// What is read is to be written without waiting: a peer that takes nothing more would keep a big buffer full. So no
// more is read than the kernel has room for on the other side, but for its own overhead. (While the peer is slow but
// takes something, a write is woken up when a third of the room is free: then reads are big again.)
static size_t bulk_share(const struct direction *direction)
{
    size_t room = socket_room(direction->to->fd);
    size_t fits = room - room / 8;
    return fits > INPUT_SIZE ? fits : INPUT_SIZE;
}

static enum mode move_by_big_copy(struct direction *direction)
{
    struct buffers bulk;
    if (!create_bulk_buffers(direction, &bulk))
        return MODE_SMALL;
    direction->saved_buffers = direction->buffers;
    direction_change_buffers(direction, &bulk);
    bool was_idle = false;
    unsigned small = 0;
    for (unsigned reads = 0; small < SMALL_AFTER && !was_idle; reads++) {
        if (reads == RETRY_AFTER && direction->can_splice)
            break;
        ssize_t received = direction_move(direction, bulk_share(direction), true);
        if (direction_is_over(direction)) {
            direction->filled = direction->consumed = 0;
            break;
        }
        was_idle = received < 0;
        small = received < (ssize_t)SMALL_READ ? small + 1 : 0;
    }
    direction_change_buffers(direction, &direction->saved_buffers); // all is written, but for a part of a record
    direction->saved_buffers = (struct buffers){.input = NULL};
    free(bulk.input);
    free(bulk.output);
    return end_bulk(direction, was_idle, was_idle || small == SMALL_AFTER ? MODE_SMALL : MODE_SPLICE);
}

bool relay_pump(struct direction *direction)
{
    direction->is_stalled = false; // the write that waits has a new thread, which begins to count anew
    direction->is_silent = false;
    enum mode mode = direction_forward(direction) ? MODE_SMALL : MODE_OVER;
    while (mode < MODE_ONE_THREAD) {
        if (mode == MODE_SMALL)
            mode = move_small(direction);
        else if (mode == MODE_SPLICE)
            mode = move_by_splice(direction);
        else
            mode = move_by_big_copy(direction);
    }
    return mode == MODE_OVER;
}
