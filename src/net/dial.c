#include "bitflow/net/dial.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/inherited.h"
#include "bitflow/net/resolver.h"
#include "bitflow/net/socket.h"
#include "dial_race.h"

// How long a full accept queue of a Unix socket is waited for where no deadline says otherwise.
#define UNIX_QUEUE_TIMEOUT (3 * NS_PER_S)
// How often the client is looked at meanwhile.
#define UNIX_QUEUE_INTERVAL (50 * NS_PER_MS)

// A full accept queue makes a non-blocking connect to a Unix socket fail with EAGAIN, and poll() has no event
// for room in it. A blocking connect does wait for room, in the kernel and bounded by SO_SNDTIMEO; so it
// waits in short turns, between which the client is looked at.
static bool wait_for_unix_queue(int fd, const struct endpoint *endpoint, struct client_watch *watch, int64_t deadline,
                                struct error *error)
{
    bool is_bounded = deadline != DEADLINE_NONE;
    int64_t until = is_bounded ? deadline : deadline_after(UNIX_QUEUE_TIMEOUT);
    socket_set_blocking(fd, true);
    for (;;) {
        enum client_watch_result result = client_watch_poll(watch, NULL, 0, clock_now());
        int64_t left = deadline_left(until);
        if (result != CLIENT_WATCH_DEADLINE || left == 0) {
            dial_set_wait_error(endpoint, result, errno, error);
            return false;
        }
        socket_set_send_timeout(fd, left < UNIX_QUEUE_INTERVAL ? left : UNIX_QUEUE_INTERVAL);
        if (connect(fd, &endpoint->address.any, endpoint->length) == 0)
            break;
        if (errno != EAGAIN && errno != EINTR) {
            dial_set_error(endpoint, errno, error);
            return false;
        }
    }
    socket_set_send_timeout(fd, 0);
    socket_set_blocking(fd, false);
    return true;
}

static bool dial_unix(const struct endpoint *endpoint, struct client_watch *watch, int64_t deadline, int *out,
                      struct error *error)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        dial_set_error(endpoint, errno, error);
        return false;
    }
    bool connected = connect(fd, &endpoint->address.any, endpoint->length) == 0;
    if (!connected && errno == EAGAIN)
        connected = wait_for_unix_queue(fd, endpoint, watch, deadline, error);
    else if (!connected)
        dial_set_error(endpoint, errno, error);
    if (!connected) {
        (void)close(fd);
        return false;
    }
    *out = fd;
    return true;
}

static bool dial_tcp(const struct endpoint *endpoint, struct client_watch *watch, int64_t deadline, int *out,
                     struct error *error)
{
    int fd = dial_start(endpoint);
    if (fd < 0) {
        dial_set_error(endpoint, errno, error);
        return false;
    }
    struct pollfd poller = {.fd = fd, .events = POLLOUT};
    enum client_watch_result result = client_watch_poll(watch, &poller, 1, deadline);
    int reason = result == CLIENT_WATCH_READY ? dial_finish(&poller, endpoint) : errno;
    if (result == CLIENT_WATCH_READY && reason == 0) {
        *out = fd;
        return true;
    }
    (void)close(fd);
    if (result == CLIENT_WATCH_READY)
        dial_set_error(endpoint, reason, error);
    else
        dial_set_wait_error(endpoint, result, reason, error);
    return false;
}

// Literals and Unix sockets: one endpoint, no thread, no allocation.
static bool dial_endpoint(const struct endpoint *endpoint, struct client_watch *watch, int64_t deadline,
                          struct dial_result *result, struct error *error)
{
    int64_t start = clock_now();
    bool connected = endpoint->address.any.sa_family == AF_UNIX
                         ? dial_unix(endpoint, watch, deadline, &result->fd, error)
                         : dial_tcp(endpoint, watch, deadline, &result->fd, error);
    result->connect_time = clock_now() - start;
    result->remote = *endpoint;
    return connected;
}

// The resolver's own bound, where it is the nearer one, says something else than that the target took too long.
static bool resolve_first(struct resolver_query *query, const struct address *address, const struct dial_terms *terms,
                          struct client_watch *watch, struct resolved_addresses *resolved, struct error *error)
{
    const struct resolver_query_terms bounds = {.preferred = terms->preferred,
                                                .resolve_timeout = terms->resolve_timeout};
    struct error why = ERROR_INIT;
    if (resolver_query_begin(query, address, &bounds, terms->deadline, &why) &&
        resolver_query_await(query, watch, resolved, &why))
        return true;
    if (why.code == ERROR_TIMEOUT && query->deadline < terms->deadline)
        why.code = ERROR_RESOLVE;
    error_pass(error, &why);
    return false;
}

// Kept out of dial()'s own frame: the addresses take stack, which every other connection would touch too. Answers that
// come while the first addresses are tried join them.
__attribute__((noinline)) static bool dial_name(const struct address *address, const struct dial_terms *terms,
                                                struct client_watch *watch, struct dial_result *result,
                                                struct error *error)
{
    struct resolver_query query;
    struct resolved_addresses resolved;
    int64_t start = clock_now();
    bool good = resolve_first(&query, address, terms, watch, &resolved, error);
    result->resolve_time = clock_now() - start;
    if (good) {
        start = clock_now();
        good = dial_race(&query, &resolved, terms, watch, result, error);
        result->connect_time = clock_now() - start;
    }
    resolver_query_release(&query);
    return good;
}

static bool dial_inherited(const struct address *address, struct dial_result *result, struct error *error)
{
    if (!inherited_lend(address, &result->fd, error))
        return false;
    result->is_lent = true;
    (void)socket_peer(result->fd, &result->remote); // an unnamed peer has none
    return true;
}

bool dial(const struct address *address, const struct dial_terms *terms, struct client_watch *watch,
          struct dial_result *result, struct error *error)
{
    *result = (struct dial_result){.fd = -1};
    if (address->kind == ADDRESS_FD)
        return dial_inherited(address, result, error);
    if (address->kind == ADDRESS_TCP && !address->is_literal)
        return dial_name(address, terms, watch, result, error);
    struct endpoint endpoint;
    if (!endpoint_of_address(address, &endpoint)) {
        error_set(error, ERROR_RESOLVE, "cannot connect to %s: there is no such network interface", address->host);
        return false;
    }
    return dial_endpoint(&endpoint, watch, terms->deadline, result, error);
}
