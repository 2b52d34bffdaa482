// How many live connections each source of a proxy's clients has, for source_connection_limit. A source is an IPv4
// address, which an IPv4-mapped IPv6 address is, too (RFC 4291 2.5.5.2), or the first 64 bits of an IPv6 address:
// within those a host may have as many addresses as it likes (RFC 7934). Clients without an IP address have no source.
//
// Only what has a live connection is known, so the memory is bounded by the connections. It is a balanced tree: there
// is no hash that strangers could aim at, and nothing that has to grow. Any thread; one lock inside.

#ifndef BITFLOW_PROXY_SOURCE_COUNTS_H
#define BITFLOW_PROXY_SOURCE_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/mutex.h"
#include "bitflow/net/address.h"
#include "bitflow/relay/close_reason.h"

struct source;

struct source_counts {
    struct mutex lock;
    void *sources GUARDED; // by the lock; tsearch(3)'s tree of struct source
};

void source_counts_init(struct source_counts *counts);
// Every connection must have left.
void source_counts_release(struct source_counts *counts);

// One more connection of that client's source, if it has fewer than `limit`; `*source` is what it has to leave, NULL
// where nothing is counted: no limit (0), no IP address. False: CLOSE_SOURCE_CONNECTION_LIMIT, or CLOSE_OUT_OF_MEMORY,
// and `*source` is as it was.
bool source_counts_enter(struct source_counts *counts, const struct endpoint *client, int64_t limit,
                         struct source **source, struct failure *failure);

// Nulls the pointer; accepts NULL.
void source_counts_leave(struct source_counts *counts, struct source **source);

#endif
