// The way in, before a target is chosen: whom the PROXY protocol's header declares, where there must be one; which
// server name the client asks for, where that matters; and TLS where the listener speaks it. Blocks, within each one's
// bound; the connection's own thread.

#ifndef BITFLOW_SRC_PROXY_INGRESS_H
#define BITFLOW_SRC_PROXY_INGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/proxy/proxy.h"
#include "bitflow/relay/close_reason.h"
#include "bitflow/tls/tls_session.h"
#include "bitflow/wire/client_hello.h"
#include "declaration.h"

enum ingress_step { INGRESS_NONE, INGRESS_PROXY_HEADER, INGRESS_CLIENT_HELLO, INGRESS_TLS };

// What is known of the client so far, also when it failed.
struct ingress {
    struct declaration *declared;                // NULL: no PROXY protocol header came
    char server_name[CLIENT_HELLO_NAME_MAX + 1]; // SNI, in lower case; empty: none, or not looked at
    struct tls_session *tls;                     // NULL: plain, or no handshake was begun
    struct target *target;                       // the one that the server name chose; NULL: it does not
    enum ingress_step step;                      // that it came to
    int64_t proxy_header_time;                   // ns, of waiting for and reading it; 0: none was expected
    int64_t client_hello_time;                   // likewise, of looking at the server name
};

// Begins with whom the client is declared to be, where the listener wants a PROXY protocol header. False: the
// connection is to end for that reason; the error has the words.
bool ingress_declare(struct ingress *ingress, const struct listener_config *listener, int client,
                     enum close_reason *reason, struct error *error);

// What comes after it. Likewise.
bool ingress_admit(struct ingress *ingress, const struct generation *generation, int client, enum close_reason *reason,
                   struct error *error);

// Frees what it holds, and wipes the session's keys.
void ingress_release(struct ingress *ingress);

#endif
