// Lines in the three dialects, datagrams that are filled and not overfilled, counters that survive a loss.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/telemetry/statsd_batch.h"
#include "telemetry/statsd_line.h"

static const char *render(enum statsd_format format, const char *prefix, const struct metric_name *name, double rate)
{
    static char text[STATSD_LINE_MAX + 1];
    const struct statsd_line line = {
        .format = format, .prefix = prefix, .name = name, .value = "12", .type = "c", .rate = rate};
    text[statsd_render(&line, text)] = '\0';
    return text;
}

static void test_each_format_has_its_lines(void **state)
{
    (void)state;
    const struct metric_name name = {.pattern = "proxy.{proxy}.closed.{reason}",
                                     .label_count = 2,
                                     .labels = {{"proxy", "web"}, {"reason", "completed"}}};
    const struct metric_name bare = {.pattern = "process.uptime"};
    const struct metric_name first = {.pattern = "{proxy}.up", .label_count = 1, .labels = {{"proxy", "web"}}};
    assert_string_equal(render(STATSD_PLAIN, "", &name, 1), "proxy.web.closed.completed:12|c");
    assert_string_equal(render(STATSD_PLAIN, "site", &name, 1), "site.proxy.web.closed.completed:12|c");
    assert_string_equal(render(STATSD_PLAIN, "site.", &name, 0.25), "site.proxy.web.closed.completed:12|c|@0.25");
    assert_string_equal(render(STATSD_PLAIN, "a.b", &bare, 1), "a.b.process.uptime:12|c");
    assert_string_equal(render(STATSD_PLAIN, "", &first, 1), "web.up:12|c");
    assert_string_equal(render(STATSD_DOGSTATSD, "site", &name, 0.5),
                        "site.proxy.closed:12|c|@0.5|#proxy:web,reason:completed");
    assert_string_equal(render(STATSD_DOGSTATSD, "", &bare, 1), "process.uptime:12|c");
    assert_string_equal(render(STATSD_DOGSTATSD, "", &first, 1), "up:12|c|#proxy:web");
    assert_string_equal(render(STATSD_INFLUXDB, "site", &name, 0.5),
                        "site.proxy.closed,proxy=web,reason=completed:12|c|@0.5");
    assert_string_equal(render(STATSD_INFLUXDB, "", &bare, 1), "process.uptime:12|c");
}

static void test_rates_have_no_exponent(void **state)
{
    (void)state;
    const struct metric_name name = {.pattern = "t"};
    assert_string_equal(render(STATSD_PLAIN, "", &name, 100.0 / 20000), "t:12|c|@0.005");
    assert_string_equal(render(STATSD_PLAIN, "", &name, 1.0 / 3), "t:12|c|@0.333333333333");
    assert_string_equal(render(STATSD_PLAIN, "", &name, 100.0 / 50000000), "t:12|c|@0.000002");
    assert_string_equal(render(STATSD_PLAIN, "", &name, 1), "t:12|c");
}

