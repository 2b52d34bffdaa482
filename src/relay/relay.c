#include "bitflow/relay/relay.h"

#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"
#include "pump.h"

// How the two threads part. Each announces itself when its pump has ended, and wakes the other only if that one waits:
// in the usual case that the pooled thread ends first, nobody is woken.
enum {
    CALLER_WAITS = 1, // for the pooled thread to be gone
    POOLED_WAITS = 2, // for the caller's pump to end, within the grace
    POOLED_GONE = 4,  // it touches nothing of the relay any more, but for the caller's semaphore if that waits
};

struct parting {
    struct relay_state state;
    struct solo solo;
    _Atomic unsigned flags;
    sem_t caller_wake;
    sem_t pooled_wake;
};

// What the pumps begin with, by the side that is read from. Not on the heap: there the output would lie where the
// handshake has just had its buffers, in pages that are touched already.
struct room {
    uint8_t input[2][PUMP_ROOM];
    uint8_t output[2][PUMP_SEALED_ROOM];
};

static void init_tls(struct pump *pump, struct room *room)
{
    struct tls_session *from = pump_from(pump)->tls, *to = pump_to(pump)->tls;
    if (from != NULL) {
        pump->receiver = from->receiver;
        pump->buffers.input_size = PUMP_ROOM;
    }
    if (to != NULL) {
        pump->sender = to->sender;
        pump->record_limit = to->record_limit;
        pump->buffers.output = room->output[pump->side];
        pump->buffers.output_size = PUMP_SEALED_ROOM;
    }
    pump->splice_unsupported = from != NULL || to != NULL;
}

static void init_pump(struct relay_state *state, enum relay_side side, struct room *room)
{
    enum relay_side other = side == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT;
    struct pump *pump = &state->pumps[side];
    pump->state = state;
    pump->side = side;
    pump->buffers = (struct pump_buffers){.input = room->input[side], .input_size = PUMP_BUFFER};
    pump->from = state->relay->sockets[side].fd;
    pump->to = state->relay->sockets[other].fd;
    atomic_init(&pump->last_write, INT64_MIN / 2);
    init_tls(pump, room);
}

static void init_parting(struct parting *parting, struct relay *relay, struct room *room)
{
    *parting = (struct parting){.state = {.relay = relay, .grace_end = DEADLINE_NONE}};
    atomic_init(&parting->state.first_finished, -1);
    init_pump(&parting->state, RELAY_CLIENT, room);
    init_pump(&parting->state, RELAY_TARGET, room);
    solo_init(&parting->solo, &parting->state);
    (void)sem_init(&parting->caller_wake, 0, 0);
    (void)sem_init(&parting->pooled_wake, 0, 0);
}

static void wait_for(sem_t *wake)
{
    while (sem_wait(wake) != 0 && errno == EINTR)
        ;
}

// Gives the twin of a pump that failed the grace's time to end; then ends it, for it may be stuck in a write.
static void wait_within_grace(const struct relay_state *state, sem_t *wake)
{
    struct timespec until = clock_timespec(state->grace_end);
    int result;
    do
        result = sem_clockwait(wake, CLOCK_MONOTONIC, &until);
    while (result != 0 && errno == EINTR);
    if (result == 0)
        return;
    (void)shutdown(state->relay->sockets[RELAY_CLIENT].fd, SHUT_RDWR);
    (void)shutdown(state->relay->sockets[RELAY_TARGET].fd, SHUT_RDWR);
    wait_for(wake);
}

static void run_pooled_pump(void *argument)
{
    struct parting *parting = argument;
    struct pump *pump = &parting->state.pumps[RELAY_TARGET];
    thread_set_name(parting->state.relay->second_thread_name);
    pump_run(pump);
    if (pump->saw_failure) {
        unsigned before = atomic_fetch_or(&parting->flags, POOLED_WAITS);
        if ((before & CALLER_WAITS) == 0)
            wait_within_grace(&parting->state, &parting->pooled_wake);
    }
    unsigned before = atomic_fetch_or(&parting->flags, POOLED_GONE);
    if ((before & CALLER_WAITS) != 0)
        (void)sem_post(&parting->caller_wake);
}

static void part(struct parting *parting)
{
    unsigned before = atomic_fetch_or(&parting->flags, CALLER_WAITS);
    if ((before & POOLED_GONE) != 0)
        return;
    if ((before & POOLED_WAITS) != 0)
        (void)sem_post(&parting->pooled_wake);
    if (parting->state.pumps[RELAY_CLIENT].saw_failure)
        wait_within_grace(&parting->state, &parting->caller_wake);
    else
        wait_for(&parting->caller_wake);
    // Orders what the pooled thread wrote before what follows.
    (void)atomic_load(&parting->flags);
}

