#include "dial_race.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/dial.h"
#include "bitflow/net/socket.h"

int dial_start(const struct endpoint *endpoint)
{
    int fd = socket(endpoint->address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    // An interrupted connect goes on in the background, like one in progress.
    if (connect(fd, &endpoint->address.any, endpoint->length) == 0 || errno == EINPROGRESS || errno == EINTR)
        return fd;
    int reason = errno;
    (void)close(fd);
    errno = reason;
    return -1;
}

int dial_finish(int fd, const struct endpoint *endpoint)
{
    int reason = 0;
    socklen_t size = sizeof reason;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &reason, &size) != 0)
        return errno;
    // Established, answered and reset before we looked: what it said is to be delivered, and the reset found
    // thereafter.
    if ((reason == ECONNRESET || reason == EPIPE) && socket_has_data(fd))
        return 0;
    if (reason != 0 || !endpoint_is_tcp(endpoint))
        return reason;
    // Where nobody listens, the kernel may pick the very port we connect to as ours, and TCP connects to
    // itself.
    struct endpoint local;
    if (socket_local(fd, &local) && endpoint_equal(&local, endpoint))
        return ECONNREFUSED;
    return 0;
}

void dial_set_error(const struct endpoint *endpoint, int os_errno, struct error *error)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    struct error failure = ERROR_INIT;
    error_set_errno(&failure, os_errno, "cannot connect to %s", text);
    // A Unix socket that isn't there is a server that isn't there.
    if (os_errno == ENOENT && endpoint->address.any.sa_family == AF_UNIX)
        failure.code = ERROR_REFUSED;
    // A bad address is not the caller's fault here: it came out of a resolver.
    if (os_errno == EINVAL)
        failure.code = ERROR_SYSTEM;
    error_pass(error, &failure);
}

void dial_set_wait_error(const struct endpoint *endpoint, enum patience_result result, int os_errno,
                         struct error *error)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    if (result == PATIENCE_GONE)
        error_set(error, ERROR_CANCELLED, "connecting to %s: the client has gone", text);
    else if (result == PATIENCE_DEADLINE)
        error_set(error, ERROR_TIMEOUT, "cannot connect to %s: no answer in time", text);
    else
        error_set_errno(error, os_errno, "connecting to %s: poll", text);
}

// The families take turns, or one comes before the other.
static void interleave(const struct resolution *resolution, sa_family_t first, bool takes_turns,
                       uint8_t order[RESOLVE_ADDRESSES_MAX])
{
    size_t next[2] = {0, 0}; // the next candidate of the first family, and of any other
    size_t taken = 0;
    for (size_t turn = 0; taken < resolution->count;) {
        size_t at = next[turn];
        while (at < resolution->count && (resolution->endpoints[at].address.any.sa_family == first) != (turn == 0))
            at++;
        bool is_found = at < resolution->count;
        if (is_found)
            order[taken++] = (uint8_t)at;
        next[turn] = at + 1;
        if (takes_turns || !is_found)
            turn ^= 1;
    }
}

void dial_race_order(const struct resolution *resolution, enum address_family preferred,
                     uint8_t order[RESOLVE_ADDRESSES_MAX])
{
    if (resolution->count == 0)
        return;
    sa_family_t first = preferred == ADDRESS_IPV4   ? AF_INET
                        : preferred == ADDRESS_IPV6 ? AF_INET6
                                                    : resolution->endpoints[0].address.any.sa_family;
    interleave(resolution, first, preferred == ADDRESS_ANY, order);
}

_Static_assert(RESOLVE_ADDRESSES_MAX <= PATIENCE_DESCRIPTORS_MAX, "one poll takes every endpoint of a name");

struct race {
    const struct endpoint *endpoints;
    uint8_t order[RESOLVE_ADDRESSES_MAX];
    size_t count;
    size_t started; // of `order`
    size_t running;
    struct pollfd sockets[PATIENCE_DESCRIPTORS_MAX];
    uint8_t indices[PATIENCE_DESCRIPTORS_MAX]; // of the endpoint behind each socket
    size_t failed;
    size_t last_failed; // the endpoint's index
    int last_errno;
};

