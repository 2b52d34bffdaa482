// What is done to single sockets: options, timeouts, ways of closing. Stateless; any thread that owns the
// descriptor. Options are best effort where a failure could only mean "this kind of socket has no such
// option" (Unix sockets).

#ifndef BITFLOW_NET_SOCKET_H
#define BITFLOW_NET_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/net/address.h"

// SO_RCVTIMEO / SO_SNDTIMEO; ns, 0: none.
void socket_set_receive_timeout(int fd, int64_t timeout);
void socket_set_send_timeout(int fd, int64_t timeout);

void socket_set_nodelay(int fd);

// Its port may be had again while it waits for the end of its connection's time (SO_REUSEADDR).
void socket_reuse_port(int fd);

// Acknowledges at once what has been received. The kernel puts that off for up to 40 ms in a dialogue, since what is
// said next may carry it. To be called where nothing is said next: a peer without TCP_NODELAY keeps its next message
// until then. Does not last (tcp(7), TCP_QUICKACK). Other sockets ignore it.
void socket_acknowledge(int fd);

// What the peer sends as urgent data stays in the stream, at its place, instead of being lost to read() and splice()
// (SO_OOBINLINE; RFC 6093 3.1 asks for it). What has come in before is lost already: the call belongs before connect()
// and listen().
void socket_keep_urgent_data(int fd);

// interval in ns: 0 leaves the system's default (on, the kernel's timing), < 0 turns keepalive off, > 0 sets
// it, rounded up to a second, as TCP_KEEPIDLE and TCP_KEEPINTVL.
void socket_set_keepalive(int fd, int64_t interval);

// The timing that new sockets have, in place of what socket_set_keepalive() has set; on or off stays as it is.
void socket_reset_keepalive_timing(int fd);

// How long keepalive of this interval (> 0) waits for a peer that gives no sign any more, ns.
int64_t socket_keepalive_patience(int fd, int64_t interval);

// TCP_USER_TIMEOUT: how long written data may go unacknowledged, or a peer that acknowledges may have no room for more,
// before the connection fails (ETIMEDOUT). ns, rounded up to a millisecond; 0: as long as the kernel retransmits.
void socket_set_user_timeout(int fd, int64_t timeout);

enum socket_peer_state {
    SOCKET_PEER_HAS_ALL, // nothing that was written waits for it; also: not TCP
    SOCKET_PEER_IS_DUE,  // some does
    SOCKET_PEER_IS_LOST, // some does, was sent again, and nothing at all has come from it for so long
};

// What TCP knows of the peer. One that has no room but answers the kernel's questions for it is not lost. ns.
enum socket_peer_state socket_look_at_peer(int fd, int64_t patience);

// What every TCP socket that is relayed gets: TCP_NODELAY, keepalive of this interval, urgent data in the stream.
// Sockets that a listening one accepts inherit it, which saves these calls a connection.
void socket_prepare_tcp(int fd, int64_t keepalive_interval);

void socket_set_blocking(int fd, bool blocking);

bool socket_is_unix(int fd);

// Whether something can be read right now; an end of stream is nothing.
bool socket_has_data(int fd);

// About how many bytes a write would take without waiting; SIZE_MAX: the kernel does not tell.
size_t socket_room(int fd);

// Waits, at most until `deadline`, until the kernel has sent what was written to this TCP socket (sent, not
// acknowledged). Returns at once for others.
void socket_flush(int fd, int64_t deadline);

// Ends the sending direction, and drops what has come in and nobody will read: that would make close() a reset, and a
// reset makes the peer's kernel forget what we said last. Never waits.
void socket_end_and_drain(int fd);

// Makes the coming close() a reset (RST) instead of an orderly end, which also frees what was not sent. A Unix
// socket is just closed.
void socket_set_reset_on_close(int fd);

// The same and the close() at once.
void socket_reset(int fd);

// Ends the connection for every process that holds the socket, in order or with a reset; close() ends it only for
// the last one. The descriptor stays open.
void socket_disconnect(int fd, bool reset);

// Both return false, with `endpoint` unset, if the socket has no such address.
bool socket_local(int fd, struct endpoint *endpoint);
bool socket_peer(int fd, struct endpoint *endpoint);

#endif
