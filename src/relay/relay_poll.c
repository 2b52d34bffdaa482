#include <limits.h>
#include <poll.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "relay_internal.h"

void relay_poll_init(struct poll_engine *engine, struct relay_shared *shared)
{
    struct direction *directions = shared->directions;
    *engine = (struct poll_engine){.shared = shared};
    engine->has_read_timeout = directions[0].from->read_timeout > 0 || directions[1].from->read_timeout > 0;
    if (engine->has_read_timeout)
        directions[0].last_read = directions[1].last_read = clock_now_coarse();
}

static void note_read(struct direction *direction)
{
    if (direction->from->read_timeout > 0)
        direction->last_read = clock_now_coarse();
}

static void read_side(struct direction *reader, bool may_be_reset)
{
    struct direction *writer = reader->opposite;
    if (direction_move(reader, SIZE_MAX, may_be_reset) < 0)
        return;
    note_read(reader); // also if it was not a whole record, or not data
    if (reader->is_reply_due && direction_state(writer) == DIRECTION_READING) {
        reader->is_reply_due = false;
        direction_reply(writer);
    }
}

// What poll() said of one side's socket.
static void serve(struct poll_engine *engine, enum relay_side side, short revents)
{
    struct direction *reader = &engine->shared->directions[side], *writer = reader->opposite;
    bool has_hung_up = (revents & (POLLHUP | POLLERR)) != 0, was_asked = false;
    if (direction_is_writing(writer) && (revents & ~POLLIN) != 0) {
        (void)direction_forward(writer);
        note_read(writer); // its side was not read from while the write waited: the read timeout begins anew
        was_asked = true;
    }
    if (direction_state(reader) == DIRECTION_READING && (revents & ~POLLOUT) != 0) {
        was_asked = true;
        read_side(reader, has_hung_up);
    }
    if (was_asked || !has_hung_up)
        return;
    engine->hung_up[side] = true;
    direction_check_reset(reader);
}

static struct pollfd poller_of(const struct poll_engine *engine, enum relay_side side)
{
    const struct direction *reader = &engine->shared->directions[side];
    short events = 0;
    if (direction_state(reader) == DIRECTION_READING)
        events |= POLLIN;
    if (direction_is_writing(reader->opposite))
        events |= POLLOUT;
    return (struct pollfd){.fd = events == 0 && engine->hung_up[side] ? -1 : reader->from->fd, .events = events};
}

// How long until the read timeout expires; INT64_MAX: there is none, or the side is not being read.
static int64_t read_timeout_left(const struct direction *direction, int64_t now)
{
    int64_t timeout = direction->from->read_timeout;
    if (timeout == 0 || direction_state(direction) != DIRECTION_READING)
        return INT64_MAX;
    int64_t last = atomic_load_explicit(&direction->opposite->last_write, memory_order_relaxed);
    if (last < direction->last_read)
        last = direction->last_read;
    return timeout - (now - last);
}

// How long until a write that waits is to be looked at; INT64_MAX: there is none.
static int64_t slice_left(const struct direction *direction, int64_t now)
{
    return direction_is_writing(direction) ? direction->stall_checked + direction_write_slice(direction) - now
                                           : INT64_MAX;
}

static bool needs_clock(const struct poll_engine *engine)
{
    const struct relay_shared *shared = engine->shared;
    return engine->has_read_timeout || shared->grace_end != DEADLINE_NONE ||
           direction_is_writing(&shared->directions[0]) || direction_is_writing(&shared->directions[1]);
}

static int wait_ms(const struct poll_engine *engine)
{
    if (!needs_clock(engine))
        return -1;
    int64_t now = clock_now_coarse();
    int64_t least = deadline_left(engine->shared->grace_end);
    for (unsigned i = 0; i < ARRAY_LENGTH(engine->shared->directions); i++) {
        const struct direction *direction = &engine->shared->directions[i];
        int64_t silence = read_timeout_left(direction, now), slice = slice_left(direction, now);
        if (silence < least)
            least = silence;
        if (slice < least)
            least = slice;
    }
    if (least == INT64_MAX)
        return -1;
    if (least <= 0)
        return 0;
    return least > (int64_t)INT_MAX * NS_PER_MS - NS_PER_MS ? INT_MAX : (int)((least + NS_PER_MS - 1) / NS_PER_MS);
}

static void check_timeouts(struct poll_engine *engine)
{
    if (!needs_clock(engine))
        return;
    int64_t now = clock_now_coarse();
    for (unsigned i = 0; i < ARRAY_LENGTH(engine->shared->directions); i++) {
        struct direction *direction = &engine->shared->directions[i];
        if (slice_left(direction, now) <= 0) {
            direction->stall_checked = now;
            (void)direction_check_write_timeout(direction);
        }
        if (read_timeout_left(direction, now) <= 0)
            direction_read_timed_out(direction);
    }
}

static bool has_ended(const struct relay_shared *shared)
{
    if (direction_is_over(&shared->directions[0]) && direction_is_over(&shared->directions[1]))
        return true;
    return shared->grace_end != DEADLINE_NONE && deadline_left(shared->grace_end) == 0;
}

// A write that waits for the peer holds up only its own direction on a thread of its own, and bulk is what splice() is
// for. Not within the grace: here it ends in time by itself.
static bool wants_second_thread(struct poll_engine *engine)
{
    const struct direction *client = &engine->shared->directions[RELAY_CLIENT], *target = client->opposite;
    bool wants = direction_is_writing(client) || direction_is_writing(target) || client->full_reads >= BULK_AFTER ||
                 target->full_reads >= BULK_AFTER;
    if (!wants || engine->shared->grace_end != DEADLINE_NONE)
        return false;
    if (engine->refusals_left == 0)
        return true;
    engine->refusals_left--;
    return false;
}

bool relay_poll(struct poll_engine *engine)
{
    engine->shared->io_flags = MSG_DONTWAIT;
    while (!has_ended(engine->shared)) {
        struct pollfd sockets[] = {poller_of(engine, RELAY_CLIENT), poller_of(engine, RELAY_TARGET)};
        if (!engine->is_begun) {
            read_side(&engine->shared->directions[RELAY_CLIENT], true); // they had the time of the dial to come
        } else if (poll(sockets, ARRAY_LENGTH(sockets), wait_ms(engine)) > 0) {
            if (sockets[RELAY_CLIENT].revents != 0)
                serve(engine, RELAY_CLIENT, sockets[RELAY_CLIENT].revents);
            if (sockets[RELAY_TARGET].revents != 0)
                serve(engine, RELAY_TARGET, sockets[RELAY_TARGET].revents);
        }
        engine->is_begun = true;
        check_timeouts(engine);
        if (wants_second_thread(engine) && !has_ended(engine->shared))
            return false;
    }
    return true;
}
