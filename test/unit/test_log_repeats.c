// The application log when the same is said over and over: the first lines of each window, then how many more.

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/log.h"
#include "log_rig.h"

// Time passes when a test says so: its windows do not depend on how fast it runs. The program's own definition comes
// before the C library's.
static _Atomic int64_t monotonic_now = 1000 * NS_PER_S;

int fake_clock_gettime(clockid_t clock, struct timespec *now) __asm__("clock_gettime");
int fake_clock_gettime(clockid_t clock, struct timespec *now)
{
    if (clock != CLOCK_MONOTONIC && clock != CLOCK_MONOTONIC_COARSE)
        return (int)syscall(SYS_clock_gettime, clock, now);
    *now = clock_timespec(atomic_load(&monotonic_now));
    return 0;
}

static atomic_uint notices;

static void take_notice(void)
{
    atomic_fetch_add(&notices, 1);
}

static int open_repeats(void **state)
{
    // What an earlier test has said is over.
    atomic_fetch_add(&monotonic_now, 10 * NS_PER_S);
    atomic_store(&notices, 0);
    log_set_repeats_notice(take_notice);
    return open_log(state);
}

static void pass(int64_t time)
{
    atomic_fetch_add(&monotonic_now, time);
}

static void fail_to_connect(enum log_level level, const char *proxy, uint64_t connection, const char *target)
{
    char number[LOG_NUMBER_SIZE];
    struct log_context context = {.proxy = proxy, .connection = connection};
    log_at(level, &context, "cannot connect", "target", target, "reason", "refused", "took",
           log_number(number, (int64_t)connection), NULL);
}

static unsigned logged_lines(void)
{
    return count_lines(logged(), "\n");
}

static void test_a_storm_is_summed_up_after_its_window(void **state)
{
    (void)state;
    assert_int_equal(log_flush_repeats(false), DEADLINE_NONE);
    for (unsigned i = 1; i <= 47; i++)
        fail_to_connect(LOG_WARN, "web", i, "db");
    const char *text = logged();
    assert_int_equal(count_lines(text, "\n"), LOG_REPEATS_MAX);
    assert_non_null(strstr(text, " conn=10 "));
    assert_null(strstr(text, " conn=11 "));
    assert_int_equal(atomic_load(&notices), 1);

    // Told when the window is over, and not before.
    int64_t next = log_flush_repeats(false);
    assert_int_equal(deadline_left(next), LOG_REPEATS_WINDOW);
    pass(LOG_REPEATS_WINDOW - 1);
    assert_int_equal(log_flush_repeats(false), next);
    assert_string_equal(logged(), "");
    pass(1);
    assert_int_equal(log_flush_repeats(false), DEADLINE_NONE);
    assert_logged("level=warn msg=\"cannot connect\" proxy=web target=db reason=refused more=37\n");
    pass(LOG_REPEATS_WINDOW);
    assert_int_equal(log_flush_repeats(true), DEADLINE_NONE); // once
    assert_string_equal(logged(), "");
}

static void test_the_next_window_tells_of_the_one_before(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= LOG_REPEATS_MAX + 3; i++)
        fail_to_connect(LOG_ERROR, "web", i, "db");
    assert_int_equal(logged_lines(), LOG_REPEATS_MAX);
    pass(LOG_REPEATS_WINDOW);
    fail_to_connect(LOG_ERROR, "web", 99, "db");
    const char *text = logged();
    const char *more = strstr(text, " more=3\n");
    assert_non_null(more);
    assert_non_null(strstr(more, " conn=99 "));
    assert_int_equal(count_lines(text, "\n"), 2);
    // A window of its own: as many again.
    for (unsigned i = 0; i < LOG_REPEATS_MAX; i++)
        fail_to_connect(LOG_ERROR, "web", 100 + i, "db");
    assert_int_equal(logged_lines(), LOG_REPEATS_MAX - 1);
    assert_int_equal(atomic_load(&notices), 1); // nobody has called since the first
}

