#include "bitflow/relay/relay.h"

#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/net/socket.h"
#include "relay_internal.h"

// What the two threads share, and how the second one hands the relay back: each announces itself when its direction is
// over, and wakes the other only if that one waits. In the usual case that the second thread ends first, nobody is
// woken.
//
// The second thread also leaves when its direction is quiet, provided that the caller's direction is quiet, too, or
// over. The caller must not be moving data then: it would do so by calls that block, and nobody would serve the other
// direction. So the caller says when it is quiet, and takes that back before it moves data; the second thread leaves by
// a compare and swap that finds it said. It wakes nobody: the caller waits for both sockets while it is quiet, and
// looks every QUIET_AFTER whether it is alone.
//
// A silent direction looks at its opposite after QUIET_AFTER, and each time that it finds that one busy it waits twice
// as long for its own next data, up to LOOK_INTERVAL_MAX: a stream that goes one way wakes the other way's thread once
// a minute. So directions that fall quiet together part within a few seconds; where one had been silent for long, it is
// found within LOOK_INTERVAL_MAX and these seconds. Data, ends and resets are not waited for by looking.
enum {
    CALLER_WAITS = 1, // for the second thread to be gone
    SECOND_WAITS = 2, // for the caller's direction to end, within the grace
    SECOND_GONE = 4,  // it touches nothing of the relay any more, but for the caller's semaphore if that waits
    CALLER_QUIET = 8, // it moves nothing until it has taken this back
};

#define LOOK_INTERVAL_MAX (64 * QUIET_AFTER)

struct handoff {
    struct relay_shared shared;
    struct poll_engine poll;
    _Atomic unsigned flags;
    sem_t caller_wake;
    sem_t second_wake;
};

// What the directions of a relay with TLS begin with, by the side that is read from. Not on the heap: there the output
// would lie where the handshake has just had its buffers, in pages that are touched already.
struct stack_buffers {
    uint8_t input[2][INPUT_SIZE];
    uint8_t output[2][OUTPUT_SIZE];
};

static void init_direction(struct relay_shared *shared, enum relay_side side)
{
    enum relay_side other = relay_other(side);
    struct direction *direction = &shared->directions[side];
    direction->side = side;
    direction->from = &shared->relay->sockets[side];
    direction->to = &shared->relay->sockets[other];
    atomic_init(&direction->last_write, INT64_MIN / 2);
    if (direction->from->tls != NULL)
        direction->receiver = direction->from->tls->receiver;
    if (direction->to->tls != NULL) {
        direction->sender = direction->to->tls->sender;
        direction->record_limit = direction->to->tls->record_limit;
    }
    direction->closable_at = UINT64_MAX;
    direction->can_splice = direction->receiver == NULL && direction->sender == NULL;
}

// What of a direction points into its relay's stack, or is told by the other threads' sides.
static void link_direction(struct relay_shared *shared, enum relay_side side)
{
    struct direction *direction = &shared->directions[side];
    direction->shared = shared;
    direction->opposite = &shared->directions[relay_other(side)];
    direction->pieces = &direction->only_piece;
    direction->pieces_max = 1;
    direction->consumed = direction->filled = 0;
}

static void init_handoff(struct handoff *handoff, struct relay *relay, struct failure *failure)
{
    *handoff = (struct handoff){.shared = {.relay = relay, .failure = failure, .grace_end = DEADLINE_NONE}};
    atomic_init(&handoff->shared.first_finished, -1);
    handoff->shared.is_timed = relay->half_close_timeout > 0 || relay->sockets[RELAY_CLIENT].read_timeout > 0 ||
                               relay->sockets[RELAY_TARGET].read_timeout > 0;
    init_direction(&handoff->shared, RELAY_CLIENT);
    init_direction(&handoff->shared, RELAY_TARGET);
    relay_poll_init(&handoff->poll, &handoff->shared);
}

