// Name resolution with a deadline. getaddrinfo() has none, so it runs on a helper thread of a bounded pool;
// whoever asked gives up at the deadline, or when the client leaves, and the answer is freed whenever it comes.
// Any thread.
//
// A name is looked up once at a time: who asks for one that is being looked up gets that answer too, so that a
// name whose servers are dead takes one thread, however many wait for it. Nothing is remembered once it is
// answered. Where every thread is busy with other names, a look-up waits its turn, first come first served.
// One lock, held for moments.

#ifndef BITFLOW_NET_RESOLVE_H
#define BITFLOW_NET_RESOLVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/net/patience.h"

#define RESOLVE_ADDRESSES_MAX 32
#define RESOLVE_THREADS_MAX 64 // names looked up at once; any others wait for one of these to end

struct resolution {
    size_t count;
    struct endpoint endpoints[RESOLVE_ADDRESSES_MAX]; // in RFC 6724's order (the system's)
};

// An ADDRESS_TCP or ADDRESS_UNIX address; literals and Unix paths are answered without a thread.
// ERROR_RESOLVE (there is no such name, or no address of the wanted family), ERROR_TIMEOUT (no answer, or no
// thread of the resolver, in time), ERROR_CANCELLED, ERROR_NO_*.
bool resolve(const struct address *address, struct patience *patience, int64_t deadline, struct resolution *resolution,
             struct error *error);

#define RESOLVE_DELAY (INT64_C(50) * 1000 * 1000) // ns; RFC 8305, 3: "Resolution Delay"

// Where a family is preferred (not ADDRESS_ANY): its addresses first, then the other's. The families of a name are
// looked up each by itself, so that a name server that does not answer for one holds up the other no longer than the
// deadline; then what has come counts. Once the preferred family has addresses, the other has RESOLVE_DELAY left.
bool resolve_preferring(const struct address *address, enum address_family preferred, struct patience *patience,
                        int64_t deadline, struct resolution *resolution, struct error *error);

#endif