static void test_kinds_are_counted_apart(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= 2 * LOG_REPEATS_MAX; i++) {
        fail_to_connect(LOG_WARN, "web", i, "db");
        fail_to_connect(LOG_ERROR, "web", i, "db");  // another level
        fail_to_connect(LOG_WARN, "shop", i, "db");  // another proxy
        fail_to_connect(LOG_WARN, "web", i, "blue"); // another target
        // Another message, without a proxy.
        const struct log_context nameless = {.connection = i};
        log_warn(&nameless, "something else", "target", "db", NULL);
    }
    assert_int_equal(logged_lines(), 5 * LOG_REPEATS_MAX);
    assert_int_equal(log_flush_repeats(true), DEADLINE_NONE);
    const char *text = logged();
    assert_int_equal(count_lines(text, " more=10\n"), 5);
    assert_int_equal(count_lines(text, "\n"), 5);
    assert_non_null(strstr(text, "level=warn msg=\"something else\" target=db more=10\n"));
}

static void test_only_equal_lines_of_the_process_are_summed_up(void **state)
{
    (void)state;
    // Each tells something else.
    char number[LOG_NUMBER_SIZE];
    for (int i = 0; i < 40; i++)
        log_error(NULL, "configuration error", "error", log_number(number, i), NULL);
    assert_int_equal(logged_lines(), 40);
    // These do not.
    for (int i = 0; i < 40; i++)
        log_error(NULL, "reload failed", "file", "f", "error", "e", NULL);
    assert_int_equal(logged_lines(), LOG_REPEATS_MAX);
    (void)log_flush_repeats(true);
    assert_logged("level=error msg=\"reload failed\" file=f error=e more=30\n");
}

static unsigned observed;
static void observe(const struct log_event *event)
{
    (void)event;
    observed++;
}

static void test_info_and_the_observer_see_all(void **state)
{
    (void)state;
    log_set_observer(LOG_INFO, observe);
    for (unsigned i = 1; i <= 25; i++) {
        fail_to_connect(LOG_INFO, "web", i, "db");
        fail_to_connect(LOG_WARN, "web", i, "db");
    }
    assert_int_equal(observed, 50);
    (void)log_flush_repeats(true);
    assert_int_equal(observed, 50); // what is told in one line has been seen
    log_set_observer(LOG_OFF, NULL);
    const char *text = logged();
    assert_int_equal(count_lines(text, "level=info"), 25);
    assert_int_equal(count_lines(text, "level=warn"), LOG_REPEATS_MAX + 1);
}

static void test_a_sum_below_the_level_is_not_told(void **state)
{
    (void)state;
    for (unsigned i = 1; i <= 2 * LOG_REPEATS_MAX; i++)
        fail_to_connect(LOG_WARN, "web", i, "db");
    assert_int_equal(logged_lines(), LOG_REPEATS_MAX);
    log_set_level(LOG_ERROR);
    (void)log_flush_repeats(true);
    assert_string_equal(logged(), "");
}

// More kinds at once than are remembered: all is written, and the places are used again later.
static void test_kinds_beyond_the_table_are_all_written(void **state)
{
    (void)state;
    assert_true(fcntl(writer, F_SETPIPE_SZ, 1 << 20) >= 1 << 20);
    char target[LOG_NUMBER_SIZE];
    for (unsigned i = 0; i < 3000; i++) {
        fail_to_connect(LOG_WARN, "web", 1, log_number(target, i % 300));
        if (i % 60 == 0)
            assert_true(logged_lines() > 0); // keeps the pipe from filling
    }
    (void)logged();
    assert_int_equal(log_flush_repeats(true), DEADLINE_NONE);
    assert_string_equal(logged(), ""); // ten of each kind: none was left out
    pass(LOG_REPEATS_WINDOW);
    for (unsigned i = 1; i <= 47; i++)
        fail_to_connect(LOG_WARN, "web", i, "new");
    assert_int_equal(logged_lines(), LOG_REPEATS_MAX);
    (void)log_flush_repeats(true);
    assert_logged("level=warn msg=\"cannot connect\" proxy=web target=new reason=refused more=37\n");
}

static void test_long_texts_are_cut_in_the_sum(void **state)
{
    (void)state;
    static char first[700], second[700];
    memset(first, 'a', sizeof first - 1);
    memset(second, 'b', sizeof second - 1);
    for (unsigned i = 0; i <= LOG_REPEATS_MAX; i++)
        log_warn(NULL, "x", "k", first, "l", second, "m", second, NULL);
    (void)logged();
    (void)log_flush_repeats(true);
    const char *text = logged();
    assert_non_null(strstr(text, "msg=x k=aaaaaaaa"));
    assert_non_null(strstr(text, "a l=\"\" m=\"\" more=1\n"));
    assert_true(strlen(text) < 700);
}

