// A listening address: the sockets behind it, bound and listening. A host name listens on each of its
// addresses; ":PORT" on every address of both families. Owned by one thread (the proxy's acceptor).
//
// A Unix socket's stale file (nobody answers there) is replaced, a live one is not; ours is removed at the
// end, if it is still ours. An inherited socket (fd://) is used as it is: listening, or connected (it then
// serves that one connection).

#ifndef BITFLOW_NET_LISTENER_H
#define BITFLOW_NET_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/net/unix_access.h"

#define LISTENER_SOCKETS_MAX 16
// Clients of a socket that have connected and were not accepted yet; the kernel caps it at net.core.somaxconn.
#define LISTENER_QUEUE_MAX 4096

struct listener {
    struct address address;
    size_t socket_count;
    int sockets[LISTENER_SOCKETS_MAX]; // non-blocking, close-on-exec
    bool is_connected; // an inherited connected socket: sockets[0] is not to be accepted from, it is the connection
    bool is_inherited;
    bool is_local; // its clients come by a Unix socket, and have no IP address
    dev_t device;  // of the Unix socket's file, to know it again
    ino_t inode;
    bool is_taken_over; // a Unix socket that another process still has; its file had this access:
    struct unix_access access_before;
};

// Takes over the sockets that a former process handed over (net/handover.h), else resolves, binds and listens.
// `access`: of a Unix socket's file, which has it before anyone can connect; NULL: as the umask makes it. May wait for
// the resolver, at most 10 s, or until the process is told to end (ERROR_CANCELLED). False: nothing is left bound. The
// main thread only.
bool listener_open(const struct address *address, const struct unix_access *access, struct listener *listener,
                   struct error *error);

// Gives the file of a Unix socket another mode, user and group; `before` is what brings back what it had. False: it has
// them still. Does nothing for all others.
bool listener_set_access(const struct listener *listener, const struct unix_access *access, struct unix_access *before,
                         struct error *error);

// How the clients that come from now on are watched over (net/socket.h): their sockets inherit it from the listening
// one, at no cost for each. Those in the queue keep what they came with. Only for TCP sockets of our own: what an
// inherited one has is shared with others, and its clients get theirs by listener_watch_client(). Any thread.
void listener_watch_clients(const struct listener *listener, int64_t keepalive_interval, int64_t user_timeout);

// The same for one client of an inherited listener, once it is accepted; nothing for others.
void listener_watch_client(const struct listener *listener, int fd, int64_t keepalive_interval, int64_t user_timeout);

// Whether the file of a Unix socket is still the one that listener_open() made; true for all others.
bool listener_is_intact(const struct listener *listener);

// From now on nobody new gets into the queues, while who is in them can be accepted: a Unix socket refuses, a TCP
// socket lets the handshakes go on that have begun and leaves the first packet of others unanswered, or refuses it
// where the system grants no socket filter. False: the system cannot do that. Not for an inherited socket, which others
// may share. Any thread.
bool listener_stop_arrivals(const struct listener *listener);

// Whether clients are on their way into a queue: TCP handshakes with this host's port are under way. False, too, where
// the system does not tell. Looks at all of the system's connections. Any thread.
bool listener_has_handshakes(const struct listener *listener);

// A connection that was accepted after listener_stop_arrivals(), and may have the listener's filter, has none any more.
void listener_clear_filter(int fd);

// Leaves out the sockets that another process has taken over, whose queues are that one's. They are still to be closed
// by whoever has all of them.
void listener_leave_given(struct listener *listener);

// Closes the sockets (an inherited listening socket only our descriptor of it) and removes the Unix socket's file,
// unless another process has taken it over. Whoever takes an inherited connection (is_connected) sets socket_count to 0
// first and closes it in the end; its number stays in use for good, so that no later listener takes a stranger's socket
// for it.
void listener_close(struct listener *listener);

// The same for one that never let anyone in: an inherited socket stays open, and may be listened on again; the file of
// one that was taken over stays, as it was.
void listener_give_up(struct listener *listener);

#endif
