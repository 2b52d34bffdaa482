// What is counted and timed, until it is reported. Those who count touch nothing but atomics: no lock, no allocation,
// no wait. One thread alone reports (telemetry/statsd_batch.h). All zeros is a counter, or a timer, of nothing yet.

#ifndef BITFLOW_TELEMETRY_METRIC_H
#define BITFLOW_TELEMETRY_METRIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

// All of it was sent, and not refused. The reporting thread only.
bool metric_is_settled(const struct metric_counter *counter);

// Of the values of one interval at most so many are kept, each as likely as any other, so that what is sent stays
// bounded however many there are. How many there were is always known.
#define METRIC_TIMER_KEPT 100

struct metric_timer {
    _Atomic uint64_t state;                      // the interval's number << 48 | how many values it has had
    _Atomic uint64_t kept[2][METRIC_TIMER_KEPT]; // by the interval's parity; microseconds + 1, 0: none
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

#endif
