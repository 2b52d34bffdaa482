#include "dial_race.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/dial.h"
#include "bitflow/net/local_ports.h"
#include "bitflow/net/socket.h"

int dial_start(const struct endpoint *endpoint)
{
    int fd = socket(endpoint->address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    socket_keep_urgent_data(fd); // before the peer can send any
    // An interrupted connect goes on in the background, like one in progress.
    if (connect(fd, &endpoint->address.any, endpoint->length) == 0 || errno == EINPROGRESS || errno == EINTR)
        return fd;
    int reason = errno;
    (void)close(fd);
    fd = dial_lacks_port(endpoint, reason) ? local_ports_connect_again(endpoint) : -1;
    errno = reason;
    return fd;
}

int dial_finish(const struct pollfd *ready, const struct endpoint *endpoint)
{
    int fd = ready->fd, reason = 0;
    socklen_t size = sizeof reason;
    // A connect that failed is told as an error, or as a hang-up.
    if ((ready->revents & ~POLLOUT) != 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &reason, &size) != 0)
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
    if (local_ports_include(endpoint) && socket_local(fd, &local) && endpoint_equal(&local, endpoint))
        return ECONNREFUSED;
    return 0;
}

// The two are told apart by a datagram socket: its connect() sends nothing, chooses its own address in the same way,
// and has ports of its own.
bool dial_lacks_port(const struct endpoint *endpoint, int os_errno)
{
    if (os_errno != EADDRNOTAVAIL || !endpoint_is_tcp(endpoint))
        return false;
    int fd = socket(endpoint->address.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return true; // another shortage; a missing address would have been found earlier
    bool has_address = connect(fd, &endpoint->address.any, endpoint->length) == 0 || errno != EADDRNOTAVAIL;
    (void)close(fd);
    return has_address;
}

void dial_set_error(const struct endpoint *endpoint, int os_errno, struct error *error)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    struct error failure = ERROR_INIT;
    if (dial_lacks_port(endpoint, os_errno))
        error_set(&failure, ERROR_NO_PORTS,
                  "cannot connect to %s: no local port is left for it (net.ipv4.ip_local_port_range and "
                  "net.ipv4.tcp_tw_reuse=1 give more)",
                  text);
    else if (os_errno == EADDRNOTAVAIL)
        error_set(&failure, ERROR_SYSTEM, "cannot connect to %s: no address of this host can reach it", text);
    else
        error_set_errno(&failure, os_errno, "cannot connect to %s", text);
    failure.os_errno = os_errno;
    // A Unix socket that isn't there is a server that isn't there.
    if (os_errno == ENOENT && endpoint->address.any.sa_family == AF_UNIX)
        failure.code = ERROR_REFUSED;
    // A bad address is not the caller's fault here: it came out of a resolver.
    if (os_errno == EINVAL)
        failure.code = ERROR_SYSTEM;
    error_pass(error, &failure);
}

void dial_set_wait_error(const struct endpoint *endpoint, enum client_watch_result result, int os_errno,
                         struct error *error)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    if (result == CLIENT_WATCH_GONE)
        error_set(error, ERROR_CANCELLED, "connecting to %s: the client has gone", text);
    else if (result == CLIENT_WATCH_DEADLINE)
        error_set(error, ERROR_TIMEOUT, "cannot connect to %s: no answer in time", text);
    else
        error_set_errno(error, os_errno, "connecting to %s: poll", text);
}

bool dial_order_next(const struct dial_order *order, const struct resolved_addresses *resolved, bool is_silent,
                     int *family)
{
    bool is_first = order->begun[RESOLVED_IPV4] + order->begun[RESOLVED_IPV6] == 0;
    int wanted;
    if (order->preferred != ADDRESS_ANY && !(is_silent && !is_first))
        wanted = order->preferred == ADDRESS_IPV4 ? RESOLVED_IPV4 : RESOLVED_IPV6;
    else
        wanted = is_first ? resolved->first : 1 - order->last;
    if (order->begun[wanted] == resolved->counts[wanted])
        wanted = 1 - wanted;
    if (order->begun[wanted] == resolved->counts[wanted])
        return false;
    *family = wanted;
    return true;
}

