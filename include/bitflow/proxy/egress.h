// The way out: connects to the first of the balancer's candidates that can be connected to, TLS handshake included,
// with each target's own attempts, backoff and timeout. Blocks; the connection's own thread.

#ifndef BITFLOW_PROXY_EGRESS_H
#define BITFLOW_PROXY_EGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/base/log.h"
#include "bitflow/config/config.h"
#include "bitflow/net/dial.h"
#include "bitflow/net/patience.h"
#include "bitflow/tls/tls_session.h"

#define EGRESS_BACKOFF_MAX (INT64_C(30) * 1000 * 1000 * 1000) // ns; a longer connect_backoff is its own bound

// What happened so far, also while it goes on and when it failed.
struct egress {
    const struct target_config *target; // the one tried last; NULL: none yet
    unsigned attempts;                  // over all targets
    int64_t resolve_time;               // ns, over all attempts
    int64_t connect_time;               // ns, likewise
    struct dial_result dialled;         // of the last attempt
    struct tls_session *tls;            // of the last attempt; NULL: plain, or no handshake was begun
    bool is_tls_failure;                // what the last attempt failed of
};

// Where to. Borrowed.
struct egress_plan {
    const struct proxy_config *settings;
    struct tls_context *const *tls; // by the target's index
    uint64_t turn;                  // of round-robin
    size_t chosen;                  // the one target to be tried; BALANCER_NO_MORE: the balancer's
};

// False: no target could be reached; the error is the last attempt's.
bool egress_connect(struct egress *egress, const struct egress_plan *plan, struct patience *patience,
                    const struct log_context *context, struct error *error);

// Wipes the session's keys. The socket is not closed.
void egress_release(struct egress *egress);

// The wait before attempt `attempt` (from 2), ns: backoff doubled each time up to EGRESS_BACKOFF_MAX, then varied by
// `random` (any 32 bits) within 20 % either way so that many connections do not retry in step.
int64_t egress_backoff(int64_t backoff, int64_t attempt, uint32_t random);

#endif
