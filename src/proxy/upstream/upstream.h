// The way out: connects to the first of the balancer's candidates that can be connected to, with each target's own
// attempts, backoff and timeout. An attempt is TCP (or a Unix socket), SOCKS5 where there is a server to connect
// through, the PROXY protocol's header, the TLS handshake, in this order. Blocks; the connection's own thread.

#ifndef BITFLOW_SRC_PROXY_UPSTREAM_UPSTREAM_H
#define BITFLOW_SRC_PROXY_UPSTREAM_UPSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../connection/phases.h"
#include "bitflow/base/log.h"
#include "bitflow/config/config.h"
#include "bitflow/net/client_watch.h"
#include "bitflow/net/dial.h"
#include "bitflow/proxy/proxy.h"
#include "bitflow/relay/close_reason.h"
#include "bitflow/tls/tls_session.h"
#include "bitflow/wire/proxy_protocol.h"

#define UPSTREAM_BACKOFF_MAX (INT64_C(30) * 1000 * 1000 * 1000) // ns; a longer connect_backoff is its own bound

// What happened so far, also while it goes on and when it failed.
struct upstream {
    // The one tried last; NULL: none yet. The rest is the connection's thread's until the relay begins.
    _Atomic(struct target *) target;
    bool is_counted;            // this connection is among its target's
    unsigned attempts;          // over all targets
    struct dial_result dialled; // of the last attempt; with SOCKS5, the server's
    bool is_header_sent;        // by the last attempt
    bool is_unprepared;         // TCP_NODELAY and keepalive are left to the relay (relay.h)
    struct tls_session *tls;    // of the last attempt; NULL: plain, or no handshake was begun
};

// On whose behalf, and how. Borrowed.
struct upstream_terms {
    const struct generation *generation;
    struct target *chosen;             // by the client's server name; NULL: the balancer is to choose
    enum address_family preferred;     // for dual stack
    const struct proxy_header *header; // to be sent; NULL: none
    bool is_client_plain;              // no TLS session with it
    struct client_watch *watch;        // of the client, which may leave
    const struct log_context *context;
};

// False: no target could be reached; the failure is the last attempt's.
bool upstream_connect(struct upstream *upstream, const struct upstream_terms *terms, struct phases *phases,
                      struct failure *failure);

// The connection is over: its target has one less.
void upstream_leave(struct upstream *upstream);

// Wipes the session's keys. The socket is not closed.
void upstream_release(struct upstream *upstream);

// The wait before attempt `attempt` (from 2), ns: backoff doubled each time up to UPSTREAM_BACKOFF_MAX, then varied by
// `random` (any 32 bits) within 20 % either way so that many connections do not retry in step.
int64_t upstream_backoff(int64_t backoff, int64_t attempt, uint32_t random);

#endif