static void test_names_are_sanitized(void **state)
{
    (void)state;
    static const struct {
        const char *value, *in_name, *in_tag;
    } cases[] = {
        {"www.example.com", "www_example_com", "www.example.com"},
        {"a:b|c@d#e,f=g h/i", "a_b_c_d_e_f_g_h_i", "a_b_c_d_e_f_g_h_i"},
        {"*", "_", "_"},
        {"b\xc3\xa9", "b_", "b_"},
        {"\xe2\x82\xac\xf0\x9f\x98\x80", "__", "__"},
        {"line\nbreak", "line_break", "line_break"},
        {"Az09_-", "Az09_-", "Az09_-"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char expected[128];
        const struct metric_name name = {.pattern = "p.{t}.x", .label_count = 1, .labels = {{"t", cases[i].value}}};
        (void)snprintf(expected, sizeof expected, "p.%s.x:12|c", cases[i].in_name);
        assert_string_equal(render(STATSD_PLAIN, "", &name, 1), expected);
        (void)snprintf(expected, sizeof expected, "p.x:12|c|#t:%s", cases[i].in_tag);
        assert_string_equal(render(STATSD_DOGSTATSD, "", &name, 1), expected);
        (void)snprintf(expected, sizeof expected, "p.x,t=%s:12|c", cases[i].in_tag);
        assert_string_equal(render(STATSD_INFLUXDB, "", &name, 1), expected);
    }
}

static void test_a_line_that_is_too_long_is_none(void **state)
{
    (void)state;
    char value[STATSD_LINE_MAX];
    const struct metric_name name = {.pattern = "{a}", .label_count = 1, .labels = {{"a", value}}};
    memset(value, 'v', sizeof value);
    value[STATSD_LINE_MAX - strlen(":12|c")] = '\0';
    assert_int_equal(strlen(render(STATSD_PLAIN, "", &name, 1)), STATSD_LINE_MAX);
    assert_string_equal(render(STATSD_PLAIN, "p", &name, 1), "");
}

// A receiver that keeps what it gets, as one text with an empty line between datagrams, and says what it is told to.
struct receiver {
    struct statsd_batch batch;
    struct statsd_losses losses;
    char text[256 * 1024];
    size_t length;
    unsigned datagrams;
    size_t longest;
    enum statsd_outcome outcomes[8]; // of the first ones; then all are sent
};

static enum statsd_outcome receive(void *argument, const char *bytes, size_t length)
{
    struct receiver *receiver = argument;
    unsigned number = receiver->datagrams++;
    enum statsd_outcome outcome = number < ARRAY_LENGTH(receiver->outcomes) ? receiver->outcomes[number] : STATSD_SENT;
    receiver->longest = length > receiver->longest ? length : receiver->longest;
    if (outcome != STATSD_SENT)
        return outcome;
    assert_true(receiver->length + length + 3 < sizeof receiver->text);
    memcpy(receiver->text + receiver->length, bytes, length);
    receiver->length += length;
    memcpy(receiver->text + receiver->length, "\n\n", 3);
    receiver->length += 2;
    return STATSD_SENT;
}

static struct receiver *create_receiver(size_t limit)
{
    struct receiver *receiver = calloc(1, sizeof *receiver);
    assert_non_null(receiver);
    receiver->batch.prefix = "";
    receiver->batch.losses = &receiver->losses;
    receiver->batch.sink = (struct statsd_sink){.send = receive, .argument = receiver, .limit = limit};
    return receiver;
}

static void forget(struct receiver *receiver)
{
    receiver->length = 0;
    receiver->text[0] = '\0';
    receiver->datagrams = 0;
}

static uint64_t lost(const struct metric_counter *counter)
{
    return atomic_load(&counter->value);
}

static void test_datagrams_are_filled_up_to_the_limit(void **state)
{
    (void)state;
    const struct metric_name name = {.pattern = "gauge"};
    for (size_t limit = STATSD_LINE_MAX; limit <= STATSD_DATAGRAM_MAX; limit += 1 + limit / 3) {
        struct receiver *receiver = create_receiver(limit);
        size_t bytes = 0;
        statsd_batch_begin(&receiver->batch, true);
        for (uint64_t i = 0; i < 3000; i++) {
            statsd_gauge(&receiver->batch, &name, i);
            bytes += (size_t)snprintf(NULL, 0, "gauge:%u|g\n", (unsigned)i);
        }
        statsd_batch_end(&receiver->batch);
        assert_in_range(receiver->longest, limit - strlen("\ngauge:2999|g"), limit);
        assert_in_range(receiver->datagrams, bytes / limit, bytes / (limit - strlen("\ngauge:2999|g")) + 1);
        // All of them, in order, each whole.
        const char *at = receiver->text;
        for (unsigned i = 0; i < 3000; i++) {
            char line[32];
            int length = snprintf(line, sizeof line, "gauge:%u|g\n", i);
            assert_memory_equal(at, line, (size_t)length);
            at += length;
            at += *at == '\n';
        }
        free(receiver);
    }
}

static void test_nothing_is_sent_of_nothing(void **state)
{
    (void)state;
    struct receiver *receiver = create_receiver(1432);
    struct metric_counter counter = {.attempted = 0};
    struct metric_timer timer = {.state = 0};
    const struct metric_name name = {.pattern = "n"};
    statsd_batch_begin(&receiver->batch, true);
    statsd_count(&receiver->batch, &name, &counter);
    statsd_time(&receiver->batch, &name, &timer);
    statsd_batch_end(&receiver->batch);
    assert_int_equal(receiver->datagrams, 0);
    free(receiver);
}

static void count_in_a_batch(struct receiver *receiver, bool was_delivered, struct metric_counter *counter)
{
    const struct metric_name name = {.pattern = "n"};
    forget(receiver);
    statsd_batch_begin(&receiver->batch, was_delivered);
    statsd_count(&receiver->batch, &name, counter);
    statsd_batch_end(&receiver->batch);
}

static void test_counters_survive_losses(void **state)
{
    (void)state;
    struct receiver *receiver = create_receiver(1432);
    struct metric_counter counter = {.attempted = 0};
    metric_add(&counter, 5);
    count_in_a_batch(receiver, true, &counter);
    assert_string_equal(receiver->text, "n:5|c\n\n");
    metric_add(&counter, 2);
    count_in_a_batch(receiver, true, &counter);
    assert_string_equal(receiver->text, "n:2|c\n\n");
    // That one came back: it is sent again, with what came meanwhile.
    metric_add(&counter, 10);
    count_in_a_batch(receiver, false, &counter);
    assert_string_equal(receiver->text, "n:12|c\n\n");
    assert_int_equal(lost(&receiver->losses.datagrams), 1);
    // Dropped, and refused, and gone: later.
    static const enum statsd_outcome failures[] = {STATSD_DROPPED, STATSD_GONE, STATSD_REFUSED};
    for (size_t i = 0; i < ARRAY_LENGTH(failures); i++) {
        metric_add(&counter, 100);
        receiver->outcomes[0] = failures[i];
        count_in_a_batch(receiver, true, &counter);
        assert_string_equal(receiver->text, "");
        assert_int_equal(lost(&receiver->losses.datagrams), 2 + i);
        assert_false(metric_is_settled(&counter));
    }
    receiver->outcomes[0] = STATSD_SENT;
    count_in_a_batch(receiver, true, &counter);
    assert_string_equal(receiver->text, "n:300|c\n\n");
    count_in_a_batch(receiver, true, &counter);
    assert_string_equal(receiver->text, "");
    assert_true(metric_is_settled(&counter));
    free(receiver);
}

// Once the receiver is gone in the middle of a batch, nothing more is tried, and nothing is lost of what was not sent.
static void test_the_rest_of_a_batch_waits(void **state)
{
    (void)state;
    struct receiver *receiver = create_receiver(1432);
    struct metric_counter *counters = calloc(1000, sizeof *counters);
    struct metric_timer *timer = calloc(1, sizeof *timer);
    const struct metric_name name = {.pattern = "n"};
    assert_non_null(counters);
    assert_non_null(timer);
    for (int i = 0; i < 1000; i++)
        metric_add(&counters[i], 1);
    metric_time(timer, NS_PER_MS);
    receiver->outcomes[1] = STATSD_GONE; // the second datagram of three
    for (int round = 0; round < 3; round++) {
        statsd_batch_begin(&receiver->batch, true);
        for (int i = 0; i < 1000; i++)
            statsd_count(&receiver->batch, &name, &counters[i]);
        statsd_time(&receiver->batch, &name, timer);
        statsd_batch_end(&receiver->batch);
    }
    unsigned lines = 0;
    for (const char *at = receiver->text; (at = strstr(at, "n:1|c\n")) != NULL; at++)
        lines++;
    assert_int_equal(lines, 1000);
    assert_non_null(strstr(receiver->text, "n:1.000|ms"));
    assert_int_equal(lost(&receiver->losses.timings), 0);
    for (int i = 0; i < 1000; i++)
        assert_true(metric_is_settled(&counters[i]));
    free(timer);
    free(counters);
    free(receiver);
}

static void test_timers_tell_how_many_there_were(void **state)
{
    (void)state;
    struct receiver *receiver = create_receiver(1432);
    struct metric_timer *timer = calloc(1, sizeof *timer);
    const struct metric_name name = {.pattern = "t"};
    assert_non_null(timer);
    metric_time(timer, 1234567);
    statsd_batch_begin(&receiver->batch, true);
    statsd_time(&receiver->batch, &name, timer);
    statsd_batch_end(&receiver->batch);
    assert_string_equal(receiver->text, "t:1.234|ms\n\n");
    forget(receiver);
    for (int i = 0; i < 20000; i++)
        metric_time(timer, 2 * NS_PER_MS);
    statsd_batch_begin(&receiver->batch, true);
    statsd_time(&receiver->batch, &name, timer);
    statsd_batch_end(&receiver->batch);
    unsigned lines = 0;
    for (const char *at = receiver->text; (at = strstr(at, "t:2.000|ms|@0.005\n")) != NULL; at++)
        lines++;
    assert_int_equal(lines, METRIC_TIMER_KEPT);
    assert_in_range(receiver->datagrams, 1, 2);
    free(timer);
    free(receiver);
}

// What a datagram's durations stood for is counted when it is dropped, and when it turns out to have been for nobody.
static void test_lost_durations_are_counted(void **state)
{
    (void)state;
    struct receiver *receiver = create_receiver(1432);
    struct metric_timer *timer = calloc(1, sizeof *timer);
    const struct metric_name name = {.pattern = "t"};
    assert_non_null(timer);
    receiver->outcomes[0] = STATSD_DROPPED;
    for (int i = 0; i < 1007; i++)
        metric_time(timer, NS_PER_MS);
    statsd_batch_begin(&receiver->batch, true);
    statsd_time(&receiver->batch, &name, timer);
    statsd_batch_end(&receiver->batch);
    unsigned lines = 0;
    for (const char *at = receiver->text; (at = strstr(at, "t:1.000|ms|@")) != NULL; at++)
        lines++;
    assert_in_range(lines, 10, METRIC_TIMER_KEPT - 10); // the second datagram's
    // Each stands for ten, the very first one for seven more.
    assert_int_equal(lost(&receiver->losses.timings), (METRIC_TIMER_KEPT - lines) * 10 + 7);
    assert_int_equal(lost(&receiver->losses.datagrams), 1);
    statsd_batch_begin(&receiver->batch, false);
    statsd_batch_end(&receiver->batch);
    assert_int_equal(lost(&receiver->losses.timings), 1007);
    assert_int_equal(lost(&receiver->losses.datagrams), 2);
    free(timer);
    free(receiver);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_format_has_its_lines),
        cmocka_unit_test(test_rates_have_no_exponent),
        cmocka_unit_test(test_names_are_sanitized),
        cmocka_unit_test(test_a_line_that_is_too_long_is_none),
        cmocka_unit_test(test_datagrams_are_filled_up_to_the_limit),
        cmocka_unit_test(test_nothing_is_sent_of_nothing),
        cmocka_unit_test(test_counters_survive_losses),
        cmocka_unit_test(test_the_rest_of_a_batch_waits),
        cmocka_unit_test(test_timers_tell_how_many_there_were),
        cmocka_unit_test(test_lost_durations_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
