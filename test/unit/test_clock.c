// Time: deadlines, their conversions and their limits.

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"

static void test_time_does_not_go_back(void **state)
{
    (void)state;
    int64_t before = clock_now(), coarse = clock_now_coarse(), after = clock_now();
    assert_true(before > 0 && after >= before);
    assert_in_range(coarse, before - 100 * NS_PER_MS, after); // it lags by a tick
    assert_true(clock_wall() > INT64_C(1700000000) * NS_PER_S);
}

static void test_a_duration_without_bound_has_no_deadline(void **state)
{
    (void)state;
    int64_t before = clock_now(), deadline = deadline_after(5 * NS_PER_S), after = clock_now();
    assert_in_range(deadline, before + 5 * NS_PER_S, after + 5 * NS_PER_S);
    assert_int_equal(deadline_after(0), DEADLINE_NONE);
    assert_int_equal(deadline_after(-1), DEADLINE_NONE);
    assert_int_equal(deadline_after(INT64_MAX), DEADLINE_NONE);
    assert_int_equal(deadline_after(INT64_MAX - 1), DEADLINE_NONE);
    assert_true(deadline_after(INT64_MAX / 2) < DEADLINE_NONE);
}

static void test_a_deadline_that_has_passed_leaves_nothing(void **state)
{
    (void)state;
    assert_int_equal(deadline_left(DEADLINE_NONE), INT64_MAX);
    assert_int_equal(deadline_left(clock_now() - 1), 0);
    assert_int_equal(deadline_left(0), 0);
    int64_t left = deadline_left(clock_now() + 5 * NS_PER_S);
    assert_in_range(left, 1, 5 * NS_PER_S);
}

static void test_a_poll_never_ends_before_its_deadline(void **state)
{
    (void)state;
    assert_int_equal(deadline_poll_ms(DEADLINE_NONE), -1);
    assert_int_equal(deadline_poll_ms(clock_now()), 0);
    assert_int_equal(deadline_poll_ms(0), 0);
    // Rounded up: a wait of this long never ends before the deadline, and so never spins on its last millisecond.
    for (int i = 0; i < 1000; i++) {
        int64_t deadline = clock_now() + 10 * NS_PER_MS + 1;
        int ms = deadline_poll_ms(deadline);
        assert_true(clock_now() + ms * NS_PER_MS >= deadline);
        assert_in_range(ms, 0, 11);
    }
    assert_int_equal(deadline_poll_ms(DEADLINE_NONE - 1), INT_MAX);
    assert_int_equal(deadline_poll_ms(clock_now() + (int64_t)INT_MAX * NS_PER_MS + 5 * NS_PER_S), INT_MAX);
    assert_in_range(deadline_poll_ms(clock_now() + (int64_t)INT_MAX * NS_PER_MS - 5 * NS_PER_S), INT_MAX - 6000,
                    INT_MAX);
}

static void test_conversions_round_up(void **state)
{
    (void)state;
    static const struct {
        int64_t ns;
        time_t s;
        suseconds_t us;
    } rows[] = {
        {0, 0, 0},
        {1, 0, 1},
        {999, 0, 1},
        {1000, 0, 1},
        {1001, 0, 2},
        {NS_PER_S - 1, 1, 0},
        {NS_PER_S, 1, 0},
        {NS_PER_S + 1, 1, 1},
        {1500 * NS_PER_MS, 1, 500000},
        {INT64_MAX, 9223372036, 854776},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct timeval value = clock_timeval(rows[i].ns);
        assert_int_equal(value.tv_sec, rows[i].s);
        assert_int_equal(value.tv_usec, rows[i].us);
    }
    struct timespec value = clock_timespec(3 * NS_PER_S + 7);
    assert_int_equal(value.tv_sec, 3);
    assert_int_equal(value.tv_nsec, 7);
}

static void test_a_time_is_written_in_utc_with_milliseconds(void **state)
{
    (void)state;
    static const struct {
        int64_t wall;
        const char *text;
    } rows[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {NS_PER_MS - 1, "1970-01-01T00:00:00.000Z"},
        {INT64_C(1795449245) * NS_PER_S + 123 * NS_PER_MS + 999999, "2026-11-23T15:54:05.123Z"},
        {INT64_C(951782399) * NS_PER_S + 999 * NS_PER_MS, "2000-02-28T23:59:59.999Z"},
        {INT64_C(951782400) * NS_PER_S, "2000-02-29T00:00:00.000Z"},
        {INT64_MAX, "2262-04-11T23:47:16.854Z"},
        {-1, "1969-12-31T23:59:59.999Z"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        char text[CLOCK_RFC3339_SIZE];
        clock_format_rfc3339(rows[i].wall, text);
        assert_string_equal(text, rows[i].text);
    }
}

// Each day from 1677 to 2262, in leap years and others.
static void test_days_are_those_of_the_c_library(void **state)
{
    (void)state;
    for (int64_t day = INT64_MIN / NS_PER_S / 86400 + 1; day <= INT64_MAX / NS_PER_S / 86400; day++) {
        time_t seconds = day * 86400;
        struct tm utc;
        char expected[CLOCK_RFC3339_SIZE], text[CLOCK_RFC3339_SIZE];
        assert_non_null(gmtime_r(&seconds, &utc));
        assert_true(strftime(expected, sizeof expected, "%Y-%m-%dT00:00:00.000Z", &utc) > 0);
        clock_format_rfc3339(seconds * NS_PER_S, text);
        assert_string_equal(text, expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_time_does_not_go_back),
        cmocka_unit_test(test_a_duration_without_bound_has_no_deadline),
        cmocka_unit_test(test_a_deadline_that_has_passed_leaves_nothing),
        cmocka_unit_test(test_a_poll_never_ends_before_its_deadline),
        cmocka_unit_test(test_conversions_round_up),
        cmocka_unit_test(test_a_time_is_written_in_utc_with_milliseconds),
        cmocka_unit_test(test_days_are_those_of_the_c_library),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