static void flush(const struct relay_state *state, enum relay_side side)
{
    socket_flush(state->relay->sockets[side].fd, state->grace_end);
}

// How long a side that broke TLS may take to make room for the alert.
#define ALERT_WAIT (1 * NS_PER_S)

// Tells the side that broke TLS by an alert, unless the half of a record is on its way there.
static void send_owed_alert(const struct relay_state *state)
{
    uint8_t record[TLS_ALERT_RECORD_MAX];
    const struct relay_socket *socket = &state->relay->sockets[state->owed_to];
    const struct pump *writer = pump_twin(&state->pumps[state->owed_to]);
    if (state->owed_alert == 0 || writer->pending > 0 || writer->is_torn || atomic_load(&writer->finished))
        return;
    size_t size = tls_sender_alert(socket->tls->sender, (enum tls_alert)state->owed_alert, record, sizeof record);
    struct pollfd poller = {.fd = socket->fd, .events = POLLOUT};
    (void)deadline_poll(&poller, 1, deadline_after(ALERT_WAIT));
    if (size > 0 && send(socket->fd, record, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size)
        socket_end_and_drain(socket->fd);
}

// Delivers what can be delivered and says how the sockets are to be closed.
static void conclude(const struct relay_state *state, struct relay_result *result)
{
    (void)close_reason_settle(state->relay->reason, CLOSE_COMPLETED);
    enum close_reason reason = atomic_load(state->relay->reason);
    struct relay_result concluded = {.reason = reason,
                                     .ended_by = close_reason_ended_by(reason),
                                     .os_errno = state->os_errno,
                                     .tls_failure = state->tls_failure,
                                     .is_peer_alert = state->is_peer_alert};
    send_owed_alert(state); // before the flush, which may take a while
    switch (reason) {
    case CLOSE_COMPLETED:
        concluded.ended_by = atomic_load(&state->first_finished) == RELAY_TARGET ? ENDED_BY_TARGET : ENDED_BY_CLIENT;
        break;
    case CLOSE_CLIENT_RESET:
    case CLOSE_CLIENT_LOST:
    case CLOSE_CLIENT_TRUNCATED:
    case CLOSE_CLIENT_TLS_ERROR:
        flush(state, RELAY_TARGET);
        concluded.reset_target = true;
        break;
    case CLOSE_TARGET_RESET:
    case CLOSE_TARGET_LOST:
    case CLOSE_TARGET_TRUNCATED:
    case CLOSE_TARGET_TLS_ERROR:
        flush(state, RELAY_CLIENT);
        concluded.reset_client = true;
        break;
    case CLOSE_CLIENT_WRITE_TIMEOUT:
        flush(state, RELAY_TARGET);
        concluded.reset_client = true;
        concluded.reset_target = true;
        break;
    case CLOSE_TARGET_WRITE_TIMEOUT:
        flush(state, RELAY_CLIENT);
        concluded.reset_client = true;
        concluded.reset_target = true;
        break;
    case CLOSE_OUT_OF_MEMORY:
        concluded.reset_client = true;
        concluded.reset_target = true;
        break;
    default: // a read timeout, or ended from outside
        break;
    }
    *result = concluded;
}

// Both are set, be it to none: an inherited socket may come with others.
static void set_timeouts(const struct pump *pump)
{
    socket_set_receive_timeout(pump->from, pump_from(pump)->read_timeout);
    socket_set_send_timeout(pump->to, pump_slice(pump));
}

// Goes on with a thread for each direction that is not over. False: there is no second thread to be had.
static bool run_pumps(struct parting *parting)
{
    struct pump *client = &parting->state.pumps[RELAY_CLIENT], *target = &parting->state.pumps[RELAY_TARGET];
    bool takes_two = !client->over && !target->over;
    set_timeouts(client);
    set_timeouts(target);
    if (takes_two && !thread_pool_run(parting->state.relay->threads, run_pooled_pump, parting, NULL))
        return false;
    pump_run(client->over ? target : client);
    if (takes_two)
        part(parting);
    return true;
}

static void run(struct parting *parting)
{
    while (!solo_run(&parting->solo)) {
        if (run_pumps(parting))
            return;
        solo_refused(&parting->solo);
    }
}

void relay_run(struct relay *relay, struct relay_result *result)
{
    struct room room;
    struct parting parting;
    init_parting(&parting, relay, &room);
    run(&parting);
    conclude(&parting.state, result);
    (void)sem_destroy(&parting.caller_wake);
    (void)sem_destroy(&parting.pooled_wake);
}
