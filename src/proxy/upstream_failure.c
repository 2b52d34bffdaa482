// What a failed attempt means, for the connection's end and for the counts of its target.

#include "upstream.h"

// What is special to a step.
static enum close_reason reason_of_failed_step(enum upstream_step step, enum error_code code)
{
    switch (step) {
    case UPSTREAM_SOCKS:
        return code == ERROR_DENIED    ? CLOSE_SOCKS_AUTH_FAILED
               : code == ERROR_REFUSED ? CLOSE_SOCKS_REFUSED
                                       : CLOSE_SOCKS_FAILED;
    case UPSTREAM_TLS:
        return CLOSE_TARGET_HANDSHAKE_FAILED;
    case UPSTREAM_DIAL:
    case UPSTREAM_HEADER:
        break;
    }
    return code == ERROR_REFUSED ? CLOSE_CONNECT_REFUSED : CLOSE_CONNECT_FAILED;
}

static enum close_reason reason_of_timeout(const struct upstream *upstream)
{
    if (upstream->has_own_bound && upstream->step == UPSTREAM_SOCKS)
        return CLOSE_SOCKS_TIMEOUT;
    if (upstream->has_own_bound && upstream->step == UPSTREAM_HEADER)
        return CLOSE_TARGET_WRITE_TIMEOUT;
    if (upstream->has_own_bound && upstream->step == UPSTREAM_TLS)
        return CLOSE_TARGET_HANDSHAKE_TIMEOUT;
    return CLOSE_CONNECT_TIMEOUT;
}

enum close_reason upstream_failure(const struct upstream *upstream, enum error_code code)
{
    switch (code) {
    case ERROR_CANCELLED:
        return CLOSE_CLIENT_LEFT;
    case ERROR_RESOLVE:
        return CLOSE_RESOLVE_FAILED;
    case ERROR_TIMEOUT:
        return reason_of_timeout(upstream);
    case ERROR_NO_DESCRIPTORS:
        return CLOSE_OUT_OF_DESCRIPTORS;
    case ERROR_NO_PORTS:
        return CLOSE_OUT_OF_PORTS;
    case ERROR_NO_THREADS:
        return CLOSE_OUT_OF_THREADS;
    case ERROR_NO_MEMORY:
        return CLOSE_OUT_OF_MEMORY;
    default:
        return reason_of_failed_step(upstream->step, code);
    }
}

void upstream_count_attempt(const struct upstream *upstream, bool is_connected, enum error_code code)
{
    struct target_metrics *metrics = upstream->target->metrics;
    metric_add(&metrics->attempts, 1);
    if (is_connected)
        return;
    metric_add(&metrics->failed[upstream_failure(upstream, code)], 1);
    if (upstream->step != UPSTREAM_TLS)
        return;
    enum tls_failure why = upstream->tls != NULL ? upstream->tls->info.failure : TLS_FAILURE_OUT_OF_MEMORY;
    metric_add(&metrics->handshake_failed[why], 1);
}
