// Name resolution with a deadline. getaddrinfo() has none, so it runs on a helper thread of a bounded pool;
// whoever asked gives up at the deadline, or when the client leaves, and the helper frees the answer whenever
// it comes. Any thread.

#ifndef BITFLOW_NET_RESOLVE_H
#define BITFLOW_NET_RESOLVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/net/patience.h"

#define RESOLVE_ADDRESSES_MAX 32
#define RESOLVE_THREADS_MAX 64 // look-ups under way at once; above it a look-up fails

struct resolution {
    size_t count;
    struct endpoint endpoints[RESOLVE_ADDRESSES_MAX]; // in RFC 6724's order (the system's)
};

// An ADDRESS_TCP or ADDRESS_UNIX address; literals and Unix paths are answered without a thread.
// ERROR_RESOLVE (there is no such name, or no address of the wanted family), ERROR_TIMEOUT, ERROR_CANCELLED,
// ERROR_NO_*.
bool resolve(const struct address *address, struct patience *patience, int64_t deadline, struct resolution *resolution,
             struct error *error);

#endif
