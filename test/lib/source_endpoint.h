// Clients of the tests of source counts, and how one comes in.

#ifndef BITFLOW_TEST_SOURCE_ENDPOINT_H
#define BITFLOW_TEST_SOURCE_ENDPOINT_H

#include <stdio.h>

#include "bitflow/net/address.h"
#include "bitflow/proxy/source_counts.h"

// `text`: a literal with its port, or a Unix socket.
struct endpoint client_at(const char *text);

// The client of one of 2^16 IPv4 sources, or IPv6 ones.
struct endpoint client_of(unsigned source, bool is_ipv6);

// source_counts_enter() as a reason; CLOSE_NONE: it has entered. `error` may be NULL.
enum close_reason enter_source(struct source_counts *counts, const struct endpoint *client, int64_t limit,
                               struct source **source, struct error *error);

enum close_reason enter_within(struct source_counts *counts, const struct endpoint *client,
                               const struct source_limits *limits, struct source **source, struct error *error);

#endif
