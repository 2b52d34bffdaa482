// The client of a connection, as far as it is known: its socket, whom the PROXY protocol's header declares it to be,
// which server name it asks for, its TLS. The acceptor fills in what accept() tells; client_admit() does the rest, each
// part within its own bound. Blocks; the connection's own thread.

#ifndef BITFLOW_PROXY_CLIENT_H
#define BITFLOW_PROXY_CLIENT_H

#include <stdbool.h>

#include "bitflow/net/address.h"
#include "bitflow/proxy/proxy.h"
#include "bitflow/relay/close_reason.h"
#include "bitflow/tls/tls_session.h"
#include "bitflow/wire/client_hello.h"

struct phases;

struct client {
    int fd;
    struct endpoint peer;
    const struct endpoint *local; // where it connected to, as its admission knows; NULL: that does not, ask the socket
    bool is_inherited;            // other processes may hold the socket, too
    struct source *source;        // that it counts for, of the proxy's; NULL: none
    struct unix_credentials credentials; // of a Unix socket's peer, where authorized_peers asks for them
    // From here on zero until client_admit():
    struct proxy_protocol_in *declared;          // NULL: no PROXY protocol header came
    struct tls_session *tls;                     // NULL: plain, or no handshake was begun
    struct target *target;                       // the one that the server name chose; NULL: it does not
    char server_name[CLIENT_HELLO_NAME_MAX + 1]; // SNI, in lower case; empty: none, or not looked at
};

// Reads the PROXY protocol's header, where the listener wants one, and only then knows whose source counts; looks at
// the server name, where it chooses the target; shakes hands, where the listener speaks TLS.
bool client_admit(struct client *client, const struct generation *generation, struct phases *phases,
                  struct failure *failure);

// Who it is: as it was declared, or else the socket's other end.
const struct endpoint *client_address(const struct client *client);

// Where it connected to: likewise. Its socket is open.
void client_local_address(const struct client *client, struct endpoint *local);

// Closes the socket; one that others hold as well is first disconnected, in order or by a reset.
void client_close(const struct client *client, bool reset);

// Frees what it holds, and wipes the session's keys.
void client_release(struct client *client);

#endif
