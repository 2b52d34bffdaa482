// The ends of a connection as the PROXY protocol has them, and as the kernel has them. Pure functions; any thread.

#ifndef BITFLOW_SRC_PROXY_HEADER_END_H
#define BITFLOW_SRC_PROXY_HEADER_END_H

#include "bitflow/net/address.h"
#include "bitflow/wire/proxy_protocol.h"

// What has no place in the protocol is PROXY_HEADER_UNKNOWN.
void header_end_of_endpoint(const struct endpoint *endpoint, struct proxy_header_end *end);

// PROXY_HEADER_UNKNOWN gives none, length 0.
void endpoint_of_header_end(const struct proxy_header_end *end, struct endpoint *endpoint);

#endif