static void note_failure(struct race *race, size_t index, int os_errno)
{
    race->failed++;
    race->last_failed = index;
    race->last_errno = os_errno;
}

// Starts the next endpoint that can be started; true if one was.
static bool start_next(struct race *race)
{
    while (race->started < race->count) {
        uint8_t index = race->order[race->started++];
        int fd = dial_start(&race->endpoints[index]);
        if (fd < 0) {
            note_failure(race, index, errno);
            continue; // it failed at once, so the next one needs no delay
        }
        race->sockets[race->running] = (struct pollfd){.fd = fd, .events = POLLOUT};
        race->indices[race->running++] = index;
        return true;
    }
    return false;
}

static void forget_socket(struct race *race, size_t at)
{
    race->running--;
    race->sockets[at] = race->sockets[race->running];
    race->indices[at] = race->indices[race->running];
}

// Looks at the sockets that poll() found ready. True: one is connected, and no longer in the race.
// `any_failed` tells whether another may start now.
static bool find_winner(struct race *race, int *fd, size_t *winner, bool *any_failed)
{
    *any_failed = false;
    for (size_t i = 0; i < race->running;) {
        int candidate = race->sockets[i].fd;
        size_t index = race->indices[i];
        if (race->sockets[i].revents == 0) {
            i++;
            continue;
        }
        int reason = dial_finish(candidate, &race->endpoints[index]);
        forget_socket(race, i);
        if (reason == 0) {
            *fd = candidate;
            *winner = index;
            return true;
        }
        (void)close(candidate);
        note_failure(race, index, reason);
        *any_failed = true;
    }
    return false;
}

static void set_all_failed(const struct race *race, struct error *error)
{
    struct error last = ERROR_INIT;
    dial_set_error(&race->endpoints[race->last_failed], race->last_errno, &last);
    if (race->count > 1 && error != NULL && error->code == ERROR_NONE) {
        error_set(error, last.code, "all %zu addresses failed, the last: %s", race->count, last.text);
        error->os_errno = last.os_errno;
    } else {
        error_pass(error, &last);
    }
}

// `latest`: the index of the endpoint that is named.
static void set_race_wait_error(const struct race *race, size_t latest, enum patience_result result, int os_errno,
                                struct error *error)
{
    struct error why = ERROR_INIT;
    dial_set_wait_error(&race->endpoints[latest], result, os_errno, &why);
    if (race->count > 1 && result == PATIENCE_DEADLINE)
        error_set(error, why.code,
                  "%zu of %zu addresses tried, %zu failed, none connected in time, nor did the last: %s", race->started,
                  race->count, race->failed, why.text);
    else
        error_pass(error, &why);
}

static bool run_race(struct race *race, struct patience *patience, int64_t deadline, int *fd, size_t *last,
                     struct error *error)
{
    int64_t next_start = 0;
    for (;;) {
        if ((race->running == 0 || clock_now() >= next_start) && start_next(race))
            next_start = clock_now() + DIAL_ATTEMPT_DELAY;
        if (race->running == 0) {
            set_all_failed(race, error);
            *last = race->last_failed;
            return false;
        }
        int64_t until = race->started < race->count && next_start < deadline ? next_start : deadline;
        enum patience_result result = patience_poll(patience, race->sockets, race->running, until);
        bool any_failed = false;
        if (result == PATIENCE_READY && find_winner(race, fd, last, &any_failed))
            return true;
        if (any_failed)
            next_start = 0;
        if (result == PATIENCE_GONE || result == PATIENCE_FAILED ||
            (result == PATIENCE_DEADLINE && deadline_left(deadline) == 0)) {
            *last = race->indices[race->running - 1];
            set_race_wait_error(race, *last, result, errno, error);
            return false;
        }
    }
}

bool dial_race(const struct resolution *resolution, enum address_family preferred, struct patience *patience,
               int64_t deadline, int *fd, size_t *last, struct error *error)
{
    struct race race = {.endpoints = resolution->endpoints, .count = resolution->count};
    dial_race_order(resolution, preferred, race.order);
    bool won = run_race(&race, patience, deadline, fd, last, error);
    for (size_t i = 0; i < race.running; i++)
        (void)close(race.sockets[i].fd);
    if (won)
        socket_set_blocking(*fd, true);
    return won;
}
