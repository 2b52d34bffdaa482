#include "metrics_walk.h"

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/proxy/connection.h"
#include "bitflow/relay/relay.h"
#include "bitflow/sentry/sentry.h"
#include "process_usage.h"

// A walk for one metric.
struct walk {
    struct metrics_source *source;
    const struct process_usage *usage;
    struct metrics_sink *sink;
    enum metric metric;
};

void metrics_count_live(struct metrics_source *source, bool is_counted)
{
    struct metrics *metrics = &source->runtime->metrics;
    struct proxy_metrics *proxy = NULL;
    mutex_lock(&source->counting);
    while ((proxy = metrics_next_proxy(metrics, proxy)) != NULL)
        proxy->counting = 0;
    connections_count_live(source->runtime->registry, is_counted);
    while ((proxy = metrics_next_proxy(metrics, proxy)) != NULL)
        atomic_store_explicit(&proxy->live, proxy->counting, memory_order_relaxed);
    mutex_unlock(&source->counting);
}

// --- names

// With room for more labels.
static struct metric_name name_of(enum metric metric)
{
    return (struct metric_name){.pattern = metric_kind(metric)->pattern};
}

static struct metric_name with_label(struct metric_name name, const char *key, const char *value)
{
    name.labels[name.label_count++] = (struct metric_label){.key = key, .value = value};
    return name;
}

// --- reasons and causes
//
// What can happen is reported before it has happened for the first time, as 0: what a graph shows of a counter that is
// not there before leaves the first one out. What is not in these lists, and is counted all the same, is reported from
// then on.

static const enum close_reason reasons_at_the_door[] = {
    CLOSE_PROXY_SOURCE_NOT_TRUSTED, CLOSE_SOURCE_NOT_AUTHORIZED,  CLOSE_PEER_NOT_AUTHORIZED,
    CLOSE_SOURCE_CONNECTION_LIMIT,  CLOSE_SOURCE_CONNECTION_RATE, CLOSE_CONNECTION_LIMIT,
    CLOSE_OUT_OF_DESCRIPTORS,       CLOSE_OUT_OF_THREADS,         CLOSE_OUT_OF_MEMORY};

static const enum close_reason reasons_at_the_door_alone[] = {
    CLOSE_PROXY_SOURCE_NOT_TRUSTED, CLOSE_SOURCE_NOT_AUTHORIZED, CLOSE_PEER_NOT_AUTHORIZED, CLOSE_CONNECTION_LIMIT};

static const enum close_reason reasons_of_dials[] = {CLOSE_TARGET_WRITE_TIMEOUT,
                                                     CLOSE_TARGET_HANDSHAKE_FAILED,
                                                     CLOSE_TARGET_HANDSHAKE_TIMEOUT,
                                                     CLOSE_CLIENT_LEFT,
                                                     CLOSE_RESOLVE_FAILED,
                                                     CLOSE_CONNECT_REFUSED,
                                                     CLOSE_CONNECT_TIMEOUT,
                                                     CLOSE_CONNECT_FAILED,
                                                     CLOSE_SOCKS_AUTH_FAILED,
                                                     CLOSE_SOCKS_REFUSED,
                                                     CLOSE_SOCKS_FAILED,
                                                     CLOSE_SOCKS_TIMEOUT,
                                                     CLOSE_OUT_OF_DESCRIPTORS,
                                                     CLOSE_OUT_OF_PORTS,
                                                     CLOSE_OUT_OF_MEMORY};

static bool is_among(enum close_reason reason, const enum close_reason *reasons, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (reasons[i] == reason)
            return true;
    return false;
}

static bool can_happen(enum metric metric, enum close_reason reason)
{
    if (metric == METRIC_REJECTED)
        return is_among(reason, reasons_at_the_door, ARRAY_LENGTH(reasons_at_the_door));
    if (metric == METRIC_DIALS_FAILED)
        return is_among(reason, reasons_of_dials, ARRAY_LENGTH(reasons_of_dials));
    return !is_among(reason, reasons_at_the_door_alone, ARRAY_LENGTH(reasons_at_the_door_alone));
}

