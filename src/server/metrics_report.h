// What is reported: to statsd each second (telemetry/statsd.h), and to Prometheus when it asks; from the start, or from
// a reload on that says so, to the end of the process.

#ifndef BITFLOW_SRC_SERVER_METRICS_REPORT_H
#define BITFLOW_SRC_SERVER_METRICS_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/config/config.h"
#include "bitflow/telemetry/statsd.h"
#include "metrics_walk.h"

struct metrics_report {
    struct metrics_source source;
    int64_t start_wall;    // of the process, clock_wall()
    struct statsd *statsd; // NULL: off; the main thread's
    _Atomic bool is_replaced;
    // statsd's thread's: what has been sent of what is counted elsewhere.
    struct metric_counter totals[METRIC_COUNT];
};

// These are the main thread's.

void metrics_report_init(struct metrics_report *report, struct runtime *runtime);

// Does what can fail before `config` is put in force. False: there is no thread to be had, and nothing has changed.
bool metrics_report_prepare(struct metrics_report *report, const struct config *config, struct error *error);

// What a reload of this kind came to.
void metrics_report_reloaded(struct metrics_report *report, enum reload_kind kind, bool is_successful);

// `config` is in force, after metrics_report_prepare() for it, or still, after one for another that is not to be.
void metrics_report_apply(struct metrics_report *report, const struct config *config);

// Another process serves, and reports gauges of the same names: this one's would be taken for that one's. What is
// counted adds up.
void metrics_report_set_replaced(struct metrics_report *report);

// Reports to statsd for the last time. Nobody asks for the text any more.
void metrics_report_release(struct metrics_report *report);

// Any thread, from metrics_report_init() on: all of it, now, in Prometheus' text format (PROMETHEUS_CONTENT_TYPE), with
// a zero behind it. The caller frees it. Bounded by what is configured: some 15 KB for a proxy. ERROR_NO_MEMORY.
bool metrics_report_text(struct metrics_report *report, char **text, size_t *length, struct error *error);

#endif
