// Whom the PROXY protocol's header declares a client to be. It is read from the client's socket before anything else,
// to its last byte and none beyond. Blocks, within the bound; the connection's own thread.

#ifndef BITFLOW_SRC_PROXY_DECLARATION_H
#define BITFLOW_SRC_PROXY_DECLARATION_H

#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/relay/close_reason.h"
#include "bitflow/wire/proxy_protocol.h"

struct declaration {
    unsigned version;           // of the protocol
    struct proxy_header header; // its texts are in `bytes`
    struct endpoint client;     // length 0: the socket's own ends count, here and below
    struct endpoint local;      // where the client connected to
    uint8_t bytes[];            // as they came
};

// NULL: the connection is to end for that reason; the error has the words.
struct declaration *declaration_read(int client, int64_t deadline, enum close_reason *reason, struct error *error);

// Accepts NULL.
void declaration_free(struct declaration **declaration);

#endif
