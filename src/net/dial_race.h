// Racing the addresses of one name, the inside of dial(). Any thread; blocks.

#ifndef BITFLOW_SRC_NET_DIAL_RACE_H
#define BITFLOW_SRC_NET_DIAL_RACE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/net/client_watch.h"
#include "bitflow/net/dial.h"
#include "bitflow/net/resolver.h"

// Which address is next. Within a family the resolver's order stays. The families take turns (RFC 8305, 4, with a First
// Address Family Count of 1); where one is preferred, the other has its turn only when the preferred one's latest does
// not answer: what has failed has cost no time.
struct dial_order {
    enum address_family preferred;
    size_t begun[RESOLVED_FAMILIES]; // of each family
    int last;                        // the family begun last
};

// Tells the next address and leaves `order` as it is; addresses may have been added since the last time. `is_silent`:
// the one begun last has not failed. False: there is none.
bool dial_order_next(const struct dial_order *order, const struct resolved_addresses *resolved, bool is_silent,
                     int *family);

// Connects to one of the addresses, of which there is at least one, or one that `query` adds meanwhile. On success
// `result` has the socket, connected, non-blocking and close-on-exec. The endpoint is set in any case: the one that
// won, or the one that the error names.
bool dial_race(struct resolver_query *query, struct resolved_addresses *resolved, const struct dial_terms *terms,
               struct client_watch *watch, struct dial_result *result, struct error *error);

// A non-blocking connect to `endpoint`, an IP address. Returns the socket, connected or connecting, which keeps urgent
// data in the stream from its first byte on, or -1 with errno.
int dial_start(const struct endpoint *endpoint);

// A connecting socket that poll() found ready, with what it said: 0, or why the connect failed.
int dial_finish(const struct pollfd *ready, const struct endpoint *endpoint);

// Whether connect() has failed because no local port is left for connections to `endpoint`, which is not the fault of
// that address. The same EADDRNOTAVAIL says that no address of this host can reach it.
bool dial_lacks_port(const struct endpoint *endpoint, int os_errno);

// Says that connecting to `endpoint` failed, with the code that suits `os_errno`.
void dial_set_error(const struct endpoint *endpoint, int os_errno, struct error *error);

// Says why a wait ended without an answer. `os_errno` as client_watch_poll() left it.
void dial_set_wait_error(const struct endpoint *endpoint, enum client_watch_result result, int os_errno,
                         struct error *error);

#endif
