// How a listener ends without losing anyone: nobody new is let in, and who is on the way can be waited for.

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

#include "bitflow/base/compiler.h"
#include "bitflow/net/listener.h"
#include "bitflow/net/socket.h"

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

// For kernels that let only the privileged have filters. A socket that is bound to an interface is found by no first
// packet of another's, and there is none of this number. What comes later belongs to a connection, and finds that.
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
