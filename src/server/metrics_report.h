// What is reported to statsd each second (telemetry/statsd.h), and when: from the start, or from a reload on that says
// so, to the end of the process. The functions are the server's thread's; the report is made by statsd's.

#ifndef BITFLOW_SRC_SERVER_METRICS_REPORT_H
#define BITFLOW_SRC_SERVER_METRICS_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/config/config.h"
#include "bitflow/proxy/proxy.h"
#include "bitflow/telemetry/statsd.h"

struct metrics_report {
    struct runtime *runtime;
    struct statsd *statsd; // NULL: off
    int64_t start;         // of the process, CLOCK_MONOTONIC
    // The reporting thread's:
    struct metric_counter user_ms, system_ms;
    struct metric_counter lost_records, lost_lines, lost_events;
};

void metrics_report_init(struct metrics_report *report, struct runtime *runtime);

// Does what can fail before `config` is put in force. False: there is no thread to be had, and nothing has changed.
bool metrics_report_prepare(struct metrics_report *report, const struct config *config, struct error *error);

// `config` is in force, after metrics_report_prepare() for it, or still, after one for another that is not to be.
void metrics_report_apply(struct metrics_report *report, const struct config *config);

// Reports for the last time.
void metrics_report_release(struct metrics_report *report);

#endif
