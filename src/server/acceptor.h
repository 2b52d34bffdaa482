// One proxy's listener: a thread that accepts, turns away whom the configuration does not let in (authorized_sources,
// source_connection_limit, connection_limit), and hands everyone else to a worker; while workers wait for clients
// themselves (proxy/admission.h), it sleeps. It waits for nothing but clients, its orders and, where threads are short
// or at its end, workers that wait for clients.
//
// A listener belongs to an address, not to a name: a reload gives an acceptor whose address is still wanted its new
// generation and never closes its sockets. The server's thread owns acceptors and calls these functions.

#ifndef BITFLOW_SRC_SERVER_ACCEPTOR_H
#define BITFLOW_SRC_SERVER_ACCEPTOR_H

#include <stdbool.h>

#include "bitflow/base/error.h"
#include "bitflow/net/listener.h"
#include "bitflow/proxy/proxy.h"

struct acceptor;

// Takes over `listener` (on success only) and a reference to the generation; the thread waits for acceptor_open().
// `on_end` is called from the acceptor's thread when it ends by itself: an inherited connection was handed on, or its
// sockets failed. ERROR_NO_*, ERROR_SYSTEM.
struct acceptor *acceptor_create(struct runtime *runtime, struct generation *generation,
                                 const struct listener *listener, void (*on_end)(void), struct error *error);

// Lets clients in. Cannot fail, so that a reload can prepare everything before it changes anything.
void acceptor_open(struct acceptor *acceptor);

// From the next client on, `generation` (a reference is taken) is in force.
void acceptor_update(struct acceptor *acceptor, struct generation *generation);

// The same where only certificates differ: its sockets, which another process may have by now, are not touched.
void acceptor_renew(struct acceptor *acceptor, struct generation *generation);

// Gives its sockets the settings again that another process, which had them too, may have changed.
void acceptor_reclaim(const struct acceptor *acceptor);

const struct address *acceptor_address(const struct acceptor *acceptor);
// What is in force there; a reference, the caller's.
struct generation *acceptor_generation(const struct acceptor *acceptor);
// The proxy it serves at present.
struct proxy *acceptor_proxy(const struct acceptor *acceptor);
// Its sockets. Not to be looked at where it was made for one inherited connection (acceptor_is_connected()).
const struct listener *acceptor_listener(const struct acceptor *acceptor);

// Its thread has ended by itself.
bool acceptor_has_ended(const struct acceptor *acceptor);

// Has its thread answer, which it does at once when it sleeps, and with the next client when it has to do; and whether
// it has answered since the last time. One that hangs has not. Costs a thread that sleeps one wake-up.
void acceptor_ping(struct acceptor *acceptor);
bool acceptor_has_answered(const struct acceptor *acceptor);

// Clients can still find it: nobody removed or replaced a Unix socket's file.
bool acceptor_is_intact(const struct acceptor *acceptor);

// Who may connect to its Unix socket's file: as listener_set_access() has it.
bool acceptor_set_access(const struct acceptor *acceptor, const struct unix_access *access, struct unix_access *before,
                         struct error *error);

// It was made for one inherited connection, not for a listening socket.
bool acceptor_is_connected(const struct acceptor *acceptor);

// Its clients come by a Unix socket, and have no IP address.
bool acceptor_is_local(const struct acceptor *acceptor);

// Nobody new is let in; who queues already is served, unless the socket is an inherited one, and the thread ends, which
// acceptor_has_ended() and `on_end` tell. It takes a moment, and at most 5 s.
void acceptor_stop(struct acceptor *acceptor);

// After acceptor_stop(): who still queues is left.
void acceptor_hurry(struct acceptor *acceptor);

// Stops the thread, waits for its end, and closes the sockets. Accepts NULL.
void acceptor_destroy(struct acceptor **acceptor);

#endif