static void walk_reasons(const struct walk *walk, const struct metric_name *base, const char *key,
                         struct metric_counter counters[CLOSE_REASON_COUNT])
{
    for (enum close_reason reason = CLOSE_NONE + 1; reason < CLOSE_REASON_COUNT; reason++) {
        if (metric_value(&counters[reason]) == 0 && !can_happen(walk->metric, reason))
            continue;
        struct metric_name name = with_label(*base, key, close_reason_name(reason));
        walk->sink->count(walk->sink, &name, &counters[reason]);
    }
}

static void walk_causes(const struct walk *walk, const struct metric_name *base, const _Atomic bool *speaks_tls,
                        struct metric_counter counters[TLS_FAILURE_COUNT])
{
    bool can_fail = atomic_load_explicit(speaks_tls, memory_order_relaxed);
    for (enum tls_failure cause = TLS_FAILURE_NONE + 1; cause < TLS_FAILURE_COUNT; cause++) {
        if (metric_value(&counters[cause]) == 0 && !can_fail)
            continue;
        struct metric_name name = with_label(*base, "cause", tls_failure_name(cause));
        walk->sink->count(walk->sink, &name, &counters[cause]);
    }
}

// --- what belongs to what

// None left also once it has expired.
static void walk_expiry(const struct walk *walk, const struct metric_name *name, const _Atomic int64_t *expiry)
{
    int64_t end = atomic_load_explicit(expiry, memory_order_relaxed);
    int64_t left = end - clock_wall() / NS_PER_S;
    if (end != 0)
        walk->sink->gauge(walk->sink, name, left > 0 ? (uint64_t)left : 0);
}

static void walk_target(const struct walk *walk, const struct metric_name *of_proxy, struct target_metrics *target)
{
    struct metric_name name = with_label(*of_proxy, "target", target->shared.name);
    switch (walk->metric) {
    case METRIC_DIALS:
        walk->sink->count(walk->sink, &name, &target->attempts);
        break;
    case METRIC_DIALS_FAILED:
        walk_reasons(walk, &name, "cause", target->failed);
        break;
    case METRIC_TARGET_HANDSHAKE_FAILED:
        walk_causes(walk, &name, &target->speaks_tls, target->handshake_failed);
        break;
    default:
        walk_expiry(walk, &name, &target->certificate_expiry);
        break;
    }
}

static void walk_targets(const struct walk *walk, const struct metric_name *of_proxy, struct proxy_metrics *proxy)
{
    struct target_metrics *target = NULL;
    while ((target = metrics_next_target(proxy, target)) != NULL)
        if (!walk->sink->leaves_out_unused || target_metrics_are_used(proxy, target))
            walk_target(walk, of_proxy, target);
}

static void walk_proxy(const struct walk *walk, struct proxy_metrics *proxy)
{
    struct metrics_sink *sink = walk->sink;
    struct metric_name name = with_label(name_of(walk->metric), "proxy", proxy->shared.name);
    switch (walk->metric) {
    case METRIC_ACCEPTED:
        sink->count(sink, &name, &proxy->accepted);
        break;
    case METRIC_REJECTED:
        walk_reasons(walk, &name, "reason", proxy->rejected);
        break;
    case METRIC_ACTIVE:
        sink->gauge(sink, &name, atomic_load_explicit(&proxy->live, memory_order_relaxed));
        break;
    case METRIC_CLOSED:
        walk_reasons(walk, &name, "reason", proxy->closed);
        break;
    case METRIC_BYTES_FROM_CLIENT:
        sink->count(sink, &name, &proxy->bytes[RELAY_CLIENT]);
        break;
    case METRIC_BYTES_FROM_TARGET:
        sink->count(sink, &name, &proxy->bytes[RELAY_TARGET]);
        break;
    case METRIC_HANDSHAKE_FAILED:
        walk_causes(walk, &name, &proxy->speaks_tls, proxy->handshake_failed);
        break;
    case METRIC_CERTIFICATE:
        walk_expiry(walk, &name, &proxy->certificate_expiry);
        break;
    default:
        if (walk->metric < METRIC_TIME_RESOLVE)
            walk_targets(walk, &name, proxy);
        else
            sink->time(sink, &name, &proxy->times[walk->metric - METRIC_TIME_RESOLVE]);
        break;
    }
    _Static_assert(METRIC_TIME_LIFETIME - METRIC_TIME_RESOLVE == PROXY_TIME_LIFETIME, "both in the same order");
}

