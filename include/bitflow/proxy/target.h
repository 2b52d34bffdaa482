// A target as the connections of one generation see it: how it is set up, and what is shared with other generations,
// since it outlives a reload:
//   - how many connections it has, for as long as its name and address stay;
//   - its health, for as long as it is also reached by the same route (SOCKS5 server, TLS context with its files, PROXY
//     header): what failed before a mistake was corrected says nothing about the time after it;
//   - what is counted of it, under its name, until that has been reported (proxy/metrics.h).
// Each is found again by its name or a fingerprint (base/shared.h). The proxy's lock guards where they are found, which
// reloads take; what connections touch is atomic. Any thread.

#ifndef BITFLOW_PROXY_TARGET_H
#define BITFLOW_PROXY_TARGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/base/shared.h"
#include "bitflow/config/config.h"
#include "bitflow/proxy/metrics.h"
#include "bitflow/tls/tls_context.h"

struct health; // src/proxy/upstream/health.h
struct proxy;

struct target_load {
    struct shared shared;
    _Atomic uint64_t active; // connections, those that are being made included
};

struct target {
    const struct target_config *settings;
    struct tls_context *tls; // NULL: plain
    struct target_load *load;
    struct health *health;
    struct target_metrics *metrics;
};

// Finds what is shared. `settings` are the proxy's, which say more about the route than the target's own. False:
// ERROR_NO_MEMORY; target_release() is due all the same. `tls` is looked at, and not taken over.
bool target_init(struct target *target, struct proxy *proxy, const struct proxy_config *settings,
                 const struct target_config *target_settings, const struct tls_context *tls, struct error *error);

// Gives back what is shared, and wipes the TLS context. Accepts one of zeros.
void target_release(struct target *target, struct proxy *proxy);

// Of passive health, in a word: "up"; "out", it is passed over; "due", the next connection tries it. NULL: it is not
// watched (max_fails).
const char *target_state(const struct target *target);

// One more connection, and one less.
void target_enter(struct target *target);
void target_leave(struct target *target);

#endif
