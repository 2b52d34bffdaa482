// Everything that is reported, each metric with its name, its labels and its value, in the order of METRIC_NAMES: those
// to whom it is reported differ only in what they make of it. Any thread.

#ifndef BITFLOW_SRC_SERVER_METRICS_WALK_H
#define BITFLOW_SRC_SERVER_METRICS_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/mutex.h"
#include "bitflow/proxy/proxy.h"
#include "bitflow/telemetry/statsd_batch.h"
#include "metric_names.h"

struct process_usage;

// What is read again while the process runs: because somebody asks for it, or because its files have changed. The
// second is all that the configuration names of TLS: certificates, keys, authorities and revocation lists.
enum reload_kind { RELOAD_OF_CONFIGURATION, RELOAD_OF_CERTIFICATES, RELOAD_KIND_COUNT };

// The main thread writes it.
struct last_reload {
    _Atomic bool is_successful;
    _Atomic int64_t success_time; // of the last one that was, Unix time in s
};

// What there is to report on.
struct metrics_source {
    struct runtime *runtime;
    struct statsd_losses losses;
    int64_t start; // of the process, CLOCK_MONOTONIC
    struct last_reload reloads[RELOAD_KIND_COUNT];
    struct mutex counting; // held while live connections are counted
};

// Who is told. Values are in the metric's unit, but for "days": seconds.
struct metrics_sink {
    bool leaves_out_unused; // proxies and targets that are in no configuration and have no connection any more
    void (*begin)(struct metrics_sink *sink, enum metric metric);
    void (*count)(struct metrics_sink *sink, const struct metric_name *name, struct metric_counter *counter);
    // Of what is counted elsewhere: since the start.
    void (*total)(struct metrics_sink *sink, const struct metric_name *name, uint64_t value);
    void (*gauge)(struct metrics_sink *sink, const struct metric_name *name, uint64_t value);
    void (*time)(struct metrics_sink *sink, const struct metric_name *name, struct metric_timer *timer);
};

// Counts what live connections have done since the last time. `is_counted`: or only takes note of it, where metrics
// were off so far.
void metrics_count_live(struct metrics_source *source, bool is_counted);

// `usage`: of the process, now.
void metrics_walk(struct metrics_source *source, const struct process_usage *usage, struct metrics_sink *sink);

#endif
