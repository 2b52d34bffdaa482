// Local ports for connections that this host makes. Whoever ends a TCP connection first keeps its port for a minute
// (TIME_WAIT), and where clients end first, a proxy is the first towards its targets. Linux takes such a port again for
// a connection to the same address only if net.ipv4.tcp_tw_reuse says so, but at once for a socket that has been bound
// to it, since TCP's timestamps tell the two connections apart. For that both need SO_REUSEADDR: the new one, and the
// one that waits, from before it did. So sockets that will wait are marked, once there are many, and a connection that
// finds no port tries those that wait. Any thread; no lock.

#ifndef BITFLOW_NET_LOCAL_PORTS_H
#define BITFLOW_NET_LOCAL_PORTS_H

#include <stdbool.h>

#include "bitflow/net/address.h"

// Before the sending direction of a connection that this host has made is closed, as the first one. The first eighth of
// the ports within a minute cost no system call, and stay as they are.
void local_ports_note_end(int fd);

// connect() has found no port: a new non-blocking connect to `endpoint`, an IP address, from one that waits. Returns
// the socket, connected or connecting, which keeps urgent data in the stream; or -1.
int local_ports_connect_again(const struct endpoint *endpoint);

// Whether the kernel may choose the port of `endpoint`, an IP address, as the local one of a connection: only then TCP
// can have connected to itself. net.ipv4.ip_local_port_range, IPv6's too, is read again after a second: it may change
// at any time. True where it cannot be read.
bool local_ports_include(const struct endpoint *endpoint);

#endif
