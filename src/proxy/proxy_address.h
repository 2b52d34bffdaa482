// The ends of a connection as the PROXY protocol has them, and as the kernel has them. Pure functions; any thread.

#ifndef BITFLOW_SRC_PROXY_PROXY_ADDRESS_H
#define BITFLOW_SRC_PROXY_PROXY_ADDRESS_H

#include "bitflow/net/address.h"
#include "bitflow/wire/proxy_protocol.h"

// What has no place in the protocol is PROXY_HEADER_UNKNOWN.
void proxy_address_of_endpoint(const struct endpoint *endpoint, struct proxy_header_address *end);

// PROXY_HEADER_UNKNOWN gives none, length 0.
void endpoint_of_proxy_address(const struct proxy_header_address *end, struct endpoint *endpoint);

#endif
