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
    for (unsigned i = 0; i < ARRAY_LENGTH(shared->directions); i++) {
        int64_t interval = directions[i].from->keepalive_interval;
        if (interval > 0 && (engine->look_interval == 0 || interval < engine->look_interval))
            engine->look_interval = interval;
    }
    if (shared->is_timed)
        directions[0].last_read = directions[1].last_read = clock_now_coarse();
}

static void note_read(struct direction *direction)
{
    if (direction->shared->is_timed)
        direction->last_read = clock_now_coarse();
}

static void reply_if_due(struct direction *reader)
{
    struct direction *writer = reader->opposite;
    if (reader->is_reply_due && direction_state(writer) == DIRECTION_READING) {
        reader->is_reply_due = false;
        direction_reply(writer);
    }
}

// Inlined where it runs for every message.
__attribute__((always_inline)) static inline void read_side(struct direction *reader, bool may_be_reset)
{
    if (direction_move(reader, SIZE_MAX, may_be_reset) < 0)
        return;
    note_read(reader); // also if it was not a whole record, or not data
    reply_if_due(reader);
}

// Reads what may be the last of its direction. `others`: what poll() said of the other socket. Kept out of what runs
// for every message.
__attribute__((noinline)) static void read_to_end(const struct poll_engine *engine, struct direction *reader,
                                                  short revents, short others)
{
    const struct direction *writer = reader->opposite;
    bool may_be_reset = (revents & (POLLHUP | POLLERR)) != 0;
    if (direction_has_finished(writer) && others == 0 && !engine->hung_up[writer->side])
        reader->closable_at = atomic_load_explicit(&reader->from->bytes, memory_order_relaxed);
    // With POLLPRI a read may stop short of the urgent byte. What a TLS session says has to be looked at first.
    reader->is_end_next = reader->from->is_own_tcp && reader->receiver == NULL && !may_be_reset &&
                          (revents & (POLLRDHUP | POLLPRI)) == POLLRDHUP;
    read_side(reader, may_be_reset);
    reader->is_end_next = false;
    reader->closable_at = UINT64_MAX;
    // Its end is there, behind what was read, and poll() need not say so again.
    if ((revents & POLLRDHUP) != 0 && direction_state(reader) == DIRECTION_READING)
        read_side(reader, may_be_reset);
}

// Something was written to a target that lacks TCP_NODELAY, and more is to come.
static bool is_second_write_due(const struct direction *reader)
{
    return reader->to->is_unprepared && atomic_load_explicit(&reader->from->bytes, memory_order_relaxed) > 0;
}

// What poll() said of one side's socket, and of the other one.
static void serve(struct poll_engine *engine, enum relay_side side, short revents, short others)
{
    struct direction *reader = &engine->shared->directions[side], *writer = reader->opposite;
    bool has_hung_up = (revents & (POLLHUP | POLLERR)) != 0, was_asked = false;
    if (direction_is_writing(writer) && (revents & ~(POLLIN | POLLRDHUP | POLLPRI)) != 0) {
        (void)direction_forward(writer);
        note_read(writer); // its side was not read from while the write waited: the read timeout begins anew
        was_asked = true;
    }
    if (direction_state(reader) == DIRECTION_READING && (revents & ~POLLOUT) != 0) {
        was_asked = true;
        if (revents == POLLIN && !direction_has_finished(writer)) {
            if (is_second_write_due(reader))
                relay_prepare_target(engine->shared);
            read_side(reader, false);
        } else {
            read_to_end(engine, reader, revents, others);
        }
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
        events |= POLLIN | POLLRDHUP | POLLPRI;
    if (direction_is_writing(reader->opposite))
        events |= POLLOUT;
    return (struct pollfd){.fd = events == 0 && engine->hung_up[side] ? -1 : reader->from->fd, .events = events};
}

// How long until a write that waits is to be looked at; INT64_MAX: there is none.
static int64_t slice_left(const struct direction *direction, int64_t now)
{
    return direction_is_writing(direction) ? direction->stall_checked + direction_write_slice(direction) - now
                                           : INT64_MAX;
}

// What the peer of the read side is to have acknowledged when nothing is under way: a number that changes with that.
static uint64_t progress_towards(const struct direction *reader)
{
    return direction_opposite_bytes(reader) + (direction_has_finished(reader->opposite) ? 1 : 0);
}

// Whether a peer with a keepalive interval may owe an acknowledgement.
static bool may_be_owed(const struct poll_engine *engine, enum relay_side side)
{
    const struct direction *reader = &engine->shared->directions[side];
    return reader->from->keepalive_interval > 0 && engine->confirmed[side] != progress_towards(reader);
}

static inline bool needs_look(const struct poll_engine *engine)
{
    return engine->look_interval > 0 && (may_be_owed(engine, RELAY_CLIENT) || may_be_owed(engine, RELAY_TARGET));
}

// How long until peers are looked at; INT64_MAX: none has to be.
static int64_t look_left(struct poll_engine *engine, int64_t now)
{
    if (!needs_look(engine)) {
        engine->look_due = 0;
        return INT64_MAX;
    }
    if (engine->look_due == 0)
        engine->look_due = now + engine->look_interval;
    return engine->look_due - now;
}

static void look_at_peers(struct poll_engine *engine)
{
    engine->look_due = 0;
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        struct direction *reader = &engine->shared->directions[side];
        uint64_t progress = progress_towards(reader);
        if (may_be_owed(engine, (enum relay_side)side) && !direction_look_at_peer(reader))
            engine->confirmed[side] = progress;
    }
}

