// Durations: what is read, what is refused and why, and that what is written reads back the same.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "config/duration.h"

static void test_a_duration_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ns;
    } cases[] = {
        {"0", 0},
        {"0s", 0},
        {"0.0", 0},
        {"30", 30 * NS_PER_S},
        {"1.5", 1500 * NS_PER_MS},
        {".5", 500 * NS_PER_MS},
        {"2.", 2 * NS_PER_S},
        {"1ns", 1},
        {"1us", NS_PER_US},
        {"250ms", 250 * NS_PER_MS},
        {"3s", 3 * NS_PER_S},
        {"2m", 120 * NS_PER_S},
        {"1h", 3600 * NS_PER_S},
        {"1h2m3.5s", 3723 * NS_PER_S + 500 * NS_PER_MS},
        {"1m1ms", 60 * NS_PER_S + NS_PER_MS},
        {"0.000000001s", 1},
        {"0.0000000019s", 1},
        {"1.25h", 4500 * NS_PER_S},
        {"9223372036854775807ns", INT64_MAX},
        {"9223372036.854775807", INT64_MAX},
        {"007", 7 * NS_PER_S},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        int64_t ns = -7;
        struct error error = ERROR_INIT;
        if (!duration_parse(cases[i].text, &ns, &error))
            fail_msg("%s: %s", cases[i].text, error.text);
        if (ns != cases[i].ns)
            fail_msg("%s: read as %lld ns", cases[i].text, (long long)ns);
    }
}

static void test_a_malformed_duration_is_refused(void **state)
{
    (void)state;
    static const char none[] = "is not a valid duration: expected one such as 30s, 250ms or 1h2m3.5s";
    static const char unit[] = "has a number whose unit is not one of ns, us, ms, s, m and h";
    static const struct {
        const char *text;
        const char *why;
    } cases[] = {
        {"", none},
        {"s", none},
        {".", none},
        {".s", none},
        {" 5s", none},
        {"+5s", none},
        {"5sx", none},
        {"5s ", none},
        {"1s-1s", none},
        {"five", none},
        {"5 s", unit},
        {"5S", unit},
        {"1d", unit},
        {"1.2.3s", unit},
        {"1e3", unit},
        {"1h5", unit},
        {"0x10", unit},
        {"-1", "is negative"},
        {"-0", "is negative"},
        {"9223372036854775808ns", "is too long for a duration"},
        {"9223372037", "is too long for a duration"},
        {"2562048h", "is too long for a duration"},
        {"2562047h48m", "is too long for a duration"},
        {"99999999999999999999999", "is too long for a duration"},
        {"9223372036.9s", "is too long for a duration"},
        {"0.0000000001s", "is too short for a duration: the shortest is 1ns, and 0 means none"},
        {"0.5ns", "is too short for a duration: the shortest is 1ns, and 0 means none"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        int64_t ns = -7;
        struct error error = ERROR_INIT;
        if (duration_parse(cases[i].text, &ns, &error))
            fail_msg("\"%s\" was read as %lld ns", cases[i].text, (long long)ns);
        assert_string_equal(error.text, cases[i].why);
        assert_int_equal(error.code, ERROR_INVALID);
        assert_int_equal(ns, -7);
    }
}

static void test_a_written_duration_reads_back(void **state)
{
    (void)state;
    static const struct {
        int64_t ns;
        const char *text;
    } cases[] = {
        {0, "0"},
        {1, "1ns"},
        {1500, "1.5us"},
        {250 * NS_PER_MS, "250ms"},
        {NS_PER_MS + 1, "1.000001ms"},
        {25 * NS_PER_S, "25s"},
        {NS_PER_S + 10, "1.00000001s"},
        {60 * NS_PER_S, "1m"},
        {3600 * NS_PER_S, "1h"},
        {3723 * NS_PER_S + 500 * NS_PER_MS, "1h2m3.5s"},
        {3600 * NS_PER_S + 1, "1h1ns"},
        {INT64_MAX, "2562047h47m16.854775807s"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        char text[DURATION_TEXT_SIZE];
        duration_format(cases[i].ns, text);
        assert_string_equal(text, cases[i].text);
        int64_t ns = -7;
        assert_true(duration_parse(text, &ns, NULL));
        assert_true(ns == cases[i].ns);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_duration_is_read),
        cmocka_unit_test(test_a_malformed_duration_is_refused),
        cmocka_unit_test(test_a_written_duration_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
