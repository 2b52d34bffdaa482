// What Prometheus is told of a proxy with real connections, while statsd asks, too.

#include "admission_rig.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "server/metrics_report.h"

static struct metrics_report report;

static int set_up(void **state)
{
    int status = door_setup(state);
    metrics_report_init(&report, &door_runtime);
    return status;
}

static char *text_now(void)
{
    struct error error = ERROR_INIT;
    char *text = NULL;
    size_t length = 0;
    assert_true(metrics_report_text(&report, &text, &length, &error));
    assert_int_equal(length, strlen(text));
    return text;
}

static bool has_line(const char *line)
{
    char *text = text_now();
    const char *at = strstr(text, line);
    bool has = at != NULL && (at == text || at[-1] == '\n') && at[strlen(line)] == '\n';
    free(text);
    return has;
}

static void assert_line(const char *line)
{
    int64_t limit = rig_limit();
    while (!has_line(line) && deadline_left(limit) > 0)
        (void)poll(NULL, 0, 1);
    if (!has_line(line))
        fail_msg("there is no %s in:\n%s", line, text_now());
}

static void test_a_connection_is_counted_while_it_lives_and_after(void **state)
{
    (void)state;
    struct door door;
    door_open(&door);
    // Before anything has happened, what can happen is there.
    assert_line("bitflow_proxy_connections_accepted_total{proxy=\"web\"} 0");
    assert_line("bitflow_proxy_connections_closed_total{proxy=\"web\",reason=\"completed\"} 0");
    assert_line("bitflow_proxy_connections_rejected_total{proxy=\"web\",reason=\"connection_limit\"} 0");
    assert_false(has_line("bitflow_proxy_connections_rejected_total{proxy=\"web\",reason=\"completed\"} 0"));
    assert_false(has_line("bitflow_proxy_handshakes_failed_total{proxy=\"web\",cause=\"timeout\"} 0"));
    assert_line("bitflow_proxy_target_dials_failed_total{proxy=\"web\",target=\"t\",cause=\"connect_refused\"} 0");
    assert_line("bitflow_proxy_time_lifetime_seconds_count{proxy=\"web\"} 0");
    struct pair pair = door_begin(&door);
    assert_line("bitflow_proxy_connections_active{proxy=\"web\"} 1");
    assert_line("bitflow_proxy_bytes_from_client_total{proxy=\"web\"} 1");
    assert_line("bitflow_proxy_bytes_from_target_total{proxy=\"web\"} 1");
    assert_line("bitflow_proxy_time_first_byte_seconds_count{proxy=\"web\"} 1");
    assert_line("bitflow_proxy_time_lifetime_seconds_count{proxy=\"web\"} 0");
    pair_pass(pair.client, pair.target);
    assert_line("bitflow_proxy_bytes_from_client_total{proxy=\"web\"} 2");
    pair_end(&pair);
    assert_line("bitflow_proxy_connections_closed_total{proxy=\"web\",reason=\"completed\"} 1");
    assert_line("bitflow_proxy_connections_active{proxy=\"web\"} 0");
    assert_line("bitflow_proxy_bytes_from_client_total{proxy=\"web\"} 2");
    assert_line("bitflow_proxy_target_dials_attempted_total{proxy=\"web\",target=\"t\"} 1");
    assert_line("bitflow_proxy_time_lifetime_seconds_bucket{proxy=\"web\",le=\"+Inf\"} 1");
    door_close_last(&door);
}

// statsd has been sent nothing, so what was counted is kept for it; but it is not shown any more.
static void test_a_proxy_that_is_gone_is_shown_to_its_last_connection(void **state)
{
    (void)state;
    struct door door;
    door_open(&door);
    struct pair pair = door_begin(&door);
    door_close(&door);
    assert_line("bitflow_proxy_connections_active{proxy=\"web\"} 1");
    assert_line("bitflow_proxy_target_dials_attempted_total{proxy=\"web\",target=\"t\"} 1");
    pair_end(&pair);
    door_await_occupied(0);
    char *text = text_now();
    assert_null(strstr(text, "proxy=\"web\""));
    assert_non_null(strstr(text, "\nprocess_resident_memory_bytes "));
    free(text);
    struct proxy_metrics *kept = metrics_next_proxy(&door_runtime.metrics, NULL);
    assert_non_null(kept);
    assert_string_equal(kept->shared.name, "web");
    assert_null(metrics_next_proxy(&door_runtime.metrics, kept));
}

static void test_the_process_has_its_usual_names(void **state)
{
    (void)state;
    char *text = text_now();
    static const char *const beginnings[] = {"\nprocess_cpu_seconds_total ", "\nprocess_open_fds ",
                                             "\nprocess_max_fds ", "\nprocess_start_time_seconds ",
                                             "\nprocess_resident_memory_bytes "};
    for (size_t i = 0; i < ARRAY_LENGTH(beginnings); i++)
        assert_non_null(strstr(text, beginnings[i]));
    double start =
        strtod(strstr(text, "\nprocess_start_time_seconds ") + strlen("\nprocess_start_time_seconds "), NULL);
    assert_true(start > 1.7e9 && start <= (double)clock_wall() / NS_PER_S);
    assert_int_equal(strncmp(text, "# HELP bitflow_build_info ", strlen("# HELP bitflow_build_info ")), 0);
    assert_non_null(strstr(text, "\nbitflow_build_info{version=\""));
    free(text);
}

enum { ROUNDS = 100 };

static void *ask_often(void *argument)
{
    (void)argument;
    for (unsigned i = 0; i < ROUNDS; i++)
        free(text_now());
    return NULL;
}

// Bytes of live connections are counted once, whoever asks; nobody sees a proxy twice or half counted.
static void test_many_may_ask_at_once(void **state)
{
    (void)state;
    struct door door;
    pthread_t askers[3];
    door_open(&door);
    struct pair pair = door_begin(&door);
    for (size_t i = 0; i < ARRAY_LENGTH(askers); i++)
        assert_int_equal(pthread_create(&askers[i], NULL, ask_often, NULL), 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        pair_pass(pair.client, pair.target);
        assert_true(has_line("bitflow_proxy_connections_active{proxy=\"web\"} 1"));
    }
    for (size_t i = 0; i < ARRAY_LENGTH(askers); i++)
        assert_int_equal(pthread_join(askers[i], NULL), 0);
    pair_end(&pair);
    assert_line("bitflow_proxy_bytes_from_client_total{proxy=\"web\"} 101");
    assert_line("bitflow_proxy_connections_accepted_total{proxy=\"web\"} 1");
    door_close_last(&door);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_connection_is_counted_while_it_lives_and_after, set_up, door_teardown),
        cmocka_unit_test_setup_teardown(test_a_proxy_that_is_gone_is_shown_to_its_last_connection, set_up,
                                        door_teardown),
        cmocka_unit_test_setup_teardown(test_the_process_has_its_usual_names, set_up, door_teardown),
        cmocka_unit_test_setup_teardown(test_many_may_ask_at_once, set_up, door_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