// Attempts under way at once. More addresses wait until one of these fails.
#define RUNNING_MAX (CLIENT_WATCH_DESCRIPTORS_MAX - RESOLVER_DESCRIPTORS_MAX)
// Out of descriptors or memory: the pause before the same address is tried again, and how often if nothing else runs.
#define SHORTAGE_PAUSE (50 * NS_PER_MS)
#define SHORTAGE_PAUSES_MAX 5

struct candidate {
    uint8_t family, at;
};

struct race {
    struct resolver_query *query;
    struct resolved_addresses *resolved;
    struct dial_order order;
    bool is_silent; // the attempt begun last has not failed, nor has any since
    int64_t next_start;
    size_t running;
    struct pollfd polled[CLIENT_WATCH_DESCRIPTORS_MAX]; // the sockets; while polling, the look-ups behind them
    struct candidate candidates[RUNNING_MAX];           // behind each socket
    size_t failed;
    struct candidate
        last_failed; // and the errno; once it is for want of a local port, which is our own trouble, it stays
    int last_errno;
    bool is_out_of_ports;
    int shortage; // the errno that keeps the next address from being tried; 0: none
    unsigned shortage_pauses;
};

static void endpoint_of(const struct race *race, struct candidate candidate, struct endpoint *endpoint)
{
    resolved_endpoint(race->resolved, candidate.family, candidate.at, race->query->address->port, endpoint);
}

static bool find_next(const struct race *race, struct candidate *next)
{
    int family;
    if (race->running == RUNNING_MAX || !dial_order_next(&race->order, race->resolved, race->is_silent, &family))
        return false;
    *next = (struct candidate){.family = (uint8_t)family, .at = (uint8_t)race->order.begun[family]};
    return true;
}

static void note_begun(struct race *race, struct candidate candidate)
{
    race->order.begun[candidate.family]++;
    race->order.last = candidate.family;
    race->shortage = 0;
    race->shortage_pauses = 0;
}

static void note_failure(struct race *race, struct candidate candidate, int os_errno)
{
    race->failed++;
    race->is_silent = false;
    race->next_start = 0; // the next one needs no delay
    if (race->is_out_of_ports)
        return;
    struct endpoint endpoint;
    endpoint_of(race, candidate, &endpoint);
    race->last_failed = candidate;
    race->last_errno = os_errno;
    race->is_out_of_ports = dial_lacks_port(&endpoint, os_errno);
}

static bool is_shortage(int os_errno)
{
    enum error_code code = error_code_of_errno(os_errno);
    return code == ERROR_NO_DESCRIPTORS || code == ERROR_NO_MEMORY;
}

// Starts the next address that can be started. A shortage of ours is not a failure of the address, which stays the next
// one.
static void start_next(struct race *race)
{
    struct candidate next;
    while (find_next(race, &next)) {
        struct endpoint endpoint;
        endpoint_of(race, next, &endpoint);
        int fd = dial_start(&endpoint);
        if (fd < 0 && is_shortage(errno)) {
            race->shortage = errno;
            race->shortage_pauses++;
            race->next_start = deadline_after(SHORTAGE_PAUSE);
            return;
        }
        note_begun(race, next);
        if (fd >= 0) {
            race->polled[race->running] = (struct pollfd){.fd = fd, .events = POLLOUT};
            race->candidates[race->running++] = next;
            race->is_silent = true;
            race->next_start = deadline_after(DIAL_ATTEMPT_DELAY);
            return;
        }
        note_failure(race, next, errno);
    }
}

static void forget_socket(struct race *race, size_t at)
{
    race->running--;
    race->polled[at] = race->polled[race->running];
    race->candidates[at] = race->candidates[race->running];
}

// Looks at the sockets that poll() found ready. True: one is connected, and no longer in the race.
static bool find_winner(struct race *race, struct dial_result *result)
{
    for (size_t i = 0; i < race->running;) {
        struct pollfd ready = race->polled[i];
        struct candidate candidate = race->candidates[i];
        if (ready.revents == 0) {
            i++;
            continue;
        }
        struct endpoint endpoint;
        endpoint_of(race, candidate, &endpoint);
        int reason = dial_finish(&ready, &endpoint);
        forget_socket(race, i);
        if (reason == 0) {
            result->fd = ready.fd;
            result->remote = endpoint;
            return true;
        }
        (void)close(ready.fd);
        note_failure(race, candidate, reason);
    }
    return false;
}

