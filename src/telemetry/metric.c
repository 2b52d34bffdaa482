#include "bitflow/telemetry/metric.h"

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"

// As many as come to nothing in centuries, should no receiver be there to take them; an interval's number may wrap.
#define COUNT_BITS 48
#define COUNT_MASK ((UINT64_C(1) << COUNT_BITS) - 1)

const uint64_t metric_bucket_bounds[] = METRIC_BUCKET_BOUNDS;
_Static_assert(ARRAY_LENGTH(metric_bucket_bounds) == METRIC_BUCKET_COUNT - 1, "the last bucket has no bound");

bool metric_is_settled(const struct metric_counter *counter)
{
    uint64_t value = metric_value(counter);
    return counter->confirmed == value && counter->attempted == value;
}

void metric_settle(struct metric_counter *counter)
{
    counter->confirmed = counter->attempted = metric_value(counter);
}

// Well spread bits (Steele, Lea, Flood: SplitMix64).
static uint64_t mix(uint64_t bits)
{
    bits += UINT64_C(0x9e3779b97f4a7c15);
    bits = (bits ^ (bits >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    bits = (bits ^ (bits >> 27)) * UINT64_C(0x94d049bb133111eb);
    return bits ^ (bits >> 31);
}

// Vitter's algorithm R: the value that is number `before` (from 0) of its interval takes a slot with the probability
// KEPT / (before + 1). METRIC_TIMER_KEPT: it takes none.
static size_t choose_slot(uint64_t state, int64_t value)
{
    uint64_t before = state & COUNT_MASK;
    if (before < METRIC_TIMER_KEPT)
        return (size_t)before;
    uint64_t slot = mix(state + mix((uint64_t)value)) % (before + 1);
    return slot < METRIC_TIMER_KEPT ? (size_t)slot : METRIC_TIMER_KEPT;
}

static void add_to_histogram(struct metric_histogram *histogram, int64_t duration)
{
    size_t bucket = 0;
    while (bucket < METRIC_BUCKET_COUNT - 1 && (uint64_t)duration > metric_bucket_bounds[bucket] * NS_PER_US)
        bucket++;
    atomic_fetch_add_explicit(&histogram->buckets[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->microseconds, (uint64_t)(duration / NS_PER_US), memory_order_relaxed);
}

void metric_time(struct metric_timer *timer, int64_t duration)
{
    if (duration < 0)
        return;
    add_to_histogram(&timer->histogram, duration);
    uint64_t state = atomic_fetch_add_explicit(&timer->state, 1, memory_order_relaxed);
    size_t slot = choose_slot(state, duration);
    if (slot < METRIC_TIMER_KEPT)
        atomic_store_explicit(&timer->kept[state >> COUNT_BITS & 1][slot], (uint64_t)(duration / NS_PER_US) + 1,
                              memory_order_relaxed);
}

// Whoever has counted itself and is yet to store its value is late by less than an interval: its value is not among
// these, or turns up two intervals later in place of another one. The number of values is exact in any case.
void metric_timer_take(struct metric_timer *timer, struct metric_times *times)
{
    uint64_t interval = atomic_load_explicit(&timer->state, memory_order_relaxed) >> COUNT_BITS;
    uint64_t next = ((interval + 1) & COUNT_MASK) << COUNT_BITS;
    uint64_t total = atomic_exchange_explicit(&timer->state, next, memory_order_acq_rel) & COUNT_MASK;
    *times = (struct metric_times){.total = total};
    for (size_t i = 0; i < METRIC_TIMER_KEPT && i < total; i++) {
        uint64_t value = atomic_exchange_explicit(&timer->kept[interval & 1][i], 0, memory_order_relaxed);
        if (value > 0)
            times->microseconds[times->kept++] = value - 1;
    }
    if (times->kept > 0 || total == 0)
        return;
    // All of them are late: they count as the next interval's.
    atomic_fetch_add_explicit(&timer->state, total, memory_order_relaxed);
    times->total = 0;
}

bool metric_timer_is_empty(const struct metric_timer *timer)
{
    return (atomic_load_explicit(&timer->state, memory_order_relaxed) & COUNT_MASK) == 0;
}
