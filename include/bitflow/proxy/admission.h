// Who comes in at one listener, by the generation in force: authorized_sources, proxy_protocol_sources,
// source_connection_limit, connection_limit. The same on whichever thread has accepted a client: the acceptor's, which
// hands it to a worker; or a worker that has just ended a connection and waits a moment for the next client, which
// saves the hand-over, a wake-up that is often another processor's.
//
// Shared by reference count: the acceptor has one, and each of its connections. Any thread.

#ifndef BITFLOW_PROXY_ADMISSION_H
#define BITFLOW_PROXY_ADMISSION_H

#include <stdbool.h>

#include "bitflow/base/error.h"
#include "bitflow/net/listener.h"
#include "bitflow/proxy/client.h"
#include "bitflow/proxy/proxy.h"

struct admission;
struct connection;

// With one reference, the caller's, and one to the generation. ERROR_NO_MEMORY.
struct admission *admission_create(struct runtime *runtime, struct generation *generation, struct error *error);
struct admission *admission_hold(struct admission *admission);
void admission_drop(struct admission **admission);

// From the next client on, `generation` (a reference is taken) is in force.
void admission_update(struct admission *admission, struct generation *generation);

// Nobody comes in any more; sharing has ended. Drops the generation, which connections that go on do not need.
void admission_close(struct admission *admission);

// The one in force, with a reference for the caller. Not after admission_close().
struct generation *admission_generation(struct admission *admission);

// Gives a client that was accepted to a worker, which owns it then; or turns it away, and closes it.
void admission_let_in(struct admission *admission, struct client *client);

// From now on workers may accept from the listener's sockets, until admission_end_sharing(), up to which they stay
// open; each time nobody waits any more, `bell` (an eventfd, borrowed as long) is rung. Where the system refuses it,
// the acceptor remains alone.
void admission_share(struct admission *admission, const struct listener *listener, int bell);

// Workers wait for clients, so that the caller need not, until the bell rings.
bool admission_is_awaited(struct admission *admission);

// Rings the bell, if workers wait, and returns when none waits any more.
void admission_end_sharing(struct admission *admission);

// For a worker whose connection has ended: waits a moment for the next client, unless enough others do, and lets it in.
// NULL: there is none.
struct connection *admission_await(struct admission *admission);

#endif
