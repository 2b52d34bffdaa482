#include "bitflow/net/listener.h"

#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/signals.h"
#include "bitflow/net/handover.h"
#include "bitflow/net/inherited.h"
#include "bitflow/net/resolver.h"
#include "bitflow/net/socket.h"
#include "unix_socket.h"

#define RESOLVE_TIMEOUT_S 10

static void set_error(const struct endpoint *endpoint, int os_errno, struct error *error)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    error_set_errno(error, os_errno, "cannot listen on %s", text);
}

// Returns the socket, bound and listening, or -1 with errno.
static int listen_tcp(const struct endpoint *endpoint, bool v6_only)
{
    int family = endpoint->address.any.sa_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    int on = 1, only = v6_only;
    socket_prepare_tcp(fd, 0); // before the first client can be in the queue
    // Connections of a former process that linger in TIME_WAIT must not keep us from the port.
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        (family != AF_INET6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) == 0) &&
        bind(fd, &endpoint->address.any, endpoint->length) == 0 && listen(fd, LISTENER_QUEUE_MAX) == 0)
        return fd;
    int reason = errno;
    (void)close(fd);
    errno = reason;
    return -1;
}

// In network byte order.
static in_port_t port_of(const struct endpoint *endpoint)
{
    struct sockaddr_in inet;
    struct sockaddr_in6 inet6;
    if (endpoint->address.any.sa_family == AF_INET) {
        memcpy(&inet, &endpoint->address, sizeof inet);
        return inet.sin_port;
    }
    memcpy(&inet6, &endpoint->address, sizeof inet6);
    return inet6.sin6_port;
}

// Ours from now on, and so a successor's, if there is one.
static bool add(struct listener *listener, int fd, const struct handover_mark *mark, struct error *error)
{
    if (!handover_note(fd, mark, error)) {
        (void)close(fd);
        return false;
    }
    listener->sockets[listener->socket_count++] = fd;
    return true;
}

static bool add_tcp(struct listener *listener, const struct endpoint *endpoint, bool v6_only, struct error *error)
{
    int fd = handover_take_tcp(endpoint, v6_only);
    if (fd < 0)
        fd = listen_tcp(endpoint, v6_only);
    if (fd < 0) {
        set_error(endpoint, errno, error);
        return false;
    }
    return add(listener, fd, &(struct handover_mark){.is_any_port = port_of(endpoint) == 0}, error);
}

// ":PORT": one IPv6 socket that takes IPv4 too; IPv4 alone where the kernel has no IPv6.
static bool open_wildcard(struct listener *listener, const struct endpoint *endpoint, struct error *error)
{
    struct error ipv6_error = ERROR_INIT;
    if (add_tcp(listener, endpoint, false, &ipv6_error))
        return true;
    bool no_ipv6 = ipv6_error.os_errno == EAFNOSUPPORT || ipv6_error.os_errno == EADDRNOTAVAIL;
    if (!no_ipv6) {
        error_pass(error, &ipv6_error);
        return false;
    }
    struct address ipv4 = listener->address;
    ipv4.family = ADDRESS_IPV4;
    struct endpoint any;
    return endpoint_of_address(&ipv4, &any) && add_tcp(listener, &any, false, error);
}

// Bounded: whoever opens listeners does nothing else meanwhile. What tells the process to end, ends the wait.
static bool resolve_listener(const struct address *address, struct resolved_addresses *resolved, struct error *error)
{
    struct client_watch nobody;
    struct error failure = ERROR_INIT;
    client_watch_init(&nobody, -1);
    nobody.interruption = signals_end_descriptor();
    if (resolve(address, &nobody, deadline_after(RESOLVE_TIMEOUT_S * NS_PER_S), resolved, &failure))
        return true;
    if (failure.code == ERROR_TIMEOUT)
        error_set(error, ERROR_TIMEOUT, "cannot listen on %s: the name was not resolved within %d s", address->host,
                  RESOLVE_TIMEOUT_S);
    else if (failure.code == ERROR_CANCELLED)
        error_set(error, ERROR_CANCELLED, "cannot listen on %s: the process is told to end", address->host);
    else
        error_pass(error, &failure);
    return false;
}

static bool open_tcp(struct listener *listener, struct error *error)
{
    struct resolved_addresses resolved;
    struct endpoint any;
    if (listener->address.host[0] == '\0' && listener->address.family == ADDRESS_ANY)
        return endpoint_of_address(&listener->address, &any) && open_wildcard(listener, &any, error);
    if (!resolve_listener(&listener->address, &resolved, error))
        return false;
    if (resolved_count(&resolved) > LISTENER_SOCKETS_MAX) {
        error_set(error, ERROR_INVALID, "cannot listen on %s: it has %zu addresses, the limit is %d",
                  listener->address.host, resolved_count(&resolved), LISTENER_SOCKETS_MAX);
        return false;
    }
    struct endpoint endpoint;
    for (int family = 0; family < RESOLVED_FAMILIES; family++)
        for (size_t i = 0; i < resolved.counts[family]; i++) {
            resolved_endpoint(&resolved, family, i, listener->address.port, &endpoint);
            if (!add_tcp(listener, &endpoint, true, error))
                return false;
        }
    return true;
}

