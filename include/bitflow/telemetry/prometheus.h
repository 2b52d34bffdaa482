// A page in Prometheus' text format, version 0.0.4 ("Exposition formats" in its documentation): families of samples, in
// memory. It knows of metrics what telemetry/metric.h knows, and nothing of what is measured.
//
//   # HELP bitflow_proxy_connections_closed_total Connections that have ended, by the reason.
//   # TYPE bitflow_proxy_connections_closed_total counter
//   bitflow_proxy_connections_closed_total{proxy="web",reason="completed"} 3
//
// Every number is written as it was counted, without a detour over floating point, so there is never a NaN, nor a
// locale's comma. One thread at a time.

#ifndef BITFLOW_TELEMETRY_PROMETHEUS_H
#define BITFLOW_TELEMETRY_PROMETHEUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/telemetry/metric.h"

// What an HTTP server is to call the page.
#define PROMETHEUS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

#define PROMETHEUS_NAME_SIZE 128

enum prometheus_type { PROMETHEUS_COUNTER, PROMETHEUS_GAUGE, PROMETHEUS_HISTOGRAM };

struct prometheus_page {
    char *text; // with a zero behind it; the owner frees it
    size_t length;
    size_t size;
    bool has_failed; // no memory was left: the text is not whole
    // The family at hand:
    char family[PROMETHEUS_NAME_SIZE];
    enum prometheus_type type;
    const char *help;
    bool has_samples;
};

// Prometheus' name for a metric that statsd knows by this pattern, type and unit. The rule: the labels leave the name,
// dots become underscores, "bitflow" comes first; then the base unit, "seconds" for ms, s and days (which leaves the
// name), "bytes" for bytes, unless it is in the name; at last "total" for a counter.
void prometheus_name(const char *pattern, enum prometheus_type type, const char *unit, char out[PROMETHEUS_NAME_SIZE]);

void prometheus_begin(struct prometheus_page *page);

// The samples that follow are of this one. All of a family's samples come together, each with other labels. Its own
// lines, # HELP and # TYPE, are written with the first one. The texts are copied, but for `help`: a constant.
void prometheus_family(struct prometheus_page *page, const char *name, enum prometheus_type type, const char *help);

// `value` has so many decimals: 1500 with 3 of them is 1.5. `labels`: those of the name.
void prometheus_sample(struct prometheus_page *page, const struct metric_name *labels, uint64_t value,
                       unsigned decimals);
// In seconds; the buckets are cumulative here, and the last one's bound is +Inf.
void prometheus_histogram(struct prometheus_page *page, const struct metric_name *labels,
                          const struct metric_histogram *histogram);

#endif