// Both directions are idle: their buffers are empty, and nothing else of theirs is on the stack. False: no memory.
static bool begin_rest(const struct handoff *handoff, struct relay *relay)
{
    relay->rest = malloc(sizeof *relay->rest);
    if (relay->rest != NULL)
        *relay->rest = *handoff;
    return relay->rest != NULL;
}

static void end_rest(struct handoff *handoff, struct relay *relay)
{
    *handoff = *relay->rest;
    free(relay->rest);
    relay->rest = NULL;
    handoff->poll.shared = &handoff->shared;
}

static void wait_for(sem_t *wake)
{
    while (sem_wait(wake) != 0 && errno == EINTR)
        ;
}

// Gives the opposite of a direction that has failed the grace's time to end; then ends it, for it may be stuck in a
// write.
static void wait_within_grace(const struct relay_shared *shared, sem_t *wake)
{
    struct timespec until = clock_timespec(shared->grace_end);
    int result;
    do
        result = sem_clockwait(wake, CLOCK_MONOTONIC, &until);
    while (result != 0 && errno == EINTR);
    if (result == 0)
        return;
    (void)shutdown(shared->relay->sockets[RELAY_CLIENT].fd, SHUT_RDWR);
    (void)shutdown(shared->relay->sockets[RELAY_TARGET].fd, SHUT_RDWR);
    wait_for(wake);
}

static void run_second_thread(void *argument)
{
    struct handoff *handoff = argument;
    struct direction *direction = &handoff->shared.directions[RELAY_TARGET];
    thread_set_name(handoff->shared.relay->second_thread_name);
    if (!relay_pump(direction))
        return;
    if (direction->has_failed) {
        unsigned before = atomic_fetch_or(&handoff->flags, SECOND_WAITS);
        if ((before & CALLER_WAITS) == 0)
            wait_within_grace(&handoff->shared, &handoff->second_wake);
    }
    unsigned before = atomic_fetch_or(&handoff->flags, SECOND_GONE);
    if ((before & CALLER_WAITS) != 0)
        (void)sem_post(&handoff->caller_wake);
}

static void await_second_thread(struct handoff *handoff)
{
    unsigned before = atomic_fetch_or(&handoff->flags, CALLER_WAITS);
    if ((before & SECOND_GONE) != 0)
        return;
    if ((before & SECOND_WAITS) != 0)
        (void)sem_post(&handoff->second_wake);
    if (handoff->shared.directions[RELAY_CLIENT].has_failed)
        wait_within_grace(&handoff->shared, &handoff->caller_wake);
    else
        wait_for(&handoff->caller_wake);
    // Orders what the second thread wrote before what follows.
    (void)atomic_load(&handoff->flags);
}

// The second thread's: whether it has left.
static bool second_leaves(struct handoff *handoff)
{
    unsigned quiet = CALLER_QUIET;
    if (atomic_compare_exchange_strong(&handoff->flags, &quiet, CALLER_QUIET | SECOND_GONE))
        return true;
    unsigned over = CALLER_WAITS;
    if (!atomic_compare_exchange_strong(&handoff->flags, &over, CALLER_WAITS | SECOND_GONE))
        return false;
    (void)sem_post(&handoff->caller_wake);
    return true;
}

// What begins to count without a word: the silence from when the opposite direction ends, and an acknowledgement that
// its peer owes.
static int64_t look_limit(const struct direction *direction)
{
    int64_t limit = direction_least_silence(direction), interval = direction->from->keepalive_interval;
    if (interval > 0 && interval < limit)
        limit = interval;
    return limit > QUIET_AFTER ? limit : QUIET_AFTER;
}

// Waits for data, longer each time, while the opposite direction is busy; at most until `end`.
static enum quiet await_data(struct direction *direction, int64_t end)
{
    // Of the other side only that it has hung up: that may be a reset that its own direction, being over, does not see.
    // Then it is looked as often as at first, for the thread that is left when the other has gone sees to it.
    struct pollfd pollers[] = {{.fd = direction->from->fd, .events = POLLIN}, {.fd = direction->to->fd}};
    int64_t soon = deadline_sooner(end, deadline_after(QUIET_AFTER));
    int64_t interval = deadline_sooner(direction->look_interval, look_limit(direction));
    int ready = deadline_poll(pollers, ARRAY_LENGTH(pollers), deadline_sooner(end, deadline_after(interval)));
    if (direction->look_interval < LOOK_INTERVAL_MAX)
        direction->look_interval *= 2;
    if (ready > 0 && pollers[0].revents == 0)
        ready = deadline_poll(pollers, 1, soon);
    return ready == 0 ? QUIET_LASTS : QUIET_ENDS;
}

