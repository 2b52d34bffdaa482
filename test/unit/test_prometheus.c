// Prometheus' text format: names, escapes, histograms. (promtool, and Prometheus itself, read whole pages in test/e2e.)

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
#include "bitflow/telemetry/prometheus.h"
#include "failing_memory.h"

static const struct metric_name no_labels = {.label_count = 0};

static void test_names_follow_the_rule(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *unit;
        enum prometheus_type type;
        const char *name;
    } cases[] = {
        {"threads.busy", "threads", PROMETHEUS_GAUGE, "bitflow_threads_busy"},
        {"proxy.{proxy}.closed.{reason}", "connections", PROMETHEUS_COUNTER, "bitflow_proxy_closed_total"},
        {"a.{b}.{c}.d_e", "x", PROMETHEUS_GAUGE, "bitflow_a_d_e"},
        {"cpu.user", "ms", PROMETHEUS_COUNTER, "bitflow_cpu_user_seconds_total"},
        {"uptime", "s", PROMETHEUS_GAUGE, "bitflow_uptime_seconds"},
        {"memory", "bytes", PROMETHEUS_GAUGE, "bitflow_memory_bytes"},
        {"bytes.in", "bytes", PROMETHEUS_COUNTER, "bitflow_bytes_in_total"},
        {"certificate.days_left", "days", PROMETHEUS_GAUGE, "bitflow_certificate_left_seconds"},
        {"time.{proxy}.seconds", "ms", PROMETHEUS_HISTOGRAM, "bitflow_time_seconds"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char name[PROMETHEUS_NAME_SIZE];
        prometheus_name(cases[i].pattern, cases[i].type, cases[i].unit, name);
        assert_string_equal(name, cases[i].name);
    }
}

static void test_a_family_has_its_lines_before_its_first_sample(void **state)
{
    (void)state;
    struct prometheus_page page;
    const struct metric_name one = {.label_count = 1, .labels = {{"proxy", "web"}}};
    const struct metric_name two = {.label_count = 2, .labels = {{"proxy", "web"}, {"reason", "drain"}}};
    prometheus_begin(&page);
    prometheus_family(&page, "never", PROMETHEUS_GAUGE, "Nobody has any.");
    prometheus_family(&page, "a_total", PROMETHEUS_COUNTER, "What is counted.");
    prometheus_sample(&page, &one, 3, 0);
    prometheus_sample(&page, &two, UINT64_MAX, 0);
    prometheus_family(&page, "b_seconds", PROMETHEUS_GAUGE, "C:\\temp,\nand \"more\".");
    prometheus_sample(&page, &no_labels, 0, 0);
    assert_false(page.has_failed);
    assert_string_equal(page.text, "# HELP a_total What is counted.\n"
                                   "# TYPE a_total counter\n"
                                   "a_total{proxy=\"web\"} 3\n"
                                   "a_total{proxy=\"web\",reason=\"drain\"} 18446744073709551615\n"
                                   "# HELP b_seconds C:\\\\temp,\\nand \"more\".\n"
                                   "# TYPE b_seconds gauge\n"
                                   "b_seconds 0\n");
    assert_int_equal(page.length, strlen(page.text));
    free(page.text);
}

