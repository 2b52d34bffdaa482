#include "bitflow/net/socket.h"

#include <errno.h>
#include <limits.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"

// Every option here is best effort, see the header.
static void set_int(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof value);
}

static void set_timeout(int fd, int option, int64_t timeout)
{
    struct timeval value = clock_timeval(timeout > 0 ? timeout : 0);
    (void)setsockopt(fd, SOL_SOCKET, option, &value, sizeof value);
}

void socket_set_receive_timeout(int fd, int64_t timeout)
{
    set_timeout(fd, SO_RCVTIMEO, timeout);
}

void socket_set_send_timeout(int fd, int64_t timeout)
{
    set_timeout(fd, SO_SNDTIMEO, timeout);
}

void socket_set_nodelay(int fd)
{
    set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

void socket_reuse_port(int fd)
{
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

void socket_keep_urgent_data(int fd)
{
    set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1);
}

void socket_acknowledge(int fd)
{
    set_int(fd, IPPROTO_TCP, TCP_QUICKACK, 1);
}

#define KEEPALIVE_MAX 32767 // s; the kernel refuses more (MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL)

void socket_set_keepalive(int fd, int64_t interval)
{
    set_int(fd, SOL_SOCKET, SO_KEEPALIVE, interval >= 0);
    if (interval <= 0)
        return;
    int64_t seconds = interval / NS_PER_S + (interval % NS_PER_S != 0);
    int value = (int)(seconds < KEEPALIVE_MAX ? seconds : KEEPALIVE_MAX);
    set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, value);
    set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, value);
}

void socket_reset_keepalive_timing(int fd)
{
    static const int options[] = {TCP_KEEPIDLE, TCP_KEEPINTVL};
    int fresh = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), value;
    socklen_t size = sizeof value;
    for (size_t i = 0; fresh >= 0 && i < ARRAY_LENGTH(options); i++)
        if (getsockopt(fresh, IPPROTO_TCP, options[i], &value, &size) == 0)
            set_int(fd, IPPROTO_TCP, options[i], value);
    if (fresh >= 0)
        (void)close(fresh);
}

int64_t socket_keepalive_patience(int fd, int64_t interval)
{
    int probes = 0;
    socklen_t size = sizeof probes;
    (void)getsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, &size);
    int64_t most = INT64_MAX / (probes + 1);
    if (interval < NS_PER_S) // the least that the kernel has
        interval = NS_PER_S;
    return interval < most ? interval * (probes + 1) : INT64_MAX;
}

void socket_set_user_timeout(int fd, int64_t timeout)
{
    int64_t ms = timeout / NS_PER_MS + (timeout % NS_PER_MS != 0);
    set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, ms < INT_MAX ? (int)ms : INT_MAX);
}

#define LEAST_REPEATS 2 // one may be on its way

enum socket_peer_state socket_look_at_peer(int fd, int64_t patience)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    int queued = 0;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 || info.tcpi_state == TCP_CLOSE ||
        ioctl(fd, SIOCOUTQ, &queued) != 0 || queued == 0)
        return SOCKET_PEER_HAS_ALL;
    bool is_unanswered = info.tcpi_retransmits >= LEAST_REPEATS || info.tcpi_probes >= LEAST_REPEATS;
    int64_t silence = (int64_t)info.tcpi_last_ack_recv * NS_PER_MS;
    return is_unanswered && silence >= patience ? SOCKET_PEER_IS_LOST : SOCKET_PEER_IS_DUE;
}

void socket_prepare_tcp(int fd, int64_t keepalive_interval)
{
    socket_set_nodelay(fd);
    socket_set_keepalive(fd, keepalive_interval);
    socket_keep_urgent_data(fd);
}

void socket_set_blocking(int fd, bool blocking)
{
    int value = !blocking;
    (void)ioctl(fd, FIONBIO, &value); // one call, where fcntl() would take two
}

bool socket_is_unix(int fd)
{
    int domain = AF_UNSPEC;
    socklen_t size = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

bool socket_has_data(int fd)
{
    char byte;
    ssize_t peeked;
    do
        peeked = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    while (peeked < 0 && errno == EINTR);
    return peeked > 0;
}

size_t socket_room(int fd)
{
    uint32_t memory[SK_MEMINFO_VARS];
    socklen_t size = sizeof memory;
    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &size) != 0 || size < sizeof memory)
        return SIZE_MAX;
    // TCP counts what is queued, Unix sockets what is allocated.
    uint32_t used = memory[SK_MEMINFO_WMEM_QUEUED];
    if (used < memory[SK_MEMINFO_WMEM_ALLOC])
        used = memory[SK_MEMINFO_WMEM_ALLOC];
    return memory[SK_MEMINFO_SNDBUF] > used ? memory[SK_MEMINFO_SNDBUF] - used : 0;
}

// Bytes that TCP has not sent; 0 for other sockets and for a connection that is over.
static int unsent(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    int bytes;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 || info.tcpi_state == TCP_CLOSE)
        return 0;
    return ioctl(fd, SIOCOUTQNSD, &bytes) == 0 ? bytes : 0;
}

#define FLUSH_INTERVAL (5 * NS_PER_MS)

void socket_flush(int fd, int64_t deadline)
{
    int before;
    socklen_t size = sizeof before;
    if (unsent(fd) == 0 || getsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &before, &size) != 0)
        return;
    // With this threshold "writable" means that nothing is left to be sent, and so poll() can wait for it.
    set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1);
    while (unsent(fd) > 0 && deadline_left(deadline) > 0) {
        struct pollfd poller = {.fd = fd, .events = POLLOUT};
        int ready = deadline_poll(&poller, 1, deadline);
        if (ready < 0)
            break;
        // A socket that was shut down for writing is always writable, and the kernel has no other event to
        // wait for.
        if (ready > 0 && unsent(fd) > 0)
            (void)poll(NULL, 0, deadline_poll_ms(deadline_after(FLUSH_INTERVAL)));
    }
    set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, before);
}

#define DRAIN_MAX ((size_t)256 * 1024)

void socket_end_and_drain(int fd)
{
    unsigned char buffer[4096];
    (void)shutdown(fd, SHUT_WR);
    for (size_t drained = 0; drained < DRAIN_MAX;) {
        ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (got <= 0)
            return;
        drained += (size_t)got;
    }
}

void socket_set_reset_on_close(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

void socket_reset(int fd)
{
    socket_set_reset_on_close(fd);
    (void)close(fd);
}

void socket_disconnect(int fd, bool reset)
{
    // Connecting a TCP socket to nothing resets the connection it has (tcp(7), connect(2)).
    struct sockaddr nothing = {.sa_family = AF_UNSPEC};
    if (!reset || connect(fd, &nothing, sizeof nothing) != 0)
        (void)shutdown(fd, SHUT_RDWR);
}

bool socket_local(int fd, struct endpoint *endpoint)
{
    struct endpoint found = {.length = sizeof found.address};
    if (getsockname(fd, &found.address.any, &found.length) != 0)
        return false;
    *endpoint = found;
    return true;
}

bool socket_peer(int fd, struct endpoint *endpoint)
{
    struct endpoint found = {.length = sizeof found.address};
    if (getpeername(fd, &found.address.any, &found.length) != 0)
        return false;
    *endpoint = found;
    return true;
}
