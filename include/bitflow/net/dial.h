// One attempt to connect to an address: resolve it, then race its endpoints as RFC 8305 says (families
// interleaved; a new non-blocking connect every 250 ms or when one fails; addresses that are resolved late join; the
// first to succeed wins), all before one deadline. An fd:// address is lent (net/inherited.h) instead. Any thread;
// blocks.

#ifndef BITFLOW_NET_DIAL_H
#define BITFLOW_NET_DIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/net/client_watch.h"

#define DIAL_ATTEMPT_DELAY (INT64_C(250) * 1000 * 1000) // ns; RFC 8305, 5: "Connection Attempt Delay"

struct dial_result {
    // Connected, close-on-exec; unless it is lent, non-blocking, and, of TCP, it has kept urgent data
    // (net/socket.h) from its first byte on. The caller's (inherited_return() it if is_lent).
    int fd;
    bool is_lent;
    struct endpoint remote; // length 0: none (an unnamed peer), or on failure none was tried
    int64_t resolve_time;   // ns; 0 where nothing was looked up
    int64_t connect_time;   // ns
};

struct dial_terms {
    int64_t deadline;              // base/clock.h
    enum address_family preferred; // whose addresses a name is connected to first; ADDRESS_ANY: the families take turns
    int64_t resolve_timeout; // ns, on name resolution within the deadline; 0: no bound of its own (net/resolver.h)
};

// On failure `result` still tells the times spent, and as `remote` the endpoint that was tried last, the one the
// error names (fd is -1). Where several endpoints failed, the error tells how many and why the last one did.
// ERROR_TIMEOUT, ERROR_REFUSED, ERROR_RESOLVE (also when `resolve_timeout` is over), ERROR_CANCELLED, ERROR_NO_*,
// ERROR_SYSTEM.
bool dial(const struct address *address, const struct dial_terms *terms, struct client_watch *watch,
          struct dial_result *result, struct error *error);

#endif
