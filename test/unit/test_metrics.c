// What is counted outlives what it is about, and is freed when all of it has been reported.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/proxy/metrics.h"

struct fixture {
    struct metrics metrics;
    struct proxy_metrics *proxy;
    struct target_metrics *targets[2]; // a, b
};

static void create(struct fixture *fixture, bool is_on)
{
    metrics_init(&fixture->metrics);
    metrics_set_on(&fixture->metrics, is_on, is_on);
    fixture->proxy = proxy_metrics_hold(&fixture->metrics, "web");
    assert_non_null(fixture->proxy);
    fixture->targets[0] = target_metrics_hold(fixture->proxy, "a");
    fixture->targets[1] = target_metrics_hold(fixture->proxy, "b");
    assert_non_null(fixture->targets[0]);
    assert_non_null(fixture->targets[1]);
}

static void drop_targets(struct fixture *fixture)
{
    target_metrics_drop(fixture->proxy, &fixture->targets[0]);
    target_metrics_drop(fixture->proxy, &fixture->targets[1]);
    assert_null(fixture->targets[0]);
}

static void settle(struct metric_counter *counter)
{
    counter->attempted = counter->confirmed = atomic_load(&counter->value);
}

static size_t count_proxies(struct metrics *metrics)
{
    size_t count = 0;
    for (struct proxy_metrics *at = NULL; (at = metrics_next_proxy(metrics, at)) != NULL;)
        count++;
    return count;
}

static size_t count_targets(struct proxy_metrics *proxy)
{
    size_t count = 0;
    for (struct target_metrics *at = NULL; (at = metrics_next_target(proxy, at)) != NULL;)
        count++;
    return count;
}

static void test_metrics_are_found_again_by_name(void **state)
{
    (void)state;
    struct fixture fixture;
    create(&fixture, true);
    struct proxy_metrics *again = proxy_metrics_hold(&fixture.metrics, "web");
    struct proxy_metrics *other = proxy_metrics_hold(&fixture.metrics, "other");
    assert_ptr_equal(again, fixture.proxy);
    assert_ptr_not_equal(other, fixture.proxy);
    assert_int_equal(count_proxies(&fixture.metrics), 2);
    struct target_metrics *b = target_metrics_hold(again, "b");
    struct target_metrics *c = target_metrics_hold(again, "c");
    assert_ptr_equal(b, fixture.targets[1]);
    assert_string_equal(c->shared.name, "c");
    assert_int_equal(count_targets(again), 3);
    drop_targets(&fixture);
    assert_int_equal(count_targets(again), 2); // nothing was counted of a
    target_metrics_drop(again, &b);
    target_metrics_drop(again, &c);
    proxy_metrics_drop(&again);
    proxy_metrics_drop(&fixture.proxy);
    proxy_metrics_drop(&other);
    assert_int_equal(count_proxies(&fixture.metrics), 0);
    metrics_release(&fixture.metrics);
}

static void test_metrics_are_kept_until_they_are_reported(void **state)
{
    (void)state;
    struct fixture fixture;
    create(&fixture, true);
    struct proxy_metrics *proxy = fixture.proxy;
    struct target_metrics *target = fixture.targets[1];
    metric_add(&proxy->closed[CLOSE_DRAIN], 2);
    metric_time(&proxy->times[PROXY_TIME_LIFETIME], NS_PER_S);
    metric_add(&target->attempts, 1);
    drop_targets(&fixture);
    proxy_metrics_drop(&fixture.proxy);
    assert_int_equal(count_proxies(&fixture.metrics), 1);
    assert_int_equal(count_targets(proxy), 1);
    target->attempts.attempted = 1; // sent, but nobody knows yet whether it has come
    assert_int_equal(count_targets(proxy), 1);
    settle(&target->attempts);
    assert_int_equal(count_targets(proxy), 1); // it was there, and is freed on the way
    assert_int_equal(count_targets(proxy), 0);
    settle(&proxy->closed[CLOSE_DRAIN]);
    assert_int_equal(count_proxies(&fixture.metrics), 1);
    assert_int_equal(count_proxies(&fixture.metrics), 1); // its timer
    struct metric_times times;
    metric_timer_take(&proxy->times[PROXY_TIME_LIFETIME], &times);
    assert_int_equal(count_proxies(&fixture.metrics), 1);
    assert_int_equal(count_proxies(&fixture.metrics), 0);
    metrics_release(&fixture.metrics);
}