static void test_labels_are_escaped(void **state)
{
    (void)state;
    static const struct {
        const char *value, *written;
    } cases[] = {
        {"", ""},
        {"plain-1.example", "plain-1.example"},
        {"say \"hello\"", "say \\\"hello\\\""},
        {"C:\\new", "C:\\\\new"},
        {"\\\"\n", "\\\\\\\"\\n"},
        {"two\nlines\n", "two\\nlines\\n"},
        {"{a=\"b\"} 7 # \t", "{a=\\\"b\\\"} 7 # \t"},
        {"b\xc3\xa4r \xf0\x9f\x90\xbb", "b\xc3\xa4r \xf0\x9f\x90\xbb"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct prometheus_page page;
        const struct metric_name name = {.label_count = 1, .labels = {{"name", cases[i].value}}};
        char line[128];
        (void)snprintf(line, sizeof line, "\nx{name=\"%s\"} 1\n", cases[i].written);
        prometheus_begin(&page);
        prometheus_family(&page, "x", PROMETHEUS_GAUGE, "h");
        prometheus_sample(&page, &name, 1, 0);
        assert_non_null(strstr(page.text, line));
        free(page.text);
    }
}

static void test_decimals_are_exact(void **state)
{
    (void)state;
    static const struct {
        uint64_t value;
        unsigned decimals;
        const char *line;
    } cases[] = {
        {0, 3, "\nx 0\n"},
        {1, 3, "\nx 0.001\n"},
        {1500, 3, "\nx 1.5\n"},
        {2000, 3, "\nx 2\n"},
        {100, 6, "\nx 0.0001\n"},
        {12345, 0, "\nx 12345\n"},
        {UINT64_MAX, 6, "\nx 18446744073709.551615\n"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct prometheus_page page;
        prometheus_begin(&page);
        prometheus_family(&page, "x", PROMETHEUS_GAUGE, "h");
        prometheus_sample(&page, &no_labels, cases[i].value, cases[i].decimals);
        assert_non_null(strstr(page.text, cases[i].line));
        free(page.text);
    }
}

static unsigned count_lines(const char *text)
{
    unsigned lines = 0;
    for (; *text != '\0'; text++)
        lines += *text == '\n';
    return lines;
}

static void test_a_histogram_is_cumulative(void **state)
{
    (void)state;
    struct metric_timer *timer = calloc(1, sizeof *timer);
    struct prometheus_page page;
    const struct metric_name name = {.label_count = 1, .labels = {{"proxy", "web"}}};
    assert_non_null(timer);
    metric_time(timer, 80 * NS_PER_US);
    metric_time(timer, 250 * NS_PER_US);
    metric_time(timer, 2 * NS_PER_MS);
    metric_time(timer, 7200 * NS_PER_S);
    prometheus_begin(&page);
    prometheus_family(&page, "t_seconds", PROMETHEUS_HISTOGRAM, "h");
    prometheus_histogram(&page, &name, &timer->histogram);
    const char *const expected[] = {
        "# TYPE t_seconds histogram\nt_seconds_bucket{proxy=\"web\",le=\"0.0001\"} 1\n",
        "\nt_seconds_bucket{proxy=\"web\",le=\"0.00025\"} 2\n",
        "\nt_seconds_bucket{proxy=\"web\",le=\"0.001\"} 2\n",
        "\nt_seconds_bucket{proxy=\"web\",le=\"0.0025\"} 3\n",
        "\nt_seconds_bucket{proxy=\"web\",le=\"1\"} 3\n",
        "\nt_seconds_bucket{proxy=\"web\",le=\"3600\"} 3\nt_seconds_bucket{proxy=\"web\",le=\"+Inf\"} 4\n",
        "\nt_seconds_sum{proxy=\"web\"} 7200.00233\nt_seconds_count{proxy=\"web\"} 4\n",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(expected); i++)
        if (strstr(page.text, expected[i]) == NULL)
            fail_msg("there is no %s in %s", expected[i], page.text);
    assert_int_equal(count_lines(page.text), 2 + METRIC_BUCKET_COUNT + 2);
    free(page.text);
    // Without a value, and without a label.
    struct metric_timer *none = calloc(1, sizeof *none);
    prometheus_begin(&page);
    prometheus_family(&page, "t", PROMETHEUS_HISTOGRAM, "h");
    prometheus_histogram(&page, &no_labels, &none->histogram);
    assert_non_null(strstr(page.text, "\nt_bucket{le=\"+Inf\"} 0\nt_sum 0\nt_count 0\n"));
    free(page.text);
    free(none);
    free(timer);
}

static void test_a_page_grows_as_it_must(void **state)
{
    (void)state;
    enum { SAMPLES = 20000 };
    struct prometheus_page page;
    prometheus_begin(&page);
    prometheus_family(&page, "x", PROMETHEUS_GAUGE, "h");
    for (uint64_t i = 0; i < SAMPLES; i++) {
        char value[16];
        (void)snprintf(value, sizeof value, "%u", (unsigned)i);
        const struct metric_name name = {.label_count = 1, .labels = {{"n", value}}};
        prometheus_sample(&page, &name, i, 0);
    }
    assert_false(page.has_failed);
    assert_int_equal(page.length, strlen(page.text));
    assert_int_equal(count_lines(page.text), SAMPLES + 2);
    assert_string_equal(page.text + page.length - strlen("x{n=\"19999\"} 19999\n"), "x{n=\"19999\"} 19999\n");
    free(page.text);
}

static void test_a_page_without_memory_says_so(void **state)
{
    (void)state;
    char help[40000]; // more than what a page begins with
    memset(help, 'h', sizeof help - 1);
    help[sizeof help - 1] = '\0';
#ifdef HAS_THREAD_SANITIZER
    skip();
#endif
    for (long allowed = 0; allowed < 2; allowed++) {
        struct prometheus_page page;
        memory_count_begin(allowed);
        prometheus_begin(&page);
        prometheus_family(&page, "x", PROMETHEUS_GAUGE, help);
        prometheus_sample(&page, &no_labels, 1, 0);
        prometheus_sample(&page, &no_labels, 2, 0);
        bool is_told = page.has_failed;
        free(page.text);
        assert_int_equal(memory_count_end(), 0);
        assert_true(is_told);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_follow_the_rule),
        cmocka_unit_test(test_a_family_has_its_lines_before_its_first_sample),
        cmocka_unit_test(test_labels_are_escaped),
        cmocka_unit_test(test_decimals_are_exact),
        cmocka_unit_test(test_a_histogram_is_cumulative),
        cmocka_unit_test(test_a_page_grows_as_it_must),
        cmocka_unit_test(test_a_page_without_memory_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
