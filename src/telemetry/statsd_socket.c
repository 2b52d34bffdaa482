#include "statsd_socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/client_watch.h"
#include "bitflow/net/resolver.h"

#define LOOK_UP_INTERVAL (60 * NS_PER_S)
#define LOOK_UP_RETRY (5 * NS_PER_S)       // after a failure
#define PROBE_WAIT (100 * NS_PER_MS)       // for what comes back of a probe
#define SLOW_READER_WAIT (100 * NS_PER_MS) // of one batch

void statsd_socket_init(struct statsd_socket *socket, const char *address)
{
    static const char scheme[] = "udp://";
    const char *rest = strncmp(address, scheme, sizeof scheme - 1) == 0 ? address + sizeof scheme - 1 : address;
    *socket = (struct statsd_socket){.fd = -1};
    (void)address_parse(rest, ADDRESS_TO_CONNECT, &socket->address, NULL);
}

void statsd_socket_close(struct statsd_socket *socket)
{
    if (socket->fd >= 0)
        (void)close(socket->fd);
    socket->fd = -1;
    socket->is_proven = false;
}

static bool is_unix(const struct statsd_socket *socket)
{
    return socket->address.kind == ADDRESS_UNIX;
}

size_t statsd_socket_limit(const struct statsd_socket *socket)
{
    return is_unix(socket) ? STATSD_DATAGRAM_MAX : STATSD_UDP_DATAGRAM;
}

// Where a tunnel has less room than the route's own MTU says, a datagram in fragments is better than none.
static void allow_fragments(int fd, int family)
{
    int v4 = IP_PMTUDISC_DONT, v6 = IPV6_PMTUDISC_DONT;
    if (family == AF_INET)
        (void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &v4, sizeof v4);
    else if (family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &v6, sizeof v6);
}

// False: errno says why.
static bool open_to(struct statsd_socket *statsd, const struct endpoint *endpoint)
{
    int family = endpoint->address.any.sa_family;
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    allow_fragments(fd, family);
    if (connect(fd, &endpoint->address.any, endpoint->length) != 0) {
        int os_errno = errno;
        (void)close(fd);
        errno = os_errno;
        return false;
    }
    statsd_socket_close(statsd);
    statsd->fd = fd;
    return true;
}

static int take_error(int fd)
{
    int os_errno = 0;
    socklen_t size = sizeof os_errno;
    (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &os_errno, &size);
    return os_errno;
}

// Empty lines mean nothing to any statsd. A Unix socket needs no asking: its connect() has been answered.
static bool probe(struct statsd_socket *socket)
{
    if (is_unix(socket))
        return true;
    (void)take_error(socket->fd); // an old one
    if (send(socket->fd, "\n", 1, MSG_NOSIGNAL) < 0)
        return false;
    struct pollfd poller = {.fd = socket->fd};
    (void)poll(&poller, 1, (int)(PROBE_WAIT / NS_PER_MS));
    int os_errno = take_error(socket->fd);
    errno = os_errno;
    return os_errno == 0;
}

static bool is_known(const struct statsd_socket *socket, const struct endpoint *endpoint)
{
    for (size_t i = 0; i < socket->count; i++)
        if (endpoint_equal(&socket->endpoints[i], endpoint))
            return true;
    return false;
}

static void keep(struct statsd_socket *socket, const struct resolved_addresses *found)
{
    socket->count = 0;
    const int families[RESOLVED_FAMILIES] = {found->first, 1 - found->first};
    for (int f = 0; f < RESOLVED_FAMILIES; f++) {
        int family = families[f];
        for (size_t i = 0; i < found->counts[family] && socket->count < STATSD_ADDRESSES_MAX; i++)
            resolved_endpoint(found, family, i, socket->address.port, &socket->endpoints[socket->count++]);
    }
}

