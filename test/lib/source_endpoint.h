// Clients of the tests of source counts.

#ifndef BITFLOW_TEST_SOURCE_ENDPOINT_H
#define BITFLOW_TEST_SOURCE_ENDPOINT_H

#include <stdio.h>

#include "bitflow/net/address.h"

// `text`: a literal with its port, or a Unix socket.
struct endpoint client_at(const char *text);

// The client of one of 2^16 IPv4 sources, or IPv6 ones.
struct endpoint client_of(unsigned source, bool is_ipv6);

#endif