// The file's access is changed as the last step, and comes back if the listener is given up.
static bool take_over_unix(struct listener *listener, int fd, const struct handover_mark *mark,
                           const struct unix_access *access, struct error *error)
{
    if (!add(listener, fd, mark, error))
        return false;
    listener->is_taken_over = true;
    listener->device = mark->device;
    listener->inode = mark->inode;
    listener->access_before = (struct unix_access)UNIX_ACCESS_ANY;
    return access == NULL || listener_set_access(listener, access, &listener->access_before, error);
}

static bool open_unix(struct listener *listener, const struct unix_access *access, struct error *error)
{
    struct endpoint endpoint;
    struct handover_mark mark = {.is_any_port = false};
    (void)endpoint_of_address(&listener->address, &endpoint); // a Unix socket always has one
    listener->is_local = true;
    int fd = handover_take_unix(&endpoint, &mark);
    if (fd >= 0)
        return take_over_unix(listener, fd, &mark, access, error);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        set_error(&endpoint, errno, error);
        return false;
    }
    bool good;
    if (!listener->address.is_abstract) {
        struct unix_socket_file file = {.device = 0};
        good = unix_socket_listen(fd, listener->address.path, LISTENER_QUEUE_MAX, access, &file, error);
        mark = (struct handover_mark){.device = file.device, .inode = file.inode};
    } else {
        good = bind(fd, &endpoint.address.any, endpoint.length) == 0 && listen(fd, LISTENER_QUEUE_MAX) == 0;
        if (!good)
            set_error(&endpoint, errno, error);
    }
    if (!good) {
        (void)close(fd);
        return false;
    }
    listener->device = mark.device;
    listener->inode = mark.inode;
    return add(listener, fd, &mark, error);
}

static bool open_inherited(struct listener *listener, struct error *error)
{
    int fd;
    if (!inherited_take(&listener->address, &fd, error))
        return false;
    listener->is_inherited = true;
    listener->is_connected = !inherited_is_listening(fd);
    listener->is_local = socket_is_unix(fd);
    struct endpoint peer;
    if (listener->is_connected && !socket_peer(fd, &peer)) {
        error_set(error, ERROR_INVALID, "cannot listen on fd://%d: it neither listens nor is connected", fd);
        inherited_return(fd, false);
        return false;
    }
    if (!listener->is_local)
        socket_prepare_tcp(fd, 0);
    socket_set_blocking(fd, listener->is_connected);
    listener->sockets[listener->socket_count++] = fd;
    return true;
}

bool listener_open(const struct address *address, const struct unix_access *access, struct listener *listener,
                   struct error *error)
{
    struct listener opened = {.address = *address};
    bool good = false;
    switch (address->kind) {
    case ADDRESS_TCP:
        good = open_tcp(&opened, error);
        break;
    case ADDRESS_UNIX:
        good = open_unix(&opened, access, error);
        break;
    case ADDRESS_FD:
        good = open_inherited(&opened, error);
        break;
    }
    if (good)
        *listener = opened;
    else
        listener_give_up(&opened);
    return good;
}

void listener_leave_given(struct listener *listener)
{
    size_t kept = 0;
    for (size_t i = 0; i < listener->socket_count; i++)
        if (!handover_is_given(listener->sockets[i]))
            listener->sockets[kept++] = listener->sockets[i];
    listener->socket_count = kept;
}

void listener_watch_clients(const struct listener *listener, int64_t keepalive_interval, int64_t user_timeout)
{
    if (listener->is_local || listener->is_inherited)
        return;
    for (size_t i = 0; i < listener->socket_count; i++) {
        if (keepalive_interval <= 0) // an earlier configuration may have set it
            socket_reset_keepalive_timing(listener->sockets[i]);
        socket_set_keepalive(listener->sockets[i], keepalive_interval);
        socket_set_user_timeout(listener->sockets[i], user_timeout);
    }
}

void listener_watch_client(const struct listener *listener, int fd, int64_t keepalive_interval, int64_t user_timeout)
{
    if (listener->is_local || !listener->is_inherited)
        return;
    if (keepalive_interval != 0)
        socket_set_keepalive(fd, keepalive_interval);
    if (user_timeout != 0)
        socket_set_user_timeout(fd, user_timeout);
}

bool listener_is_intact(const struct listener *listener)
{
    struct unix_socket_file file = {.device = listener->device, .inode = listener->inode};
    return listener->inode == 0 || unix_socket_is_there(listener->address.path, &file);
}

bool listener_set_access(const struct listener *listener, const struct unix_access *access, struct unix_access *before,
                         struct error *error)
{
    struct unix_socket_file file = {.device = listener->device, .inode = listener->inode};
    *before = (struct unix_access)UNIX_ACCESS_ANY;
    return listener->inode == 0 || unix_socket_set_access(listener->address.path, &file, access, before, error);
}

