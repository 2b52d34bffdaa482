// What is counted and timed, and what it is called where it is reported. Those who count touch nothing but atomics: no
// lock, no allocation, no wait. One thread alone sends it to statsd (telemetry/statsd_batch.h); anyone may read a
// counter's value and a timer's histogram (telemetry/prometheus.h). All zeros is a counter, or a timer, of nothing yet.

#ifndef BITFLOW_TELEMETRY_METRIC_H
#define BITFLOW_TELEMETRY_METRIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define METRIC_LABELS_MAX 4
struct metric_label {
    const char *key;   // a constant
    const char *value; // any text in UTF-8
};

struct metric_name {
    // A constant, with labels in braces: proxy.{proxy}.connections.closed.{reason}
    const char *pattern;
    size_t label_count;
    struct metric_label labels[METRIC_LABELS_MAX];
};

struct metric_counter {
    _Atomic uint64_t value;
    // The reporting thread's own. What is sent is the difference to `confirmed`, so nothing that was refused is lost.
    uint64_t attempted; // the value when it was last sent
    uint64_t confirmed; // the value that the receiver is known to have come to
};

static inline void metric_add(struct metric_counter *counter, uint64_t amount)
{
    atomic_fetch_add_explicit(&counter->value, amount, memory_order_relaxed);
}

static inline uint64_t metric_value(const struct metric_counter *counter)
{
    return atomic_load_explicit(&counter->value, memory_order_relaxed);
}

// All of it was sent, and not refused. The reporting thread only.
bool metric_is_settled(const struct metric_counter *counter);
// From now on all of it counts as sent. Likewise.
void metric_settle(struct metric_counter *counter);

// Of the values of one interval at most so many are kept, each as likely as any other, so that what is sent stays
// bounded however many there are. How many there were is always known.
#define METRIC_TIMER_KEPT 100

// The upper bounds of a histogram's buckets, which count as within them, in microseconds: from a connect within a rack
// to the lifetime of connections that stay. The last bucket has what is longer.
#define METRIC_BUCKET_BOUNDS                                                                     \
    {100,    250,    500,     1000,    2500,    5000,     10000,    25000,    50000,     100000, \
     250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, 60000000, 300000000, UINT64_C(3600000000)}
#define METRIC_BUCKET_COUNT 21

// Of all values since the start.
struct metric_histogram {
    _Atomic uint64_t buckets[METRIC_BUCKET_COUNT]; // how many values are above the bound before and not above this one
    _Atomic uint64_t microseconds;                 // their sum
};

struct metric_timer {
    _Atomic uint64_t state;                      // the interval's number << 48 | how many values it has had
    _Atomic uint64_t kept[2][METRIC_TIMER_KEPT]; // by the interval's parity; microseconds + 1, 0: none
    struct metric_histogram histogram;
};

// A duration, ns; a negative one is none.
void metric_time(struct metric_timer *timer, int64_t duration);

struct metric_times {
    uint64_t total; // how many values there were
    size_t kept;    // 0 only if there were none
    uint64_t microseconds[METRIC_TIMER_KEPT];
};

// Ends the interval and begins the next. The reporting thread only.
void metric_timer_take(struct metric_timer *timer, struct metric_times *times);

bool metric_timer_is_empty(const struct metric_timer *timer);

// METRIC_BUCKET_COUNT - 1 of them.
extern const uint64_t metric_bucket_bounds[];

#endif
