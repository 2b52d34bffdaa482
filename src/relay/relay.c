#include "bitflow/relay/relay.h"

#include <errno.h>
#include <semaphore.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/net/socket.h"
#include "relay_internal.h"

// What the two threads share, and how the second one hands the relay back: each announces itself when its direction is
// over, and wakes the other only if that one waits. In the usual case that the second thread ends first, nobody is
// woken.
enum {
    CALLER_WAITS = 1, // for the second thread to be gone
    SECOND_WAITS = 2, // for the caller's direction to end, within the grace
    SECOND_GONE = 4,  // it touches nothing of the relay any more, but for the caller's semaphore if that waits
};

struct handoff {
    struct relay_shared shared;
    struct poll_engine poll;
    _Atomic unsigned flags;
    sem_t caller_wake;
    sem_t second_wake;
};

// What the directions begin with, by the side that is read from. Not on the heap: there the output would lie where the
// handshake has just had its buffers, in pages that are touched already.
struct stack_buffers {
    uint8_t input[2][INPUT_SIZE];
    uint8_t output[2][OUTPUT_SIZE];
};

static void init_direction(struct relay_shared *shared, enum relay_side side, struct stack_buffers *buffers)
{
    enum relay_side other = relay_other(side);
    struct direction *direction = &shared->directions[side];
    direction->shared = shared;
    direction->opposite = &shared->directions[other];
    direction->side = side;
    direction->from = &shared->relay->sockets[side];
    direction->to = &shared->relay->sockets[other];
    direction->buffers = (struct buffers){.input = buffers->input[side], .input_size = SMALL_READ};
    atomic_init(&direction->last_write, INT64_MIN / 2);
    if (direction->from->tls != NULL) {
        direction->receiver = direction->from->tls->receiver;
        direction->buffers.input_size = INPUT_SIZE;
    }
    if (direction->to->tls != NULL) {
        direction->sender = direction->to->tls->sender;
        direction->record_limit = direction->to->tls->record_limit;
        direction->buffers.output = buffers->output[side];
        direction->buffers.output_size = OUTPUT_SIZE;
    }
    direction->can_splice = direction->receiver == NULL && direction->sender == NULL;
}

static void init_handoff(struct handoff *handoff, struct relay *relay, struct failure *failure,
                         struct stack_buffers *buffers)
{
    *handoff = (struct handoff){.shared = {.relay = relay, .failure = failure, .grace_end = DEADLINE_NONE}};
    atomic_init(&handoff->shared.first_finished, -1);
    init_direction(&handoff->shared, RELAY_CLIENT, buffers);
    init_direction(&handoff->shared, RELAY_TARGET, buffers);
    relay_poll_init(&handoff->poll, &handoff->shared);
    (void)sem_init(&handoff->caller_wake, 0, 0);
    (void)sem_init(&handoff->second_wake, 0, 0);
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
    relay_pump(direction);
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

// Goes on with a thread for each direction that is not over. False: there is no second thread to be had.
static bool run_pumps(struct handoff *handoff)
{
    struct relay_shared *shared = &handoff->shared;
    struct direction *client = &shared->directions[RELAY_CLIENT], *target = &shared->directions[RELAY_TARGET];
    bool takes_two = !direction_is_over(client) && !direction_is_over(target);
    shared->io_flags = 0;
    for (unsigned i = 0; i < ARRAY_LENGTH(shared->relay->sockets); i++) {
        struct relay_socket *socket = &shared->relay->sockets[i];
        if (socket->is_nonblocking)
            socket_set_blocking(socket->fd, true);
        socket->is_nonblocking = false;
    }
    // Both timeouts are set, be it to none: an inherited socket may come with others.
    for (unsigned i = 0; i < ARRAY_LENGTH(shared->directions); i++) {
        const struct direction *direction = &shared->directions[i];
        socket_set_receive_timeout(direction->from->fd, direction->from->read_timeout);
        socket_set_send_timeout(direction->to->fd, direction_write_slice(direction));
    }
    if (takes_two && !thread_pool_run(shared->relay->threads, run_second_thread, handoff, NULL))
        return false;
    relay_pump(direction_is_over(client) ? target : client);
    if (takes_two)
        await_second_thread(handoff);
    INVARIANT(direction_is_over(client) && direction_is_over(target));
    return true;
}

void relay_run(struct relay *relay, struct relay_result *result, struct failure *failure)
{
    struct stack_buffers buffers;
    struct handoff handoff;
    init_handoff(&handoff, relay, failure, &buffers);
    while (!relay_poll(&handoff.poll) && !run_pumps(&handoff))
        handoff.poll.refusals_left = ROUNDS_PER_REFUSAL;
    relay_conclude(&handoff.shared, result);
    (void)sem_destroy(&handoff.caller_wake);
    (void)sem_destroy(&handoff.second_wake);
}