static void test_nothing_is_kept_when_off(void **state)
{
    (void)state;
    struct fixture fixture;
    create(&fixture, false);
    assert_false(metrics_are_on(fixture.proxy));
    metric_add(&fixture.proxy->accepted, 1);
    metric_add(&fixture.targets[0]->attempts, 1);
    drop_targets(&fixture);
    assert_int_equal(count_targets(fixture.proxy), 0);
    proxy_metrics_drop(&fixture.proxy);
    assert_int_equal(count_proxies(&fixture.metrics), 0);
    metrics_release(&fixture.metrics);
    // Turned off while something waits to be reported.
    create(&fixture, true);
    assert_true(metrics_are_on(fixture.proxy));
    metric_add(&fixture.proxy->accepted, 1);
    metric_add(&fixture.targets[0]->attempts, 1);
    drop_targets(&fixture);
    proxy_metrics_drop(&fixture.proxy);
    assert_int_equal(count_proxies(&fixture.metrics), 1);
    metrics_set_on(&fixture.metrics, false, false);
    assert_int_equal(count_proxies(&fixture.metrics), 0);
    metrics_release(&fixture.metrics);
}

// Where there is no statsd, nobody ever takes what was counted.
static void test_nothing_is_kept_that_is_not_sent(void **state)
{
    (void)state;
    struct fixture fixture;
    create(&fixture, true);
    metrics_set_on(&fixture.metrics, true, false);
    assert_true(metrics_are_on(fixture.proxy));
    metric_add(&fixture.proxy->accepted, 1);
    metric_add(&fixture.targets[0]->attempts, 1);
    drop_targets(&fixture);
    assert_int_equal(count_targets(fixture.proxy), 0);
    proxy_metrics_drop(&fixture.proxy);
    assert_int_equal(count_proxies(&fixture.metrics), 0);
    metrics_release(&fixture.metrics);
}

// A statsd that comes later is not told at once of what has happened in a year.
static void test_what_was_counted_before_it_is_sent_counts_as_sent(void **state)
{
    (void)state;
    struct fixture fixture;
    create(&fixture, true);
    struct proxy_metrics *proxy = fixture.proxy;
    metrics_set_on(&fixture.metrics, true, false);
    metric_add(&proxy->accepted, 5);
    metric_add(&proxy->bytes[1], 5);
    metric_time(&proxy->times[PROXY_TIME_CONNECT], NS_PER_S);
    metric_add(&fixture.targets[0]->failed[CLOSE_CONNECT_REFUSED], 5);
    metrics_set_on(&fixture.metrics, true, true);
    assert_true(metric_is_settled(&proxy->accepted));
    assert_true(metric_is_settled(&proxy->bytes[1]));
    assert_true(metric_is_settled(&fixture.targets[0]->failed[CLOSE_CONNECT_REFUSED]));
    assert_true(metric_timer_is_empty(&proxy->times[PROXY_TIME_CONNECT]));
    assert_int_equal(metric_value(&proxy->accepted), 5);
    // What comes then is sent; and nothing is passed over that has been sent once and was not taken.
    metric_add(&proxy->accepted, 1);
    metrics_set_on(&fixture.metrics, true, true);
    assert_false(metric_is_settled(&proxy->accepted));
    drop_targets(&fixture);
    proxy_metrics_drop(&fixture.proxy);
    metrics_release(&fixture.metrics);
}

static void test_who_reads_does_not_use(void **state)
{
    (void)state;
    struct fixture fixture;
    create(&fixture, true);
    struct proxy_metrics *proxy = fixture.proxy;
    metric_add(&proxy->accepted, 1);
    metric_add(&fixture.targets[1]->attempts, 1);
    struct proxy_metrics *read = metrics_next_proxy(&fixture.metrics, NULL);
    struct proxy_metrics *read_again = metrics_next_proxy(&fixture.metrics, NULL);
    struct target_metrics *target = metrics_next_target(read, NULL);
    assert_ptr_equal(read, proxy);
    assert_ptr_equal(target, fixture.targets[1]);
    assert_true(proxy_metrics_are_used(read) && target_metrics_are_used(read, target));
    drop_targets(&fixture);
    proxy_metrics_drop(&fixture.proxy);
    assert_false(proxy_metrics_are_used(read) || target_metrics_are_used(read, target));
    struct target_metrics *back = target_metrics_hold(read, "b");
    struct proxy_metrics *proxy_back = proxy_metrics_hold(&fixture.metrics, "web");
    assert_true(proxy_metrics_are_used(read) && target_metrics_are_used(read, target));
    target_metrics_drop(read, &back);
    proxy_metrics_drop(&proxy_back);
    assert_null(metrics_next_target(read, target));
    assert_null(metrics_next_proxy(&fixture.metrics, read));
    assert_null(metrics_next_proxy(&fixture.metrics, read_again));
    metrics_release(&fixture.metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics_are_found_again_by_name),
        cmocka_unit_test(test_metrics_are_kept_until_they_are_reported),
        cmocka_unit_test(test_nothing_is_kept_when_off),
        cmocka_unit_test(test_nothing_is_kept_that_is_not_sent),
        cmocka_unit_test(test_what_was_counted_before_it_is_sent_counts_as_sent),
        cmocka_unit_test(test_who_reads_does_not_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
