// The thread that reports: each second, to whoever is there, and for the last time at the end.

#include "statsd_rig.h"

#include "bitflow/telemetry/statsd.h"

struct source {
    struct metric_counter counter;
    struct statsd_losses losses;
    _Atomic unsigned collections;
    unsigned gauges; // lines of each report
};

static void collect(struct statsd_batch *batch, void *argument)
{
    struct source *source = argument;
    const struct metric_name name = {.pattern = "n.{p}", .label_count = 1, .labels = {{"p", "x"}}};
    const struct metric_name gauge = {.pattern = "a.gauge.with.a.name.of.some.length"};
    atomic_fetch_add(&source->collections, 1);
    statsd_count(batch, &name, &source->counter);
    for (unsigned i = 0; i < source->gauges; i++)
        statsd_gauge(batch, &gauge, i);
}

static struct statsd *start(struct source *source, const char *address, const char *prefix, enum statsd_format format)
{
    struct error error = ERROR_INIT;
    const struct statsd_settings settings = {.address = address, .prefix = prefix, .format = format};
    struct statsd *statsd = statsd_create(collect, source, &source->losses, &error);
    assert_non_null(statsd);
    statsd_configure(statsd, &settings);
    return statsd;
}

static void test_metrics_are_reported_each_second_and_at_the_end(void **state)
{
    (void)state;
    char address[ENDPOINT_TEXT_SIZE];
    int receiver = rig_receiver("127.0.0.1:0", address);
    struct source source = {.gauges = 0};
    metric_add(&source.counter, 1);
    struct statsd *statsd = start(&source, address, NULL, STATSD_PLAIN);
    assert_string_equal(rig_datagram(receiver), "n.x:1|c");
    int64_t begin = clock_now();
    metric_add(&source.counter, 2);
    assert_string_equal(rig_datagram(receiver), "n.x:2|c");
    assert_true(clock_now() - begin > 500 * NS_PER_MS);
    metric_add(&source.counter, 3);
    begin = clock_now();
    statsd_destroy(&statsd);
    assert_null(statsd);
    assert_string_equal(rig_datagram(receiver), "n.x:3|c");
    statsd_destroy(&statsd);
    (void)close(receiver);
}

static void test_settings_change_at_once(void **state)
{
    (void)state;
    char address[ENDPOINT_TEXT_SIZE], other_address[ENDPOINT_TEXT_SIZE];
    int receiver = rig_receiver("127.0.0.1:0", address), other = rig_receiver("127.0.0.1:0", other_address);
    struct source source = {.gauges = 0};
    metric_add(&source.counter, 1);
    struct statsd *statsd = start(&source, address, NULL, STATSD_PLAIN);
    assert_string_equal(rig_datagram(receiver), "n.x:1|c");
    metric_add(&source.counter, 1);
    struct statsd_settings settings = {.address = address, .prefix = "p", .format = STATSD_DOGSTATSD};
    statsd_configure(statsd, &settings);
    assert_string_equal(rig_datagram(receiver), "p.n:1|c|#p:x");
    metric_add(&source.counter, 1);
    settings = (struct statsd_settings){.address = other_address, .prefix = "q.", .format = STATSD_INFLUXDB};
    statsd_configure(statsd, &settings);
    assert_string_equal(rig_datagram(other), "q.n,p=x:1|c");
    statsd_destroy(&statsd);
    assert_true(rig_is_silent(receiver));
    (void)close(receiver);
    (void)close(other);
}

// Nothing is collected for nobody, and nothing is lost.
static void test_a_receiver_that_comes_late_gets_everything(void **state)
{
    (void)state;
    char address[ENDPOINT_TEXT_SIZE], same[ENDPOINT_TEXT_SIZE];
    (void)close(rig_receiver("127.0.0.1:0", address));
    struct source source = {.gauges = 0};
    metric_add(&source.counter, 5);
    struct statsd *statsd = start(&source, address, NULL, STATSD_PLAIN);
    (void)poll(NULL, 0, 1500); // long enough for it to have tried
    assert_int_equal(atomic_load(&source.collections), 0);
    int receiver = rig_receiver(address, same);
    metric_add(&source.counter, 2);
    assert_string_equal(rig_datagram(receiver), "n.x:7|c");
    // It is restarted: what was sent to nobody is sent again.
    (void)close(receiver);
    metric_add(&source.counter, 10);
    unsigned seen = atomic_load(&source.collections);
    int64_t limit = rig_limit();
    while (atomic_load(&source.collections) == seen && deadline_left(limit) > 0)
        (void)poll(NULL, 0, 10);
    receiver = rig_receiver(address, same);
    metric_add(&source.counter, 1);
    assert_string_equal(rig_datagram(receiver), "n.x:11|c");
    statsd_destroy(&statsd);
    (void)close(receiver);
}

// More than a receiver's buffer holds: in bursts, all of it.
static void test_many_datagrams_go_in_bursts(void **state)
{
    (void)state;
    char address[ENDPOINT_TEXT_SIZE];
    int receiver = rig_receiver("127.0.0.1:0", address);
    struct source source = {.gauges = 4000}; // of 40 bytes each, about 120 datagrams
    int64_t begin = clock_now();
    struct statsd *statsd = start(&source, address, NULL, STATSD_PLAIN);
    unsigned lines = 0, datagrams = 0;
    while (lines < source.gauges) {
        const char *text = rig_datagram(receiver);
        datagrams++;
        assert_true(strlen(text) <= 1432);
        for (const char *at = text; at != NULL; at = strchr(at + 1, '\n'))
            lines++;
    }
    assert_int_equal(lines, source.gauges);
    assert_true(clock_now() - begin >= datagrams / 32 * 10 * NS_PER_MS);
    statsd_destroy(&statsd);
    (void)close(receiver);
}

static void test_a_thread_without_settings_ends(void **state)
{
    (void)state;
    struct source source = {.gauges = 1};
    struct error error = ERROR_INIT;
    struct statsd *statsd = statsd_create(collect, &source, &source.losses, &error);
    assert_non_null(statsd);
    statsd_destroy(&statsd);
    assert_int_equal(atomic_load(&source.collections), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metrics_are_reported_each_second_and_at_the_end),
        cmocka_unit_test(test_settings_change_at_once),
        cmocka_unit_test(test_a_receiver_that_comes_late_gets_everything),
        cmocka_unit_test(test_many_datagrams_go_in_bursts),
        cmocka_unit_test(test_a_thread_without_settings_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