// Whether the file of a Unix socket is another process's to remove.
static bool is_given(const struct listener *listener)
{
    return listener->socket_count > 0 && handover_is_given(listener->sockets[0]);
}

static void remove_file(struct listener *listener)
{
    struct unix_socket_file file = {.device = listener->device, .inode = listener->inode};
    if (listener->inode != 0 && !is_given(listener))
        unix_socket_remove(listener->address.path, &file);
    listener->inode = 0;
}

static void close_sockets(struct listener *listener, bool spend_inherited)
{
    for (size_t i = 0; i < listener->socket_count; i++) {
        if (listener->is_inherited) {
            inherited_return(listener->sockets[i], spend_inherited);
            continue;
        }
        handover_forget(listener->sockets[i]);
        (void)close(listener->sockets[i]);
    }
    listener->socket_count = 0;
}

void listener_close(struct listener *listener)
{
    if (listener->is_taken_over && !handover_is_confirmed()) {
        listener_give_up(listener);
        return;
    }
    // The file goes first: while the socket lives, its inode's number cannot be another file's.
    remove_file(listener);
    close_sockets(listener, true);
}

void listener_give_up(struct listener *listener)
{
    struct unix_access changed;
    if (!listener->is_taken_over)
        remove_file(listener);
    else if (listener->inode != 0) // the process that has it still goes on
        (void)listener_set_access(listener, &listener->access_before, &changed, NULL);
    close_sockets(listener, false);
}

// Ending without losing anyone: nobody new is let in, and clients whose handshakes have begun can be waited for.

// On a listening socket a filter sees each segment that belongs to it, from the TCP header on.
static bool ignore_connecting(int fd)
{
    enum { TCP_FLAGS_OFFSET = 13 }; // RFC 9293, section 3.1
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, TCP_FLAGS_OFFSET),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, TH_SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    const struct sock_fprog filter = {.len = ARRAY_LENGTH(steps), .filter = steps};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0;
}

// For kernels that let only the privileged have filters. The first packet of a connection does not find a socket that
// is bound to another interface than its own, and no interface has this number. Later packets belong to a connection,
// and find that.
static bool bind_to_nowhere(int fd)
{
    const int nowhere = INT_MAX;
    int bound = 0;
    socklen_t size = sizeof bound;
    return setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &nowhere, sizeof nowhere) == 0 ||
           (getsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &bound, &size) == 0 && bound == nowhere); // it is already
}

bool listener_stop_arrivals(const struct listener *listener)
{
    bool all = true;
    for (size_t i = 0; i < listener->socket_count; i++) {
        int fd = listener->sockets[i];
        // shutdown() would reset the queue of a TCP socket.
        if (!(listener->is_local ? shutdown(fd, SHUT_RD) == 0 : ignore_connecting(fd) || bind_to_nowhere(fd)))
            all = false;
    }
    return all;
}

void listener_clear_filter(int fd)
{
    int unused = 0;
    (void)setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof unused); // fails if there is none
}

// Asks the kernel for the connections of that family and local port whose handshakes are under way (sock_diag(7)).
static bool ask_for_handshakes(int diag, uint8_t family, in_port_t port)
{
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 body;
    } request = {
        .head = {.nlmsg_len = sizeof request,
                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                 .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .body = {.sdiag_family = family,
                 .sdiag_protocol = IPPROTO_TCP,
                 .idiag_states = 1U << TCP_SYN_RECV,
                 .id = {.idiag_sport = port, .idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}}},
    };
    return send(diag, &request, sizeof request, 0) == (ssize_t)sizeof request;
}

// Reads the answer up to the first of them, or its end. It never has to be waited for.
static bool has_some(int diag)
{
    _Alignas(struct nlmsghdr) char answer[8192];
    for (;;) {
        ssize_t length = recv(diag, answer, sizeof answer, MSG_DONTWAIT);
        if (length < 0 && errno == EINTR)
            continue;
        const struct nlmsghdr *first = (const struct nlmsghdr *)answer;
        if (length < (ssize_t)sizeof *first || first->nlmsg_type == NLMSG_DONE || first->nlmsg_type == NLMSG_ERROR)
            return false;
        if (first->nlmsg_type == SOCK_DIAG_BY_FAMILY)
            return true;
    }
}

bool listener_has_handshakes(const struct listener *listener)
{
    // A client of an IPv6 socket may come by IPv4.
    static const uint8_t families[] = {AF_INET, AF_INET6};
    if (listener->is_local)
        return false;
    int diag = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (diag < 0)
        return false;
    bool found = false;
    for (size_t i = 0; !found && i < listener->socket_count; i++) {
        struct endpoint local;
        if (!socket_local(listener->sockets[i], &local))
            continue;
        for (size_t k = 0; !found && k < ARRAY_LENGTH(families); k++)
            found = ask_for_handshakes(diag, families[k], port_of(&local)) && has_some(diag);
    }
    (void)close(diag);
    return found;
}
