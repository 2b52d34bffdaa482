// Descriptors that the parent process handed over: fd://N by number, fd://NAME by the names in LISTEN_FDNAMES
// (sd_listen_fds(3): descriptors 3 .. 3+LISTEN_FDS-1; LISTEN_PID, where set, must be ours).
//
// A connected one used as a target is lent to one connection at a time. It comes back unharmed only if no byte went
// either way; otherwise it is spent: what another connection would read or write there would be a stranger's stream.
// Any thread; one lock inside.

#ifndef BITFLOW_NET_INHERITED_H
#define BITFLOW_NET_INHERITED_H

#include <stdbool.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"

// Reads the environment. Once, in main, before any thread is started; unsets the variables so that no child of ours
// takes them for its own.
void inherited_init(void);

// The number behind an fd:// address. ERROR_INVALID if there is no such descriptor or name, or it is no stream socket.
bool inherited_find(const struct address *address, int *fd, struct error *error);

// Lends the connected socket behind an fd:// address. ERROR_REFUSED while it is lent, or once it is spent.
bool inherited_borrow(const struct address *address, int *fd, struct error *error);

// Ends the loan; a spent descriptor is closed.
void inherited_return(int fd, bool spent);

#endif
