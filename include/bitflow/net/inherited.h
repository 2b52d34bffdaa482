// Descriptors that the parent process handed over: fd://N by number, fd://NAME by the names in LISTEN_FDNAMES
// (sd_listen_fds(3): descriptors 3 .. 3+LISTEN_FDS-1; LISTEN_PID, where set, must be ours).
//
// A connected one used as a target is lent to one connection at a time. It comes back unharmed only if no
// byte went either way; otherwise it is spent: what another connection would read or write there would be a
// stranger's stream. A listener takes its descriptor for good. A number and a name that mean the same
// descriptor share one state, and a number that has been closed stays gone, whatever the kernel gives it to
// next. Any thread; one lock inside.

#ifndef BITFLOW_NET_INHERITED_H
#define BITFLOW_NET_INHERITED_H

#include <stdbool.h>
#include <stddef.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"

// Notes which stream sockets were handed over (every one that is open now) and makes them close-on-exec;
// reads the environment's names and unsets the variables, so that no child of ours takes them for its own.
// Once, in main, before anything else opens a descriptor or starts a thread. Without it (in a unit test) any
// number can be used.
void inherited_init(void);

// The number behind an fd:// address. ERROR_INVALID if there is no such descriptor or name, or it is
// not a stream socket.
bool inherited_find(const struct address *address, int *fd, struct error *error);

// The same for a listener, which owns the descriptor from then on. ERROR_REFUSED if another has it.
bool inherited_take(const struct address *address, int *fd, struct error *error);

// Whether a stream socket listens.
bool inherited_is_listening(int fd);

// Lends the connected socket behind an fd:// address, made blocking. ERROR_REFUSED while it is lent, once it
// is spent, and when its peer has ended the stream; ERROR_INVALID if it listens.
bool inherited_lend(const struct address *address, int *fd, struct error *error);

// Ends a loan, or a listener's ownership; a spent descriptor is closed.
void inherited_return(int fd, bool spent);

// What a process that takes our place is to inherit, too: the sockets that listen and were not closed, by the same
// numbers, and the names in LISTEN_FDNAMES (NULL: there are none), of which there are name_count. Connected ones are
// left out: a stream has one reader.
struct inherited_sockets {
    int *descriptors;
    size_t count;
    char *names;
    int name_count;
};

// To be released. ERROR_NO_MEMORY.
bool inherited_for_successor(struct inherited_sockets *sockets, struct error *error);
void inherited_sockets_release(struct inherited_sockets *sockets);

// From now on a listening socket stays open when its listener is closed, for whoever this process becomes.
void inherited_hand_down(void);

#endif
