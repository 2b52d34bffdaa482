// Listening sockets that pass from a process to the one that takes its place: not closed and opened again, but the same
// ones, so that no client finds the port closed and none is lost from a queue. Any socket that listener_open() has
// opened takes part. For a while both processes have them.
//
// They go over a channel, a pair of SOCK_SEQPACKET sockets: first a table in shared memory, then the sockets themselves
// (SCM_RIGHTS) in its order. In the table the one that takes over marks what it has taken. Inherited sockets (fd://) do
// not go this way: they keep their numbers (net/inherited.h).
//
// Any thread, but where it says otherwise; one lock inside, in the half of the process that hands over.

#ifndef BITFLOW_NET_HANDOVER_H
#define BITFLOW_NET_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"

// What the kernel does not tell of a socket.
struct handover_mark {
    bool is_any_port; // it was opened for port 0
    dev_t device;     // of a Unix socket's file
    ino_t inode;
};

// For listener.c: a socket listens; it is about to be closed.
bool handover_note(int fd, const struct handover_mark *mark, struct error *error);
void handover_forget(int fd);

// Another process has it, too, and serves its clients: its queue and its file are that one's.
bool handover_is_given(int fd);

// ---- The process that hands over; its main thread.

struct handover_table;

struct handover_offer {
    struct handover_table *table; // NULL: nothing is offered
    size_t size;                  // of its memory
    int *sockets;                 // in the table's order
};

// Sends all that is noted. Never waits: the channel's buffer has room, or ERROR_NO_MEMORY.
bool handover_send(int channel, struct handover_offer *offer, struct error *error);

// Ends the offer. `is_accepted`: what the other process has marked is given from now on.
void handover_settle(struct handover_offer *offer, bool is_accepted);

// ---- The process that takes over; its main thread, before it opens listeners.

// Waits for what handover_send() sends, until the deadline (base/clock.h). ERROR_INVALID: it is not understood;
// ERROR_NO_DESCRIPTORS, ERROR_SYSTEM.
bool handover_receive(int channel, int64_t deadline, struct error *error);

// The socket that listens at `endpoint`, for IPv6 with or without IPv4. A port 0 means the one socket that was opened
// for that. It is the caller's, non-blocking and close-on-exec. -1: there is none.
int handover_take_tcp(const struct endpoint *endpoint, bool v6_only);
// The same for a Unix socket; with a path, if `mark` is set to its file, which is where it was.
int handover_take_unix(const struct endpoint *endpoint, struct handover_mark *mark);

// Closes what nobody has taken. From now on handover_settle() of the other process knows what was.
void handover_close_rest(void);

// This process serves. Until then what it has taken over is still the other one's, and so are files.
void handover_confirm(void);
bool handover_is_confirmed(void);

#endif
