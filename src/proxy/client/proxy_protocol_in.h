// Whom the PROXY protocol's header declares a client to be. It is read from the client's socket before anything else,
// to its last byte and none beyond. Blocks, within the bound; the connection's own thread.

#ifndef BITFLOW_SRC_PROXY_CLIENT_PROXY_PROTOCOL_IN_H
#define BITFLOW_SRC_PROXY_CLIENT_PROXY_PROTOCOL_IN_H

#include <stddef.h>
#include <stdint.h>

#include "bitflow/net/address.h"
#include "bitflow/relay/close_reason.h"
#include "bitflow/wire/proxy_protocol.h"

struct proxy_protocol_in {
    unsigned version;           // of the protocol
    struct proxy_header header; // its texts are in `bytes`
    struct endpoint client;     // length 0: the socket's own ends count, here and below
    struct endpoint local;      // where the client connected to
    uint8_t bytes[];            // as they came
};

// NULL: it failed.
struct proxy_protocol_in *proxy_protocol_in_read(int client, int64_t deadline, struct failure *failure);

// Accepts NULL.
void proxy_protocol_in_free(struct proxy_protocol_in **in);

#endif