static void walk_process(const struct walk *walk)
{
    struct metrics_sink *sink = walk->sink;
    struct metrics_source *source = walk->source;
    struct metric_name name = name_of(walk->metric);
    switch (walk->metric) {
    case METRIC_THREADS_BUSY:
        sink->gauge(sink, &name, thread_pool_count(source->runtime->threads).busy);
        break;
    case METRIC_THREADS_PARKED:
        sink->gauge(sink, &name, thread_pool_count(source->runtime->threads).parked);
        break;
    case METRIC_CPU_USER:
        sink->total(sink, &name, walk->usage->user_ms);
        break;
    case METRIC_CPU_SYSTEM:
        sink->total(sink, &name, walk->usage->system_ms);
        break;
    case METRIC_MEMORY:
        sink->gauge(sink, &name, walk->usage->resident);
        break;
    case METRIC_DESCRIPTORS:
        sink->gauge(sink, &name, walk->usage->descriptors);
        break;
    case METRIC_DESCRIPTOR_LIMIT:
        sink->gauge(sink, &name, walk->usage->descriptor_limit);
        break;
    case METRIC_PROCESS_THREADS:
        sink->gauge(sink, &name, walk->usage->threads);
        break;
    default:
        sink->gauge(sink, &name, (uint64_t)((clock_now() - source->start) / NS_PER_S));
        break;
    }
}

static void walk_last_reload(const struct walk *walk)
{
    struct metric_name name = name_of(walk->metric);
    uint64_t value;
    bool is_of_configuration = walk->metric < METRIC_CERTIFICATES_RELOAD_SUCCESSFUL;
    const struct last_reload *last =
        &walk->source->reloads[is_of_configuration ? RELOAD_OF_CONFIGURATION : RELOAD_OF_CERTIFICATES];
    if (walk->metric == METRIC_CONFIG_RELOAD_SUCCESSFUL || walk->metric == METRIC_CERTIFICATES_RELOAD_SUCCESSFUL)
        value = atomic_load_explicit(&last->is_successful, memory_order_relaxed);
    else
        value = (uint64_t)atomic_load_explicit(&last->success_time, memory_order_relaxed);
    walk->sink->gauge(walk->sink, &name, value);
}

static void walk_losses(const struct walk *walk)
{
    struct metrics_sink *sink = walk->sink;
    struct metric_name name = name_of(walk->metric);
    switch (walk->metric) {
    case METRIC_DROPPED_DATAGRAMS:
        sink->count(sink, &name, &walk->source->losses.datagrams);
        break;
    case METRIC_DROPPED_TIMINGS:
        sink->count(sink, &name, &walk->source->losses.timings);
        break;
    case METRIC_DROPPED_RECORDS:
        sink->total(sink, &name, connection_log_lost());
        break;
    case METRIC_DROPPED_LOG_LINES:
        sink->total(sink, &name, log_dropped());
        break;
    default:
        sink->total(sink, &name, sentry_lost());
        break;
    }
}

static void walk_proxies(const struct walk *walk)
{
    struct metrics *metrics = &walk->source->runtime->metrics;
    struct proxy_metrics *proxy = NULL;
    while ((proxy = metrics_next_proxy(metrics, proxy)) != NULL)
        if (!walk->sink->leaves_out_unused || proxy_metrics_are_used(proxy))
            walk_proxy(walk, proxy);
}

void metrics_walk(struct metrics_source *source, const struct process_usage *usage, struct metrics_sink *sink)
{
    struct walk walk = {.source = source, .usage = usage, .sink = sink};
    for (walk.metric = 0; walk.metric < METRIC_COUNT; walk.metric++) {
        sink->begin(sink, walk.metric);
        if (walk.metric < METRIC_CONFIG_RELOAD_SUCCESSFUL)
            walk_process(&walk);
        else if (walk.metric < METRIC_DROPPED_DATAGRAMS)
            walk_last_reload(&walk);
        else if (walk.metric < METRIC_ACCEPTED)
            walk_losses(&walk);
        else
            walk_proxies(&walk);
    }
}
