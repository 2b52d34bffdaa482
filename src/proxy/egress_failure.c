// What a failed attempt means, for the connection's end and for the counts of its target.

#include "bitflow/proxy/egress.h"

// What is special to a step.
static enum close_reason reason_of_failed_step(enum egress_step step, enum error_code code)
{
    switch (step) {
    case EGRESS_SOCKS:
        return code == ERROR_DENIED    ? CLOSE_SOCKS_AUTH_FAILED
               : code == ERROR_REFUSED ? CLOSE_SOCKS_REFUSED
                                       : CLOSE_SOCKS_FAILED;
    case EGRESS_TLS:
        return CLOSE_TARGET_HANDSHAKE_FAILED;
    case EGRESS_DIAL:
    case EGRESS_HEADER:
        break;
    }
    return code == ERROR_REFUSED ? CLOSE_CONNECT_REFUSED : CLOSE_CONNECT_FAILED;
}

static enum close_reason reason_of_timeout(const struct egress *egress)
{
    if (egress->has_own_bound && egress->step == EGRESS_SOCKS)
        return CLOSE_SOCKS_TIMEOUT;
    if (egress->has_own_bound && egress->step == EGRESS_HEADER)
        return CLOSE_TARGET_WRITE_TIMEOUT;
    if (egress->has_own_bound && egress->step == EGRESS_TLS)
        return CLOSE_TARGET_HANDSHAKE_TIMEOUT;
    return CLOSE_CONNECT_TIMEOUT;
}

enum close_reason egress_failure(const struct egress *egress, enum error_code code)
{
    switch (code) {
    case ERROR_CANCELLED:
        return CLOSE_CLIENT_LEFT;
    case ERROR_RESOLVE:
        return CLOSE_RESOLVE_FAILED;
    case ERROR_TIMEOUT:
        return reason_of_timeout(egress);
    case ERROR_NO_DESCRIPTORS:
        return CLOSE_OUT_OF_DESCRIPTORS;
    case ERROR_NO_PORTS:
        return CLOSE_OUT_OF_PORTS;
    case ERROR_NO_THREADS:
        return CLOSE_OUT_OF_THREADS;
    case ERROR_NO_MEMORY:
        return CLOSE_OUT_OF_MEMORY;
    default:
        return reason_of_failed_step(egress->step, code);
    }
}

void egress_count_attempt(const struct egress *egress, struct target_metrics *metrics, bool is_connected,
                          enum error_code code)
{
    metric_add(&metrics->attempts, 1);
    if (is_connected)
        return;
    metric_add(&metrics->failed[egress_failure(egress, code)], 1);
    if (egress->step != EGRESS_TLS)
        return;
    enum tls_failure why = egress->tls != NULL ? egress->tls->facts.failure : TLS_FAILURE_OUT_OF_MEMORY;
    metric_add(&metrics->handshake_failed[why], 1);
}