static enum quiet second_stays_quiet(struct handoff *handoff, struct direction *direction, int64_t left)
{
    // The caller may take so long to see that it is alone with the read timeout.
    if (left > QUIET_AFTER && second_leaves(handoff))
        return QUIET_ONE_THREAD;
    uint64_t seen = direction->opposite_bytes;
    direction->opposite_bytes = direction_opposite_bytes(direction);
    int64_t end = deadline_after(left);
    if (direction->opposite_bytes != seen || direction_is_writing(direction->opposite))
        return await_data(direction, end);
    struct pollfd poller = {.fd = direction->from->fd, .events = POLLIN}; // the caller may be about to say it
    end = deadline_sooner(end, deadline_after(QUIET_AFTER));
    return deadline_poll(&poller, 1, end) == 0 ? QUIET_LASTS : QUIET_ENDS;
}

static enum quiet caller_stays_quiet(struct handoff *handoff, struct direction *direction, int64_t left)
{
    // What the other side sends is for the second thread, if that is there: its direction is busy.
    struct pollfd pollers[] = {{.fd = direction->from->fd, .events = POLLIN},
                               {.fd = direction->to->fd, .events = POLLIN}};
    int64_t end = deadline_after(left);
    if ((atomic_fetch_or(&handoff->flags, CALLER_QUIET) & SECOND_GONE) != 0)
        return QUIET_ONE_THREAD;
    int64_t deadline = deadline_sooner(end, deadline_after(QUIET_AFTER));
    int ready = deadline_poll(pollers, ARRAY_LENGTH(pollers), deadline);
    if ((atomic_fetch_and(&handoff->flags, ~(unsigned)CALLER_QUIET) & SECOND_GONE) != 0)
        return QUIET_ONE_THREAD;
    if (pollers[0].revents != 0)
        return QUIET_ENDS;
    if (ready == 0 && !direction_is_writing(direction->opposite))
        return QUIET_LASTS;
    return await_data(direction, end);
}

enum quiet relay_stay_quiet(struct direction *direction, int64_t left)
{
    struct handoff *handoff = (struct handoff *)direction->shared; // its first member
    bool is_second = direction->side == RELAY_TARGET && (atomic_load(&handoff->flags) & SECOND_GONE) == 0;
    return is_second ? second_stays_quiet(handoff, direction, left) : caller_stays_quiet(handoff, direction, left);
}

void relay_prepare_target(struct relay_shared *shared)
{
    struct relay_socket *target = &shared->relay->sockets[RELAY_TARGET];
    if (!target->is_unprepared)
        return;
    target->is_unprepared = false;
    socket_set_nodelay(target->fd);
    socket_set_keepalive(target->fd, 0);
}

// Goes on with a thread for each direction that is not over, until both are over or quiet. False: there is no second
// thread to be had.
static bool run_pumps(struct handoff *handoff)
{
    struct relay_shared *shared = &handoff->shared;
    struct direction *client = &shared->directions[RELAY_CLIENT], *target = &shared->directions[RELAY_TARGET];
    bool takes_two = !direction_is_over(client) && !direction_is_over(target);
    shared->io_flags = 0;
    relay_prepare_target(shared);
    for (unsigned i = 0; i < ARRAY_LENGTH(shared->relay->sockets); i++) {
        struct relay_socket *socket = &shared->relay->sockets[i];
        if (socket->is_nonblocking)
            socket_set_blocking(socket->fd, true);
        socket->is_nonblocking = false;
    }
    // Both timeouts are set: an inherited socket may come with others.
    for (unsigned i = 0; i < ARRAY_LENGTH(shared->directions); i++) {
        const struct direction *direction = &shared->directions[i];
        socket_set_receive_timeout(direction->from->fd, pump_patience(direction));
        socket_set_send_timeout(direction->to->fd, direction_write_slice(direction));
    }
    atomic_store(&handoff->flags, takes_two ? 0 : SECOND_GONE);
    if (takes_two && !thread_pool_run(shared->relay->threads, run_second_thread, handoff, NULL))
        return false;
    bool is_over = relay_pump(direction_is_over(client) ? target : client);
    if (takes_two && is_over)
        await_second_thread(handoff);
    client->full_reads = target->full_reads = 0;
    return true;
}

