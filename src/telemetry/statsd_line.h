// A metric's line in the three dialects, which telemetry/statsd_batch.h shows. Pure functions; any thread.

#ifndef BITFLOW_SRC_TELEMETRY_STATSD_LINE_H
#define BITFLOW_SRC_TELEMETRY_STATSD_LINE_H

#include <stddef.h>

#include "bitflow/telemetry/statsd_batch.h"

// What a line is made of.
struct statsd_line {
    enum statsd_format format;
    const char *prefix; // empty: none
    const struct metric_name *name;
    const char *value;
    const char *type; // "c", "g", "ms"
    double rate;      // of sampling, 1: all
};

// Writes the line without a newline or a zero; returns its length, 0: it would be longer than STATSD_LINE_MAX.
size_t statsd_render(const struct statsd_line *line, char out[STATSD_LINE_MAX]);

#endif
