// What is counted of proxies and their targets, by name. It outlives what it is about: a reload finds it again, and
// where it goes to statsd, what was counted last of a proxy or a target that is gone is sent before it is freed. So the
// lists and the references have a lock, which reloads and those who report take; what connections touch is atomic.
// Where metrics are off, they touch nothing.

#ifndef BITFLOW_PROXY_METRICS_H
#define BITFLOW_PROXY_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/mutex.h"
#include "bitflow/base/shared.h"
#include "bitflow/relay/close_reason.h"
#include "bitflow/telemetry/metric.h"
#include "bitflow/tls/tls_failure.h"

enum proxy_time {
    PROXY_TIME_RESOLVE,
    PROXY_TIME_CONNECT,
    PROXY_TIME_CLIENT_HANDSHAKE,
    PROXY_TIME_TARGET_HANDSHAKE,
    PROXY_TIME_FIRST_BYTE,
    PROXY_TIME_LIFETIME,
    PROXY_TIME_COUNT
};

struct target_metrics {
    struct shared shared;    // guarded by the lock of all metrics, but for the name
    unsigned readers;        // likewise: how many of the references are metrics_next_target()'s
    _Atomic bool speaks_tls; // in the configuration in force; likewise of the expiry
    struct metric_counter attempts;
    struct metric_counter failed[CLOSE_REASON_COUNT]; // by what would have ended the connection
    struct metric_counter handshake_failed[TLS_FAILURE_COUNT];
    _Atomic int64_t certificate_expiry; // seconds since 1970; 0: none
};

struct proxy_metrics {
    struct shared shared;
    unsigned readers;
    _Atomic bool speaks_tls;
    struct metrics *all;
    struct metric_counter accepted;
    struct metric_counter rejected[CLOSE_REASON_COUNT];
    struct metric_counter closed[CLOSE_REASON_COUNT];
    struct metric_counter bytes[2]; // by the side that they came from (enum relay_side)
    struct metric_counter handshake_failed[TLS_FAILURE_COUNT];
    struct metric_timer times[PROXY_TIME_COUNT];
    _Atomic int64_t certificate_expiry;
    uint64_t counting;                  // connections that live; whoever counts them, one thread at a time
    _Atomic uint64_t live;              // how many there were when they were last counted
    struct shared_list targets GUARDED; // struct target_metrics
};

struct metrics {
    _Atomic bool is_on;
    struct mutex lock;
    bool is_sent GUARDED;               // to statsd, which is told all of it
    struct shared_list proxies GUARDED; // by the lock; struct proxy_metrics
};

void metrics_init(struct metrics *metrics);
// Every reference has been given back.
void metrics_release(struct metrics *metrics);

// `is_sent`: to statsd. What had been counted by then without being sent counts as sent; nothing is sent meanwhile.
void metrics_set_on(struct metrics *metrics, bool is_on, bool is_sent);

static inline bool metrics_are_on(const struct proxy_metrics *proxy)
{
    return atomic_load_explicit(&proxy->all->is_on, memory_order_relaxed);
}

// The proxy's of that name, with a reference. NULL: no memory.
struct proxy_metrics *proxy_metrics_hold(struct metrics *metrics, const char *name);
// Nulls the pointer. Accepts NULL.
void proxy_metrics_drop(struct proxy_metrics **proxy);

// Those of the proxy's target of that name, with a reference. NULL: no memory.
struct target_metrics *target_metrics_hold(struct proxy_metrics *proxy, const char *name);
// Gives the reference back and nulls the pointer. Accepts NULL.
void target_metrics_drop(struct proxy_metrics *proxy, struct target_metrics **target);

// For those who report: one after the other, from NULL to NULL. What is passed in is given back, and freed if it is
// nobody's any more and all of it has been sent. Others may come and go meanwhile.
struct proxy_metrics *metrics_next_proxy(struct metrics *metrics, struct proxy_metrics *before);
struct target_metrics *metrics_next_target(struct proxy_metrics *proxy, struct target_metrics *before);

// Whether anyone but those who report has it: the configuration in force, or a connection that began with another.
bool proxy_metrics_are_used(struct proxy_metrics *proxy);
bool target_metrics_are_used(struct proxy_metrics *proxy, const struct target_metrics *target);

#endif