// As of a certificate that many targets have: its subject and its date are in the message.
static void test_a_sum_keeps_a_message_that_is_gone(void **state)
{
    (void)state;
    const struct log_context web = {.proxy = "web"};
    char message[64];
    for (unsigned i = 0; i <= LOG_REPEATS_MAX; i++) {
        (void)snprintf(message, sizeof message, "the certificate CN=%s expires on %s", "old", "2026-11-28");
        log_warn(&web, message, "file", "ca.pem", NULL);
    }
    (void)logged();
    memset(message, 'x', sizeof message - 1);
    (void)log_flush_repeats(true);
    assert_logged("level=warn msg=\"the certificate CN=old expires on 2026-11-28\" proxy=web file=ca.pem more=1\n");
}

// Shaped like what a peer did, as JSON.
static void test_a_sum_is_valid_json(void **state)
{
    (void)state;
    log_set_format(LOG_JSON);
    for (unsigned i = 1; i <= LOG_REPEATS_MAX + 1; i++)
        fail_to_connect(LOG_WARN, "web", i, "db");
    (void)logged();
    (void)log_flush_repeats(true);
    assert_non_null(strstr(logged(),
                           "\"level\":\"warn\",\"msg\":\"cannot connect\",\"proxy\":\"web\",\"target\":\"db\","
                           "\"reason\":\"refused\",\"more\":\"1\"}\n"));
}

#define STORMERS 4
#define STORM 5000
static void *storm(void *argument)
{
    (void)argument;
    for (unsigned i = 1; i <= STORM; i++)
        fail_to_connect(LOG_WARN, "web", i, "db");
    return NULL;
}

// Whatever the threads do, lines written and lines told of are all the lines.
static void test_no_line_of_many_threads_is_left_uncounted(void **state)
{
    (void)state;
    assert_true(fcntl(writer, F_SETPIPE_SZ, 1 << 20) >= 1 << 20);
    pthread_t threads[STORMERS];
    for (size_t i = 0; i < STORMERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, storm, NULL), 0);
    for (unsigned i = 0; i < 20; i++)
        (void)log_flush_repeats(true);
    for (size_t i = 0; i < STORMERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    (void)log_flush_repeats(true);
    uint64_t total = 0;
    for (const char *line = logged(); *line != '\0'; line = strchr(line, '\n') + 1) {
        const char *more = strstr(line, " more=");
        total += more != NULL && more < strchr(line, '\n') ? strtoull(more + sizeof " more=" - 1, NULL, 10) : 1;
    }
    assert_int_equal(total, STORMERS * STORM);
    assert_true(atomic_load(&notices) >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_storm_is_summed_up_after_its_window, open_repeats, close_log),
        cmocka_unit_test_setup_teardown(test_the_next_window_tells_of_the_one_before, open_repeats, close_log),
        cmocka_unit_test_setup_teardown(test_kinds_are_counted_apart, open_repeats, close_log),
        cmocka_unit_test_setup_teardown(test_only_equal_lines_of_the_process_are_summed_up, open_repeats, close_log),
        cmocka_unit_test_setup_teardown(test_info_and_the_observer_see_all, open_repeats, close_log),
        cmocka_unit_test_setup_teardown(test_a_sum_below_the_level_is_not_told, open_repeats, close_log),
        cmocka_unit_test_setup_teardown(test_kinds_beyond_the_table_are_all_written, open_repeats, close_log),
        cmocka_unit_test_setup_teardown(test_long_texts_are_cut_in_the_sum, open_repeats, close_log),
        cmocka_unit_test_setup_teardown(test_a_sum_keeps_a_message_that_is_gone, open_repeats, close_log),
        cmocka_unit_test_setup_teardown(test_a_sum_is_valid_json, open_repeats, close_log),
        cmocka_unit_test_setup_teardown(test_no_line_of_many_threads_is_left_uncounted, open_repeats, close_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
