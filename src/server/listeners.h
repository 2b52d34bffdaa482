// The open listeners of the process: one acceptor for each proxy of the configuration in force. Changing them is all or
// nothing: listeners_change() first prepares everything that can fail, then switches over, which cannot. Those whose
// address stays are kept open. Used by the server's thread only.

#ifndef BITFLOW_SRC_SERVER_LISTENERS_H
#define BITFLOW_SRC_SERVER_LISTENERS_H

#include <stdbool.h>
#include <stddef.h>

#include "acceptor.h"
#include "bitflow/base/error.h"
#include "bitflow/config/config.h"
#include "bitflow/proxy/proxy.h"

struct listeners {
    struct runtime *runtime;
    void (*on_end)(void); // see acceptor_create()
    struct acceptor **acceptors;
    size_t count;
};

void listeners_init(struct listeners *listeners, struct runtime *runtime, void (*on_end)(void));

// Puts `config` in force, with its `tls_contexts` (by the proxy's index), of which each proxy that could be prepared
// takes its own. False: nothing has changed, and the error says which proxy could not be prepared and why.
bool listeners_change(struct listeners *listeners, const struct config *config, struct tls_contexts *tls_contexts,
                      struct error *error);

// Puts other TLS contexts in force, of the configuration that is in force already; which listeners are open, and all
// else, stays as it is. False: nothing has changed.
bool listeners_renew(struct listeners *listeners, const struct config *config, struct tls_contexts *tls_contexts,
                     struct error *error);

// Closes listeners whose sockets failed, and sets `any_failed` if there is one. Returns how many can still let a client
// in.
size_t listeners_close_failed(struct listeners *listeners, bool *any_failed);

// A process that was to take over has failed, and may have left settings of its own on the sockets.
void listeners_reclaim(const struct listeners *listeners);

// Has each listener's thread answer; the name of a proxy whose thread has not, since the last time; NULL: all have. See
// acceptor_ping().
void listeners_ping(struct listeners *listeners);
const char *listeners_find_silent(const struct listeners *listeners);

// Lets nobody new in, and lets each listener serve its queue: see acceptor_stop(), acceptor_hurry().
void listeners_stop(struct listeners *listeners);
bool listeners_have_ended(const struct listeners *listeners);
void listeners_hurry(struct listeners *listeners);

// Closes all of them.
void listeners_release(struct listeners *listeners);

#endif
