// How many live connections each source of a proxy's clients has, and how often it makes new ones, for
// source_connection_limit and source_connection_rate. A source is an IPv4 address, which an IPv4-mapped IPv6 address
// is, too (RFC 4291 2.5.5.2), or the first 64 bits of an IPv6 address: within those a host may have as many addresses
// as it likes (RFC 7934). The lengths can be set. Clients without an IP address have no source.
//
// Known are the sources that have a live connection, whose number those bound, and with a rate those that have not
// been away for long enough to have all of their burst again: at most SOURCES_RESTING_MAX. The one that was not seen
// for the longest time is forgotten for another, and has its whole burst when it comes again. All that costs grows with
// the logarithm of their number: they are in a balanced tree, as there is no hash that strangers could aim at, and
// nothing that has to grow. Any thread; one lock inside.

#ifndef BITFLOW_PROXY_SOURCE_COUNTS_H
#define BITFLOW_PROXY_SOURCE_COUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "bitflow/base/mutex.h"
#include "bitflow/config/config.h"
#include "bitflow/net/address.h"
#include "bitflow/relay/close_reason.h"

// Sources without a connection, of a proxy; some 128 bytes each.
#define SOURCES_RESTING_MAX ((size_t)16384)

struct source;
TAILQ_HEAD(source_list, source);

struct source_counts {
    struct mutex lock;
    void *sources GUARDED;              // by the lock; tsearch(3)'s tree of struct source
    struct source_list resting GUARDED; // those without a connection, the longest unseen first
    size_t resting_count GUARDED;
};

struct source_limits {
    int64_t connections;  // live ones; 0: no limit
    int64_t rate;         // new ones a second; 0: no limit
    int64_t burst;        // at least 1: how many of those may come at once
    unsigned ipv4_prefix; // bits of an address that tell sources apart
    unsigned ipv6_prefix;
};

struct source_limits source_limits_of(const struct proxy_config *settings);

void source_counts_init(struct source_counts *counts);
// Every connection must have left.
void source_counts_release(struct source_counts *counts);

// One more connection of that client's source, if it is within the limits; `*source` is what it has to leave, NULL
// where nothing is counted: no limits, no IP address. False: CLOSE_SOURCE_CONNECTION_LIMIT,
// CLOSE_SOURCE_CONNECTION_RATE or CLOSE_OUT_OF_MEMORY, and `*source` is as it was. Who is refused has used up nothing.
bool source_counts_enter(struct source_counts *counts, const struct endpoint *client,
                         const struct source_limits *limits, struct source **source, struct failure *failure);

// Nulls the pointer; accepts NULL.
void source_counts_leave(struct source_counts *counts, struct source **source);

// The same for a client that was turned away by something else right after: it gets back what it took of the rate.
// `limits` as it entered by.
void source_counts_cancel(struct source_counts *counts, struct source **source, const struct source_limits *limits);

#endif