// With no attempt running: whether there is anything to wait for, and until when.
static bool may_go_on(const struct race *race, int64_t *until)
{
    if (race->shortage != 0) {
        // Where nothing has been begun yet, who asked may as well try again later.
        *until = race->next_start;
        return race->failed > 0 && race->shortage_pauses <= SHORTAGE_PAUSES_MAX;
    }
    *until = resolver_query_worth_until(race->query);
    return deadline_left(*until) > 0;
}

// No attempt is running, and none will be.
static void set_stopped(const struct race *race, struct dial_result *result, struct error *error)
{
    struct error last = ERROR_INIT, late = ERROR_INIT;
    struct candidate candidate = race->last_failed;
    size_t count = resolved_count(race->resolved);
    if (race->shortage != 0)
        (void)find_next(race, &candidate);
    endpoint_of(race, candidate, &result->remote);
    dial_set_error(&result->remote, race->shortage != 0 ? race->shortage : race->last_errno, &last);
    if (race->shortage != 0 && race->failed > 0) {
        error_wrap(error, &last, "%zu of %zu addresses failed, and then", race->failed, count);
    } else if (race->shortage == 0 && resolver_query_worth_until(race->query) != 0) {
        error_set(&late, last.code, "%s; no answer in time about its other IP family", last.text);
        late.os_errno = last.os_errno;
        error_pass(error, &late);
    } else if (race->shortage == 0 && count > 1) {
        error_wrap(error, &last, "all %zu addresses failed, %s", count,
                   race->is_out_of_ports ? "one of them" : "the last");
    } else {
        error_pass(error, &last);
    }
}

// The wait ended without a winner; the attempt begun last of those that run is named.
static void set_race_wait_error(const struct race *race, enum client_watch_result waited, int os_errno,
                                struct dial_result *result, struct error *error)
{
    struct error why = ERROR_INIT;
    size_t count = resolved_count(race->resolved);
    endpoint_of(race, race->running > 0 ? race->candidates[race->running - 1] : race->last_failed, &result->remote);
    dial_set_wait_error(&result->remote, waited, os_errno, &why);
    if (count > 1 && waited == CLIENT_WATCH_DEADLINE)
        error_wrap(error, &why, "%zu of %zu addresses tried, %zu failed, none connected in time, nor did the last",
                   race->failed + race->running, count, race->failed);
    else
        error_pass(error, &why);
}

static enum client_watch_result wait_for_news(struct race *race, struct client_watch *watch, int64_t until)
{
    struct candidate next;
    if (find_next(race, &next))
        until = deadline_sooner(until, race->next_start);
    size_t look_ups = resolver_query_descriptors(race->query, &race->polled[race->running]);
    return client_watch_poll(watch, race->polled, race->running + look_ups, until);
}

static bool run_race(struct race *race, struct client_watch *watch, int64_t deadline, struct dial_result *result,
                     struct error *error)
{
    for (;;) {
        int64_t until = deadline_sooner(resolver_query_advance(race->query, race->resolved), deadline), worth;
        if (clock_now() >= race->next_start)
            start_next(race);
        if (race->running == 0) {
            if (!may_go_on(race, &worth)) {
                set_stopped(race, result, error);
                return false;
            }
            until = deadline_sooner(until, worth);
        }
        enum client_watch_result waited = wait_for_news(race, watch, until);
        int os_errno = errno;
        if (waited == CLIENT_WATCH_READY && find_winner(race, result))
            return true;
        bool is_late = waited == CLIENT_WATCH_DEADLINE && deadline_left(deadline) == 0;
        if (is_late && race->running == 0) {
            set_stopped(race, result, error);
            return false;
        }
        if (is_late || waited == CLIENT_WATCH_GONE || waited == CLIENT_WATCH_FAILED) {
            set_race_wait_error(race, waited, os_errno, result, error);
            return false;
        }
    }
}

bool dial_race(struct resolver_query *query, struct resolved_addresses *resolved, const struct dial_terms *terms,
               struct client_watch *watch, struct dial_result *result, struct error *error)
{
    struct race race = {.query = query, .resolved = resolved, .order = {.preferred = terms->preferred}};
    bool won = run_race(&race, watch, terms->deadline, result, error);
    for (size_t i = 0; i < race.running; i++)
        (void)close(race.polled[i].fd);
    return won;
}
