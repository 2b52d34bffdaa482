// Racing the endpoints of one name, the inside of dial(). Any thread; blocks.

#ifndef BITFLOW_NET_DIAL_RACE_H
#define BITFLOW_NET_DIAL_RACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"
#include "bitflow/net/patience.h"
#include "bitflow/net/resolve.h"

// Puts the order of connecting into `order`. Within a family the resolver's order stays. Without a preferred family
// they take turns, the first endpoint's first (RFC 8305, 4, with a First Address Family Count of 1); else all of the
// preferred one come before the others.
void dial_race_order(const struct resolution *resolution, enum address_family preferred,
                     uint8_t order[RESOLVE_ADDRESSES_MAX]);

// Connects to one of the endpoints, of which there is at least one. On success `fd` is connected, blocking and
// close-on-exec. `last` is set in any case: to the index of the endpoint that won, or of the one the error names.
bool dial_race(const struct resolution *resolution, enum address_family preferred, struct patience *patience,
               int64_t deadline, int *fd, size_t *last, struct error *error);

// A non-blocking connect to `endpoint`. Returns the socket, connected or connecting, or -1 with errno.
int dial_start(const struct endpoint *endpoint);

// A connecting socket that poll() found ready: 0, or why it failed.
int dial_finish(int fd, const struct endpoint *endpoint);

// Says that connecting to `endpoint` failed, with the code that suits `os_errno`.
void dial_set_error(const struct endpoint *endpoint, int os_errno, struct error *error);

// Says why a wait ended without an answer. `os_errno` as patience_poll() left it.
void dial_set_wait_error(const struct endpoint *endpoint, enum patience_result result, int os_errno,
                         struct error *error);

#endif
