// What is reported in one go: metrics become lines of statsd's protocol, and lines become datagrams, as many lines in
// each as fit. Used by the reporting thread only; nothing is locked, nothing waits but the sender that it is given.
//
//   proxy.web.connections.closed.completed:3|c                            STATSD_PLAIN
//   proxy.connections.closed:3|c|#proxy:web,reason:completed              STATSD_DOGSTATSD
//   proxy.connections.closed,proxy=web,reason=completed:3|c               STATSD_INFLUXDB
//
// Sources: statsd's docs/metric_types.md; Datadog's "DogStatsD protocol", version 1.0; Telegraf's plugins/inputs/statsd
// ("Influx Statsd").

#ifndef BITFLOW_TELEMETRY_STATSD_BATCH_H
#define BITFLOW_TELEMETRY_STATSD_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/telemetry/metric.h"

enum statsd_format { STATSD_PLAIN, STATSD_DOGSTATSD, STATSD_INFLUXDB };

enum statsd_outcome {
    STATSD_SENT,
    STATSD_DROPPED, // this datagram; the next one may go
    STATSD_GONE,    // this one, and the receiver is not there
    STATSD_REFUSED, // nor was it for those before
};

#define STATSD_LINE_MAX 1024
#define STATSD_DATAGRAM_MAX 8192
#define STATSD_COUNTERS_MAX 256 // in one datagram

// Where datagrams go; must not wait for long.
struct statsd_sink {
    enum statsd_outcome (*send)(void *argument, const char *bytes, size_t length);
    void *argument;
    size_t limit; // of a datagram's bytes, STATSD_LINE_MAX to STATSD_DATAGRAM_MAX
};

// What never reached the receiver, as far as the kernel tells, and is not made up for later, as counters are.
struct statsd_losses {
    struct metric_counter datagrams;
    struct metric_counter timings; // durations, those that the kept ones stand for included
};

struct statsd_batch {
    enum statsd_format format;
    const char *prefix;
    struct statsd_sink sink;
    struct statsd_losses *losses;
    bool leaves_out_gauges;
    bool was_delivered;          // the batch before this one
    enum statsd_outcome outcome; // of its datagrams, the last one; from STATSD_GONE on nothing more is taken
    // The datagram that is being filled:
    char bytes[STATSD_DATAGRAM_MAX];
    size_t length;
    struct metric_counter *counters[STATSD_COUNTERS_MAX];
    size_t counter_count;
    uint64_t timings;
    // Those of this batch that were sent:
    uint64_t sent_datagrams;
    uint64_t sent_timings;
};

// The batch is its owner's, and is used again and again: `format`, `prefix`, `sink` and `losses` are set by it; what is
// reported may set leaves_out_gauges. `was_delivered`: nothing has come back of the batch before.
void statsd_batch_begin(struct statsd_batch *batch, bool was_delivered);
// Sends what is left.
void statsd_batch_end(struct statsd_batch *batch);

// A counter's growth since the receiver last had it; nothing where there is none. Each counter once in every batch.
void statsd_count(struct statsd_batch *batch, const struct metric_name *name, struct metric_counter *counter);
void statsd_gauge(struct statsd_batch *batch, const struct metric_name *name, uint64_t value);
// The durations of an interval, in ms, with the sampling rate that makes up for those that were not kept.
void statsd_time(struct statsd_batch *batch, const struct metric_name *name, struct metric_timer *timer);

#endif
