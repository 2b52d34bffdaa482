// Counters and timers: what is counted while it is being reported.

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/telemetry/metric.h"

static void test_a_counter_is_settled_when_all_is_confirmed(void **state)
{
    (void)state;
    struct metric_counter counter = {.attempted = 0};
    assert_true(metric_is_settled(&counter));
    metric_add(&counter, 3);
    assert_false(metric_is_settled(&counter));
    counter.attempted = 3;
    assert_false(metric_is_settled(&counter));
    counter.confirmed = 3;
    assert_true(metric_is_settled(&counter));
}

static void test_few_values_are_all_kept(void **state)
{
    (void)state;
    struct metric_timer *timer = calloc(1, sizeof *timer);
    struct metric_times times;
    assert_non_null(timer);
    assert_true(metric_timer_is_empty(timer));
    metric_timer_take(timer, &times);
    assert_int_equal(times.total, 0);
    assert_int_equal(times.kept, 0);
    for (int64_t round = 0; round < 5; round++) {
        metric_time(timer, 0);
        metric_time(timer, 1999);
        metric_time(timer, (round + 1) * NS_PER_S);
        metric_time(timer, -1);
        assert_false(metric_timer_is_empty(timer));
        metric_timer_take(timer, &times);
        assert_int_equal(times.total, 3);
        assert_int_equal(times.kept, 3);
        assert_int_equal(times.microseconds[0], 0);
        assert_int_equal(times.microseconds[1], 1);
        assert_int_equal(times.microseconds[2], (round + 1) * 1000000);
        assert_true(metric_timer_is_empty(timer));
    }
    free(timer);
}

// Of the values 0 .. 9999 those kept are some of all parts, not the first or the last ones.
// A receiver that is away for days does not make the count overflow.
static void test_very_many_values_are_counted(void **state)
{
    (void)state;
    struct metric_timer *timer = calloc(1, sizeof *timer);
    struct metric_times times;
    assert_non_null(timer);
    metric_time(timer, NS_PER_MS);
    atomic_fetch_add(&timer->state, UINT32_MAX);
    metric_time(timer, NS_PER_MS);
    metric_timer_take(timer, &times);
    assert_true(times.total == UINT64_C(2) + UINT32_MAX);
    assert_true(times.kept > 0);
    // Many intervals later, it still works.
    for (unsigned round = 0; round < 70000; round++) {
        metric_time(timer, NS_PER_MS);
        metric_timer_take(timer, &times);
        assert_true(times.total == 1 && times.kept == 1);
    }
    free(timer);
}

static void test_many_values_are_sampled_evenly(void **state)
{
    (void)state;
    enum { VALUES = 10000, ROUNDS = 50, PARTS = 10 };
    struct metric_timer *timer = calloc(1, sizeof *timer);
    unsigned in_part[PARTS] = {0};
    assert_non_null(timer);
    for (int round = 0; round < ROUNDS; round++) {
        struct metric_times times;
        for (int64_t i = 0; i < VALUES; i++)
            metric_time(timer, i * NS_PER_US);
        metric_timer_take(timer, &times);
        assert_int_equal(times.total, VALUES);
        assert_int_equal(times.kept, METRIC_TIMER_KEPT);
        for (size_t i = 0; i < times.kept; i++) {
            assert_in_range(times.microseconds[i], 0, VALUES - 1);
            in_part[times.microseconds[i] * PARTS / VALUES]++;
        }
    }
    // 500 are expected in each part; six standard deviations are 127.
    for (int part = 0; part < PARTS; part++)
        assert_in_range(in_part[part], 373, 627);
    free(timer);
}

enum { WRITERS = 4, VALUES_EACH = 200000 };

static void *write_values(void *argument)
{
    for (int64_t i = 0; i < VALUES_EACH; i++)
        metric_time(argument, 7 * NS_PER_US);
    return NULL;
}

// Nobody waits for anybody, and yet every value is counted exactly once.
static void test_none_is_lost_or_counted_twice(void **state)
{
    (void)state;
    struct metric_timer *timer = calloc(1, sizeof *timer);
    pthread_t writers[WRITERS];
    struct metric_times times;
    uint64_t total = 0;
    assert_non_null(timer);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&writers[i], NULL, write_values, timer), 0);
    while (total < (uint64_t)WRITERS * VALUES_EACH / 2) {
        metric_timer_take(timer, &times);
        total += times.total;
        assert_true(times.kept <= times.total && (times.total == 0 || times.kept > 0));
        for (size_t i = 0; i < times.kept; i++)
            assert_int_equal(times.microseconds[i], 7);
    }
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_join(writers[i], NULL), 0);
    metric_timer_take(timer, &times);
    assert_int_equal(total + times.total, (uint64_t)WRITERS * VALUES_EACH);
    assert_int_equal(atomic_load(&timer->histogram.buckets[0]), (uint64_t)WRITERS * VALUES_EACH);
    assert_int_equal(atomic_load(&timer->histogram.microseconds), UINT64_C(7) * WRITERS * VALUES_EACH);
    free(timer);
}

static void test_each_value_is_in_one_bucket_of_the_histogram(void **state)
{
    (void)state;
    struct metric_timer *timer = calloc(1, sizeof *timer);
    const struct metric_histogram *histogram = &timer->histogram;
    static const int64_t longest = INT64_C(400000) * 3600 * NS_PER_S;
    assert_non_null(timer);
    // A bound is within its bucket, a nanosecond more is not.
    for (size_t i = 0; i < METRIC_BUCKET_COUNT - 1; i++) {
        assert_true(i == 0 || metric_bucket_bounds[i] > metric_bucket_bounds[i - 1]);
        metric_time(timer, (int64_t)metric_bucket_bounds[i] * NS_PER_US);
        assert_int_equal(atomic_load(&histogram->buckets[i]), i == 0 ? 1 : 2);
        metric_time(timer, (int64_t)metric_bucket_bounds[i] * NS_PER_US + 1);
        assert_int_equal(atomic_load(&histogram->buckets[i + 1]), 1);
    }
    metric_time(timer, longest);
    metric_time(timer, 0);
    metric_time(timer, -1);
    assert_int_equal(atomic_load(&histogram->buckets[METRIC_BUCKET_COUNT - 1]), 2);
    assert_int_equal(atomic_load(&histogram->buckets[0]), 2);
    uint64_t sum = (uint64_t)(longest / NS_PER_US);
    for (size_t i = 0; i < METRIC_BUCKET_COUNT - 1; i++)
        sum += 2 * metric_bucket_bounds[i];
    assert_true(atomic_load(&histogram->microseconds) == sum);
    // What statsd takes is none of its business.
    struct metric_times times;
    metric_timer_take(timer, &times);
    assert_int_equal(times.total, 2 * (METRIC_BUCKET_COUNT - 1) + 2);
    assert_int_equal(atomic_load(&histogram->buckets[0]), 2);
    free(timer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_counter_is_settled_when_all_is_confirmed),
        cmocka_unit_test(test_few_values_are_all_kept),
        cmocka_unit_test(test_very_many_values_are_counted),
        cmocka_unit_test(test_many_values_are_sampled_evenly),
        cmocka_unit_test(test_none_is_lost_or_counted_twice),
        cmocka_unit_test(test_each_value_is_in_one_bucket_of_the_histogram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
