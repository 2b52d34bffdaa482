// What the kernel knows of a TCP connection (TCP_INFO, linux/tcp.h): how far away and how lossy the path is, and what
// arrived. Stateless; any thread, while the socket is open. One system call.

#ifndef BITFLOW_NET_TCP_PATH_INFO_H
#define BITFLOW_NET_TCP_PATH_INFO_H

#include <stdbool.h>
#include <stdint.h>

// -1: this kernel does not tell, or has not measured it.
struct tcp_path_info {
    int64_t rtt; // ns, smoothed
    int64_t rttvar;
    int64_t min_rtt;
    int64_t retransmits; // segments sent again, over the connection's life
    int64_t lost;        // segments now held to be lost
    int64_t unacked;     // segments under way
    int64_t unsent;      // bytes that the kernel still holds and has not sent
    // What the peer has acknowledged and what came from it, in bytes. The kernel may count a SYN and a FIN as one each.
    int64_t bytes_acked;
    int64_t bytes_received;
    int64_t delivery_rate; // bytes a second, of the most recent data that was acknowledged
};

// False, with `info` unset: it is not a TCP socket.
bool tcp_path_info_of(int fd, struct tcp_path_info *info);

#endif