static bool is_writing(const struct poll_engine *engine)
{
    const struct direction *client = &engine->shared->directions[RELAY_CLIENT];
    return direction_is_writing(client) || direction_is_writing(client->opposite);
}

static bool needs_clock(const struct poll_engine *engine)
{
    const struct relay_shared *shared = engine->shared;
    return shared->is_timed || needs_look(engine) || shared->grace_end != DEADLINE_NONE || is_writing(engine);
}

// These two, with timeouts, are kept out of what runs for every message without any.
__attribute__((noinline)) static int wait_ms_until_due(struct poll_engine *engine)
{
    int64_t now = clock_now_coarse();
    int64_t least = deadline_sooner(deadline_left(engine->shared->grace_end), look_left(engine, now));
    for (unsigned i = 0; i < ARRAY_LENGTH(engine->shared->directions); i++) {
        const struct direction *direction = &engine->shared->directions[i];
        int64_t silence = direction_read_timeout_left(direction, now), slice = slice_left(direction, now);
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

__attribute__((noinline)) static void check_what_is_due(struct poll_engine *engine)
{
    int64_t now = clock_now_coarse();
    for (unsigned i = 0; i < ARRAY_LENGTH(engine->shared->directions); i++) {
        struct direction *direction = &engine->shared->directions[i];
        if (slice_left(direction, now) <= 0) {
            direction->stall_checked = now;
            (void)direction_check_write_timeout(direction);
        }
        if (direction_read_timeout_left(direction, now) <= 0)
            direction_read_timed_out(direction);
    }
    if (look_left(engine, now) <= 0)
        look_at_peers(engine);
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

static int rest_after_ms(const struct poll_engine *engine)
{
    return (int)(engine->shared->relay->rest_after / NS_PER_MS);
}

// How long it is to go on being silent before something comes of that, ms; INT_MAX: nothing does.
static int silence_left(const struct poll_engine *engine)
{
    int left = INT_MAX;
    if (engine->is_fast)
        return left;
    if (engine->rests)
        left = rest_after_ms(engine) - engine->silent_ms;
    if (engine->has_more_to_release && RELEASE_AFTER_MS - engine->silent_ms < left)
        left = RELEASE_AFTER_MS - engine->silent_ms;
    return left > 0 ? left : 0;
}

// It has been silent for so long that something comes of it. Returns whether it is to rest. Both are done once: only a
// socket that is served may make up for it.
__attribute__((noinline)) static bool use_silence(struct poll_engine *engine)
{
    relay_prepare_target(engine->shared);
    if (engine->rests && engine->silent_ms >= rest_after_ms(engine)) {
        engine->rests = false;
        if (relay_may_rest(engine->shared)) {
            engine->rested_at = clock_now_coarse();
            return true;
        }
    }
    if (engine->has_more_to_release && engine->silent_ms >= RELEASE_AFTER_MS) {
        relay_release(engine->shared);
        engine->has_more_to_release = false;
    }
    return false;
}

// The first thing that comes after a rest: was it worth its while?
__attribute__((noinline)) static void end_rest(struct poll_engine *engine)
{
    int64_t *after = &engine->shared->relay->rest_after;
    bool is_worthwhile = clock_now_coarse() - engine->rested_at >= REST_WORTHWHILE;
    engine->rested_at = 0;
    if (!is_worthwhile && *after < REST_AFTER_MAX)
        *after *= 2;
}

__attribute__((noinline)) static void look_at_pace(struct poll_engine *engine)
{
    int64_t now = clock_now_coarse();
    relay_prepare_target(engine->shared); // its silence may not be noticed
    engine->is_fast = now - engine->pace_began < PACE_MIN;
    engine->pace_began = now;
    engine->rounds = 0;
}

static void set_busy(struct poll_engine *engine, bool is_busy)
{
    if (engine->is_busy != is_busy)
        relay_carrier_note_busy(is_busy);
    engine->is_busy = is_busy;
    engine->busy_rounds = 0;
}

__attribute__((noinline)) static void look_whether_busy(struct poll_engine *engine)
{
    int64_t now = clock_now_coarse();
    bool is_always_carried = engine->shared->relay->is_always_carried;
    set_busy(engine, now - engine->busy_began <= BUSY_WITHIN || is_always_carried);
    engine->wants_carrier = is_always_carried || (engine->is_busy && relay_carrier_is_worthwhile());
    engine->busy_began = now;
}

static void end_silence(struct poll_engine *engine)
{
    engine->silent_ms = 0;
    if (++engine->busy_rounds >= BUSY_ROUNDS)
        look_whether_busy(engine);
    if (engine->rested_at != 0)
        end_rest(engine);
    if (++engine->rounds == ROUNDS_PER_PACE)
        look_at_pace(engine);
    engine->rests = engine->shared->relay->rest_after > 0;
    engine->has_more_to_release = engine->has_more_to_release || relay_has_more_to_release(engine->shared);
}

// Waits until one of the sockets, as poller_of() has them, or a timeout is to be looked at. Returns whether the relay
// is to rest.
static bool wait_and_serve(struct poll_engine *engine, struct pollfd sockets[2])
{
    int timeout = -1, silence = INT_MAX;
    if (needs_clock(engine))
        timeout = wait_ms_until_due(engine);
    if (timeout < 0 || !is_writing(engine)) // while a write waits, it is not silent
        silence = silence_left(engine);
    if (silence != INT_MAX && (timeout < 0 || timeout > silence))
        timeout = silence;
    int ready = poll(sockets, 2, timeout);
    if (ready == 0) {
        engine->silent_ms += silence == INT_MAX ? 0 : timeout;
        return use_silence(engine);
    }
    if (ready < 0)
        return false;
    short client = sockets[RELAY_CLIENT].revents, target = sockets[RELAY_TARGET].revents;
    if (client != 0)
        serve(engine, RELAY_CLIENT, client, target);
    if (target != 0)
        serve(engine, RELAY_TARGET, target, client);
    end_silence(engine);
    return false;
}

// Of what was touched before, on this thread: with TLS also by the handshake.
static void begin_silence(struct poll_engine *engine)
{
    engine->silent_ms = 0;
    engine->is_fast = false;
    engine->rounds = 0;
    engine->pace_began = engine->busy_began = clock_now_coarse();
    set_busy(engine, false);
    if (engine->shared->relay->is_always_carried)
        engine->busy_rounds = BUSY_ROUNDS - 1;
    engine->rests = engine->shared->relay->rest_after > 0 && engine->rested_at == 0;
    engine->has_more_to_release = relay_has_more_to_release(engine->shared);
}

// --- while a carrier serves it ---------------------------------------------------------------------------------------

static bool is_carriable(const struct poll_engine *engine)
{
    const struct direction *client = &engine->shared->directions[RELAY_CLIENT], *target = client->opposite;
    return direction_state(client) == DIRECTION_READING && direction_state(target) == DIRECTION_READING &&
           client->full_reads < BULK_AFTER && target->full_reads < BULK_AFTER &&
           engine->shared->grace_end == DEADLINE_NONE;
}

bool relay_poll_carry(struct poll_engine *engine, enum relay_side side)
{
    if (engine->busy_rounds < BUSY_ROUNDS)
        engine->busy_rounds++;
    read_side(&engine->shared->directions[side], true); // epoll's word may be old by now
    return is_carriable(engine);
}

int64_t relay_poll_next_look(struct poll_engine *engine)
{
    int64_t due = needs_clock(engine) ? wait_ms_until_due(engine) * NS_PER_MS : -1;
    return deadline_after(due < 0 || due > QUIET_AFTER ? QUIET_AFTER : due > 0 ? due : 1);
}

bool relay_poll_look(struct poll_engine *engine)
{
    int64_t now = clock_now_coarse();
    if (needs_clock(engine))
        check_what_is_due(engine);
    if (now - engine->busy_began < QUIET_AFTER)
        return is_carriable(engine);
    bool is_busy = engine->busy_rounds >= BUSY_ROUNDS;
    engine->busy_began = now;
    engine->busy_rounds = 0;
    return is_busy && is_carriable(engine);
}

// If nothing stands against it. Returns when it is to be gone on with here.
__attribute__((noinline)) static void be_carried(struct poll_engine *engine)
{
    engine->wants_carrier = false;
    if (!is_carriable(engine))
        return;
    relay_prepare_target(engine->shared);
    engine->busy_began = clock_now_coarse();
    engine->busy_rounds = 0;
    (void)relay_carrier_carry(engine);
    begin_silence(engine);
}

enum relay_poll_result relay_poll(struct poll_engine *engine)
{
    enum relay_poll_result result = RELAY_POLL_ENDED;
    engine->shared->io_flags = MSG_DONTWAIT;
    for (unsigned i = 0; i < ARRAY_LENGTH(engine->shared->directions); i++) // relay_pump.c leaves it to the next data
        reply_if_due(&engine->shared->directions[i]);
    begin_silence(engine);
    while (!has_ended(engine->shared)) {
        struct pollfd sockets[] = {poller_of(engine, RELAY_CLIENT), poller_of(engine, RELAY_TARGET)};
        if (!engine->is_begun)
            read_side(&engine->shared->directions[RELAY_CLIENT], true); // they had the time of the dial to come
        else if (wait_and_serve(engine, sockets)) {
            result = RELAY_POLL_RESTS;
            break;
        }
        engine->is_begun = true;
        if (needs_clock(engine))
            check_what_is_due(engine);
        if (engine->wants_carrier)
            be_carried(engine);
        if (wants_second_thread(engine) && !has_ended(engine->shared)) {
            result = RELAY_POLL_BUSY;
            break;
        }
    }
    set_busy(engine, false);
    return result;
}
