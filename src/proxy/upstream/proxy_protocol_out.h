// What the PROXY protocol's header to a target tells of a connection. The connection's own thread.

#ifndef BITFLOW_SRC_PROXY_UPSTREAM_PROXY_PROTOCOL_OUT_H
#define BITFLOW_SRC_PROXY_UPSTREAM_PROXY_PROTOCOL_OUT_H

#include <stdint.h>

#include "bitflow/proxy/client.h"
#include "bitflow/wire/proxy_protocol.h"

#define PROXY_PROTOCOL_OUT_ID_SIZE sizeof "18446744073709551615"

// As much as the settings want to be told. The texts are borrowed from the client and from `id_text`, which is filled
// with the connection's id.
void proxy_protocol_out_describe(const struct client *client, const struct proxy_config *settings, uint64_t id,
                                 char id_text[PROXY_PROTOCOL_OUT_ID_SIZE], struct proxy_header *header);

#endif