// False: it rests.
static bool run(struct handoff *handoff, struct relay_result *result)
{
    enum relay_poll_result polled;
    while ((polled = relay_poll(&handoff->poll)) != RELAY_POLL_ENDED) {
        if (polled == RELAY_POLL_RESTS) {
            if (begin_rest(handoff, handoff->shared.relay))
                return false;
        } else if (!run_pumps(handoff)) {
            handoff->poll.refusals_left = ROUNDS_PER_REFUSAL;
        }
    }
    relay_conclude(&handoff->shared, result);
    return true;
}

// This and the next one are functions of their own so that each kind of relay has its buffers alone on the stack, and
// below its state: that then shares a page with the caller's frames.

__attribute__((noinline)) static bool run_plain(struct handoff *handoff, struct relay_result *result)
{
    uint8_t inputs[2][FIRST_INPUT_SIZE];
    struct direction *directions = handoff->shared.directions;
    for (unsigned side = 0; side < ARRAY_LENGTH(inputs); side++) {
        directions[side].first_input = inputs[side];
        directions[side].buffers = (struct buffers){.input = inputs[side], .input_size = sizeof inputs[side]};
    }
    bool is_over = run(handoff, result);
    direction_shrink(&directions[RELAY_CLIENT]);
    direction_shrink(&directions[RELAY_TARGET]);
    return is_over;
}

__attribute__((noinline)) static bool run_with_tls(struct handoff *handoff, struct relay_result *result)
{
    struct stack_buffers buffers;
    struct iovec pieces[2][PIECES_MAX];
    handoff->shared.stack_buffers = (uint8_t *)&buffers;
    handoff->shared.stack_buffers_size = sizeof buffers;
    for (unsigned side = 0; side < ARRAY_LENGTH(handoff->shared.directions); side++) {
        struct direction *direction = &handoff->shared.directions[side];
        direction->buffers.input = buffers.input[side];
        direction->buffers.input_size = direction->receiver != NULL ? INPUT_SIZE : SMALL_READ;
        if (direction->sender != NULL) {
            direction->buffers.output = buffers.output[side];
            direction->buffers.output_size = OUTPUT_SIZE;
        } else { // a record is a piece
            direction->pieces = pieces[side];
            direction->pieces_max = PIECES_MAX;
        }
    }
    return run(handoff, result);
}

bool relay_run(struct relay *relay, struct relay_result *result, struct failure *failure)
{
    struct handoff handoff;
    if (relay->rest == NULL)
        init_handoff(&handoff, relay, failure);
    else
        end_rest(&handoff, relay);
    link_direction(&handoff.shared, RELAY_CLIENT);
    link_direction(&handoff.shared, RELAY_TARGET);
    (void)sem_init(&handoff.caller_wake, 0, 0);
    (void)sem_init(&handoff.second_wake, 0, 0);
    handoff.shared.stack_floor = (uintptr_t)__builtin_frame_address(0) - RELEASE_DEPTH;
    bool is_plain = relay->sockets[RELAY_CLIENT].tls == NULL && relay->sockets[RELAY_TARGET].tls == NULL;
    bool is_over = is_plain ? run_plain(&handoff, result) : run_with_tls(&handoff, result);
    (void)sem_destroy(&handoff.caller_wake);
    (void)sem_destroy(&handoff.second_wake);
    return is_over;
}