// The socket stays where the name still stands for its address.
static bool look_up(struct statsd_socket *socket, int64_t deadline, struct error *error)
{
    struct resolved_addresses found;
    struct client_watch nobody;
    client_watch_init(&nobody, -1);
    if (!resolve(&socket->address, &nobody, deadline, &found, error)) {
        socket->look_up_after = clock_now() + LOOK_UP_RETRY;
        return false;
    }
    struct endpoint peer = {.length = sizeof peer.address};
    keep(socket, &found);
    if (socket->fd >= 0 && (getpeername(socket->fd, &peer.address.any, &peer.length) != 0 || !is_known(socket, &peer)))
        statsd_socket_close(socket);
    socket->next = 0;
    socket->resolved = clock_now();
    return true;
}

// An answer that is too old is still better than none.
static bool keep_looked_up(struct statsd_socket *socket, int64_t deadline, struct error *error)
{
    if (endpoint_of_address(&socket->address, &socket->endpoints[0])) { // it is not a name
        socket->count = 1;
        return true;
    }
    bool has_some = socket->count > 0;
    if (has_some && clock_now() - socket->resolved < LOOK_UP_INTERVAL)
        return true;
    if (clock_now() >= socket->look_up_after && look_up(socket, deadline, has_some ? NULL : error))
        return true;
    if (!has_some)
        error_set(error, ERROR_RESOLVE, "the name was not found, it will be looked up again in a moment");
    return has_some;
}

// Each address in turn, from the one after the one that failed last.
static bool find_receiver(struct statsd_socket *socket, struct error *error)
{
    int os_errno = ECONNREFUSED;
    for (size_t tried = 0; tried < socket->count; tried++) {
        if (socket->fd < 0) {
            const struct endpoint *endpoint = &socket->endpoints[socket->next++ % socket->count];
            if (!open_to(socket, endpoint)) {
                os_errno = errno;
                continue;
            }
        }
        if (probe(socket)) {
            socket->is_proven = true;
            return true;
        }
        os_errno = errno;
        statsd_socket_close(socket);
    }
    if (!socket->address.is_literal && !is_unix(socket))
        socket->resolved = clock_now() - LOOK_UP_INTERVAL; // it may have moved
    error_set_errno(error, os_errno, "no statsd server is listening there");
    return false;
}

bool statsd_socket_prepare(struct statsd_socket *socket, int64_t deadline, struct error *error)
{
    socket->waited = 0;
    if (!keep_looked_up(socket, deadline, error))
        return false;
    return (socket->fd >= 0 && socket->is_proven) || find_receiver(socket, error);
}

// The other end of a Unix socket reads, and its queue is short.
static bool wait_for_reader(struct statsd_socket *socket)
{
    if (!is_unix(socket) || socket->waited >= SLOW_READER_WAIT)
        return false;
    int64_t begin = clock_now();
    struct pollfd poller = {.fd = socket->fd, .events = POLLOUT};
    int ready = poll(&poller, 1, (int)((SLOW_READER_WAIT - socket->waited) / NS_PER_MS) + 1);
    socket->waited += clock_now() - begin;
    return ready > 0;
}

static enum statsd_outcome outcome_of(struct statsd_socket *socket, int os_errno)
{
    switch (os_errno) {
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
    case EMSGSIZE:
        return STATSD_DROPPED;
    default:
        socket->is_proven = false;
        if (!is_unix(socket))
            return STATSD_REFUSED;
        statsd_socket_close(socket);
        return STATSD_GONE;
    }
}

enum statsd_outcome statsd_socket_send(struct statsd_socket *socket, const char *bytes, size_t length)
{
    bool was_reopened = false;
    while (send(socket->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        int os_errno = errno;
        if (os_errno == EINTR || (os_errno == EAGAIN && wait_for_reader(socket)))
            continue;
        if (outcome_of(socket, os_errno) == STATSD_DROPPED)
            return STATSD_DROPPED;
        // A receiver that was restarted has made its Unix socket anew.
        if (was_reopened || !is_unix(socket) || !open_to(socket, &socket->endpoints[0]))
            return outcome_of(socket, os_errno);
        was_reopened = true;
        socket->is_proven = true;
    }
    return statsd_socket_was_refused(socket) ? STATSD_REFUSED : STATSD_SENT;
}

bool statsd_socket_was_refused(struct statsd_socket *socket)
{
    if (is_unix(socket) || socket->fd < 0 || take_error(socket->fd) == 0)
        return false;
    socket->is_proven = false;
    return true;
}
