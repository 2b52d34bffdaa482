// What is counted of a connection. All of it is a few relaxed additions; where metrics are off, one look at a flag.

#include <stdatomic.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "connection_internal.h"

static struct proxy_metrics *metrics_of(const struct connection *connection)
{
    return connection->generation->proxy->metrics;
}

void connection_count_accepted(const struct connection *connection)
{
    if (metrics_are_on(metrics_of(connection)))
        metric_add(&metrics_of(connection)->accepted, 1);
}

void connection_count_rejected(const struct generation *generation, enum close_reason reason)
{
    if (metrics_are_on(generation->proxy->metrics))
        metric_add(&generation->proxy->metrics->rejected[reason], 1);
}

static void time_phase(struct proxy_metrics *metrics, enum proxy_time which, int64_t duration)
{
    if (duration > 0)
        metric_time(&metrics->times[which], duration);
}

// Of the phases before the relay only those of connections that came to it: how long others took says what their bounds
// are.
void connection_count_connected(const struct connection *connection)
{
    struct proxy_metrics *metrics = metrics_of(connection);
    if (!metrics_are_on(metrics))
        return;
    for (enum phase phase = PHASE_ACCEPTING; phase < PHASE_RELAYING; phase++)
        if (phase_rows[phase].timer != PHASE_NO_TIMER)
            time_phase(metrics, phase_rows[phase].timer, connection->phases.spent[phase]);
    if (connection->upstream.tls != NULL) // the phase's time has those of failed attempts in it
        time_phase(metrics, PROXY_TIME_TARGET_HANDSHAKE, connection->upstream.tls->info.handshake_time);
}

// What has come since the last time. Under the registry's lock, or after the connection has left it.
static void count_progress(struct connection *connection, bool is_counted)
{
    struct proxy_metrics *metrics = metrics_of(connection);
    struct connection_reported *reported = &connection->reported;
    for (size_t side = 0; side < ARRAY_LENGTH(reported->bytes); side++) {
        uint64_t bytes = atomic_load_explicit(&connection->relay.sockets[side].bytes, memory_order_relaxed);
        if (is_counted && bytes > reported->bytes[side])
            metric_add(&metrics->bytes[side], bytes - reported->bytes[side]);
        reported->bytes[side] = bytes;
    }
    int64_t first_byte = atomic_load_explicit(&connection->relay.first_byte, memory_order_acquire);
    if (first_byte == 0 || reported->has_first_byte)
        return;
    reported->has_first_byte = true;
    if (is_counted)
        time_phase(metrics, phase_rows[PHASE_FIRST_BYTE].timer, first_byte - connection->phases.since);
}

static bool is_client_handshake(enum close_reason reason)
{
    return reason == CLOSE_CLIENT_HANDSHAKE_FAILED || reason == CLOSE_CLIENT_HANDSHAKE_TIMEOUT ||
           reason == CLOSE_UNRECOGNIZED_NAME || reason == CLOSE_NAME_NOT_AUTHORIZED;
}

// A handshake that was good and whose server name was not, or that was not begun because of it, has no failure itself.
static void count_handshake_failure(const struct connection *connection, enum close_reason reason)
{
    if (connection->generation->settings->listener.tls == NULL || !is_client_handshake(reason))
        return;
    enum tls_failure why = connection->client.tls == NULL ? TLS_FAILURE_NONE : connection->client.tls->info.failure;
    if (why == TLS_FAILURE_NONE)
        why = reason == CLOSE_CLIENT_HANDSHAKE_TIMEOUT ? TLS_FAILURE_TIMEOUT : TLS_FAILURE_SERVER_NAME;
    metric_add(&metrics_of(connection)->handshake_failed[why], 1);
}

void connection_count_closed(struct connection *connection)
{
    struct proxy_metrics *metrics = metrics_of(connection);
    if (!metrics_are_on(metrics))
        return;
    enum close_reason reason = connection->failure.reason;
    count_progress(connection, true);
    count_handshake_failure(connection, reason);
    metric_add(&metrics->closed[reason], 1);
    time_phase(metrics, PROXY_TIME_LIFETIME, connection->phases.ended - connection->phases.started);
}

static void visit(struct registry_entry *entry, void *argument)
{
    struct connection *connection = (struct connection *)((char *)entry - offsetof(struct connection, entry));
    const bool *is_counted = argument;
    metrics_of(connection)->counting++;
    count_progress(connection, *is_counted);
}

void connections_count_live(struct registry *registry, bool is_counted)
{
    registry_visit(registry, REGISTRY_VISIT_BATCH, visit, &is_counted);
}
