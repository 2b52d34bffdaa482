// The way out: connects to the first of the balancer's candidates that can be connected to, with each target's own
// attempts, backoff and timeout. An attempt is TCP (or a Unix socket), SOCKS5 where there is a server to connect
// through, the PROXY protocol's header, the TLS handshake, in this order. Blocks; the connection's own thread.

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
#include "bitflow/proxy/close_reason.h"
#include "bitflow/proxy/metrics.h"
#include "bitflow/proxy/target_state.h"
#include "bitflow/tls/tls_session.h"
#include "bitflow/wire/proxy_header.h"

#define EGRESS_BACKOFF_MAX (INT64_C(30) * 1000 * 1000 * 1000) // ns; a longer connect_backoff is its own bound

enum egress_step { EGRESS_DIAL, EGRESS_SOCKS, EGRESS_HEADER, EGRESS_TLS };

// What happened so far, also while it goes on and when it failed.
struct egress {
    const struct target_config *target; // the one tried last; NULL: none yet
    unsigned attempts;                  // over all targets
    int64_t resolve_time;               // ns, over all attempts
    int64_t connect_time;               // ns, likewise
    int64_t socks_time;                 // ns, likewise; 0: no SOCKS5 server was spoken to
    int64_t handshake_time;             // ns, likewise, of TLS; 0: no handshake was begun
    struct dial_result dialled;         // of the last attempt; with SOCKS5, the server's
    enum egress_step step;              // that the last attempt came to
    bool has_own_bound;                 // that step had one, nearer than connect_timeout
    bool is_header_sent;                // by the last attempt
    struct tls_session *tls;            // of the last attempt; NULL: plain, or no handshake was begun
    struct target_state *state;         // where this connection is counted; NULL: nowhere
};

// Where to, and how. Borrowed.
struct egress_plan {
    const struct proxy_config *settings;
    struct tls_context *const *tls;        // by the target's index
    struct target_state *const *states;    // likewise
    uint64_t turn;                         // of round-robin
    size_t chosen;                         // the one target to be tried; BALANCER_NO_MORE: the balancer's
    enum address_family preferred;         // for dual stack
    const struct proxy_header *header;     // to be sent; NULL: none
    struct target_metrics *const *metrics; // by the target's index; NULL: nothing is counted
};

// False: no target could be reached; the error is the last attempt's.
bool egress_connect(struct egress *egress, const struct egress_plan *plan, struct patience *patience,
                    const struct log_context *context, struct error *error);

// What it means that the last attempt failed with that error.
enum close_reason egress_failure(const struct egress *egress, enum error_code code);

// Counts the last attempt.
void egress_count_attempt(const struct egress *egress, struct target_metrics *metrics, bool is_connected,
                          enum error_code code);

// The connection is over: its target has one less.
void egress_leave(struct egress *egress);

// Wipes the session's keys. The socket is not closed.
void egress_release(struct egress *egress);

// The wait before attempt `attempt` (from 2), ns: backoff doubled each time up to EGRESS_BACKOFF_MAX, then varied by
// `random` (any 32 bits) within 20 % either way so that many connections do not retry in step.
int64_t egress_backoff(int64_t backoff, int64_t attempt, uint32_t random);

#endif
