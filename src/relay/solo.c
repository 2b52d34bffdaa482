#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "pump.h"

#define ROUNDS_PER_REFUSAL 256

void solo_init(struct solo *solo, struct relay_state *state)
{
    const struct relay_socket *sockets = state->relay->sockets;
    *solo = (struct solo){.state = state};
    solo->is_timed = sockets[RELAY_CLIENT].read_timeout > 0 || sockets[RELAY_TARGET].read_timeout > 0;
    if (solo->is_timed)
        state->pumps[RELAY_CLIENT].last_read = state->pumps[RELAY_TARGET].last_read = clock_now_coarse();
}

void solo_refused(struct solo *solo)
{
    solo->refusals_left = ROUNDS_PER_REFUSAL;
}

static bool may_read(const struct pump *pump)
{
    return !pump->over && pump->pending == 0;
}

static void end(struct pump *pump)
{
    pump->over = true;
    pump->is_torn = pump->pending > 0;
    pump->pending = 0;
}

static void note_read(struct pump *pump)
{
    if (pump_from(pump)->read_timeout > 0)
        pump->last_read = clock_now_coarse();
}

// False: some of it has to wait, or the direction is over.
static bool write_pending(struct pump *pump)
{
    ssize_t sent = pump_send(pump, MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        pump_write_failed(pump, errno);
        end(pump);
    }
    if (pump->pending > 0 || pump->over)
        return false;
    if (pump->is_closing)
        pump_finish(pump);
    return true;
}

// Writes what is pending, and what else has been read.
static void forward(struct pump *pump)
{
    do
        if (pump->pending > 0 && !write_pending(pump))
            break;
    while (pump_take(pump));
    if (pump->pending > 0 && !pump->stalled)
        pump->checked = clock_now_coarse();
}

static void move(struct pump *pump, short revents)
{
    ssize_t received = pump_receive(pump, SIZE_MAX, MSG_DONTWAIT);
    if (received < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return;
        pump_read_failed(pump, errno);
        end(pump);
        return;
    }
    if (received == 0)
        pump_end_of_stream(pump, (revents & (POLLHUP | POLLERR)) != 0);
    forward(pump);
    note_read(pump); // also if it was no whole record, or no data
    struct pump *writer = pump_twin(pump);
    if (pump->owes_reply && writer->pending == 0 && !writer->over) {
        pump->owes_reply = false;
        pump_reply(writer);
        forward(writer);
    }
}

// What poll() said of one side's socket.
static void serve(struct solo *solo, enum relay_side side, short revents)
{
    struct pump *reader = &solo->state->pumps[side];
    struct pump *writer = pump_twin(reader);
    bool was_asked = false;
    if (writer->pending > 0 && (revents & ~POLLIN) != 0) {
        forward(writer);
        note_read(writer); // it was not read from while that waited
        was_asked = true;
    }
    if (may_read(reader) && (revents & ~POLLOUT) != 0) {
        move(reader, revents);
        was_asked = true;
    }
    if (was_asked || (revents & (POLLHUP | POLLERR)) == 0)
        return;
    solo->hung_up[side] = true;
    pump_look_back(reader);
}

static struct pollfd poller_of(const struct solo *solo, enum relay_side side)
{
    const struct pump *reader = &solo->state->pumps[side];
    short events = 0;
    if (may_read(reader))
        events |= POLLIN;
    if (pump_twin(reader)->pending > 0)
        events |= POLLOUT;
    return (struct pollfd){.fd = events == 0 && solo->hung_up[side] ? -1 : reader->from, .events = events};
}

// How long until the read timeout of the pump's read side expires; INT64_MAX: it has none, or is not being read.
static int64_t silence_left(const struct pump *pump, int64_t now)
{
    int64_t timeout = pump_from(pump)->read_timeout;
    if (timeout == 0 || !may_read(pump))
        return INT64_MAX;
    int64_t last = atomic_load_explicit(&pump_twin(pump)->last_write, memory_order_relaxed);
    if (last < pump->last_read)
        last = pump->last_read;
    return timeout - (now - last);
}

static int64_t stall_left(const struct pump *pump, int64_t now)
{
    return pump->pending == 0 ? INT64_MAX : pump->checked + pump_slice(pump) - now;
}

static bool needs_clock(const struct solo *solo)
{
    const struct relay_state *state = solo->state;
    return solo->is_timed || state->grace_end != DEADLINE_NONE || state->pumps[RELAY_CLIENT].pending > 0 ||
           state->pumps[RELAY_TARGET].pending > 0;
}

static int wait_ms(const struct solo *solo)
{
    if (!needs_clock(solo))
        return -1;
    int64_t now = clock_now_coarse();
    int64_t least = deadline_left(solo->state->grace_end);
    for (unsigned i = 0; i < ARRAY_LENGTH(solo->state->pumps); i++) {
        int64_t silence = silence_left(&solo->state->pumps[i], now), stall = stall_left(&solo->state->pumps[i], now);
        if (silence < least)
            least = silence;
        if (stall < least)
            least = stall;
    }
    if (least == INT64_MAX)
        return -1;
    if (least <= 0)
        return 0;
    return least > (int64_t)INT_MAX * NS_PER_MS - NS_PER_MS ? INT_MAX : (int)((least + NS_PER_MS - 1) / NS_PER_MS);
}

static void check_times(struct solo *solo)
{
    if (!needs_clock(solo))
        return;
    int64_t now = clock_now_coarse();
    for (unsigned i = 0; i < ARRAY_LENGTH(solo->state->pumps); i++) {
        struct pump *pump = &solo->state->pumps[i];
        if (stall_left(pump, now) <= 0) {
            pump->checked = now;
            if (!pump_outlasts_stall(pump))
                end(pump);
        }
        if (silence_left(pump, now) <= 0) {
            pump_read_timed_out(pump);
            end(pump);
        }
    }
}

static bool has_ended(const struct relay_state *state)
{
    if (state->pumps[RELAY_CLIENT].over && state->pumps[RELAY_TARGET].over)
        return true;
    return state->grace_end != DEADLINE_NONE && deadline_left(state->grace_end) == 0;
}

// A write that waits for the peer holds up only its own direction on a thread of its own, and bulk is what splice() is
// for. Not within the grace: here it ends in time by itself.
static bool wants_second_thread(struct solo *solo)
{
    const struct pump *pumps = solo->state->pumps;
    bool wants = pumps[RELAY_CLIENT].pending > 0 || pumps[RELAY_TARGET].pending > 0 ||
                 pumps[RELAY_CLIENT].full >= PUMP_BULK_AFTER || pumps[RELAY_TARGET].full >= PUMP_BULK_AFTER;
    if (!wants || solo->state->grace_end != DEADLINE_NONE)
        return false;
    if (solo->refusals_left == 0)
        return true;
    solo->refusals_left--;
    return false;
}

bool solo_run(struct solo *solo)
{
    while (!has_ended(solo->state)) {
        struct pollfd sockets[] = {poller_of(solo, RELAY_CLIENT), poller_of(solo, RELAY_TARGET)};
        if (poll(sockets, ARRAY_LENGTH(sockets), wait_ms(solo)) > 0) {
            if (sockets[RELAY_CLIENT].revents != 0)
                serve(solo, RELAY_CLIENT, sockets[RELAY_CLIENT].revents);
            if (sockets[RELAY_TARGET].revents != 0)
                serve(solo, RELAY_TARGET, sockets[RELAY_TARGET].revents);
        }
        check_times(solo);
        if (wants_second_thread(solo) && !has_ended(solo->state))
            return false;
    }
    return true;
}
