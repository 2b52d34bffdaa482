// What a request is made from, and what its answer means: the DSN taken apart, headers that limit the rate, pauses.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "sentry/policy.h"
#include "sentry/sender.h"

static void test_a_dsn_is_taken_apart(void **state)
{
    (void)state;
    static const struct {
        const char *dsn, *url, *key;
    } table[] = {
        {"https://abc@sentry.example/42", "https://sentry.example/api/42/envelope/", "abc"},
        {"http://abc@127.0.0.1:8969/1", "http://127.0.0.1:8969/api/1/envelope/", "abc"},
        {"https://abc:secret@sentry.example/42", "https://sentry.example/api/42/envelope/", "abc"},
        {"https://k@[2001:db8::1]:9000/a/b/7", "https://[2001:db8::1]:9000/a/b/api/7/envelope/", "k"},
        {"https://k@h/path/7", "https://h/path/api/7/envelope/", "k"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++) {
        struct sentry_dsn dsn;
        assert_true(sentry_dsn_parse(table[i].dsn, &dsn, NULL));
        assert_string_equal(dsn.url, table[i].url);
        assert_string_equal(dsn.key, table[i].key);
    }
}

static void test_a_bad_dsn_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "cret", "https://cret", "https://cret@h", "https://cret@h/", "https://cret@h/p/"};
    char longest[SENTRY_DSN_SIZE + 16];
    (void)snprintf(longest, sizeof longest, "https://cret@h/%0*d", SENTRY_DSN_SIZE, 1);
    struct sentry_dsn dsn = {.url = "as it was"};
    for (size_t i = 0; i <= ARRAY_LENGTH(bad); i++) {
        struct error error = ERROR_INIT;
        assert_false(sentry_dsn_parse(i < ARRAY_LENGTH(bad) ? bad[i] : longest, &dsn, &error));
        assert_int_equal(error.code, ERROR_INVALID);
        assert_null(strstr(error.text, "cret"));
        assert_string_equal(dsn.url, "as it was");
    }
}

#define WALL (INT64_C(1784035200) * NS_PER_S) // Tue, 14 Jul 2026 13:20:00 GMT

static void test_retry_after_is_seconds_or_a_date(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        int64_t seconds_or_less;
    } table[] = {
        {"0", 0},
        {"30", 30},
        {"Tue, 14 Jul 2026 13:20:45 GMT", 45},
        {"Tue, 14 Jul 2026 13:19:00 GMT", 0}, // is over
        {"99999999999", 24 * 3600},
        {"Wed, 14 Jul 2100 13:20:00 GMT", 24 * 3600},
        {"-5", -1},
        {"soon", -1},
        {"", -1},
        {"1e", -1},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++) {
        int64_t seconds = table[i].seconds_or_less;
        int64_t got = sentry_retry_after(table[i].value, WALL);
        if (got != (seconds < 0 ? -1 : seconds * NS_PER_S))
            fail_msg("\"%s\": %lld", table[i].value, (long long)got);
    }
    assert_true(sentry_retry_after("2.5", WALL) == 2500 * NS_PER_MS);
}

static void test_only_limits_of_errors_count(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        int64_t seconds;
    } table[] = {
        {"60:error:organization", 60},
        {"60::organization", 60}, // all of them
        {"60", 60},
        {"60:transaction:key", 0},
        {"60:default;error;security:organization", 60},
        {"60:errors;terror:organization", 0},
        {"60:transaction:key, 2700:default;error;security:organization:quota_exceeded", 2700},
        {"2700:error:organization,60::project", 2700},
        {"10:error ,\t20:error", 20},
        {"x:error:organization", 60}, // it means something
        {"-1:error", 60},
        {"999999999:error", 24 * 3600},
        {"", 0},
        {",,", 0},
        {":error", 0},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++)
        if (sentry_rate_limit(table[i].value) != table[i].seconds * NS_PER_S)
            fail_msg("\"%s\": %lld", table[i].value, (long long)sentry_rate_limit(table[i].value));
    assert_true(sentry_rate_limit("0.5:error") == 500 * NS_PER_MS);
}

static void test_each_answer_has_its_verdict(void **state)
{
    (void)state;
    static const struct {
        struct sentry_answer answer;
        enum sentry_verdict verdict;
        int64_t limited_s, retry_s; // from now
    } table[] = {
        {{.status = 200}, SENTRY_TAKEN, 0, 0},
        {{.status = 202}, SENTRY_TAKEN, 0, 0},
        {{.status = 200, .rate_limits = "5:error:key"}, SENTRY_TAKEN, 5, 0},
        {{.status = 200, .retry_after = "5"}, SENTRY_TAKEN, 0, 0},
        {{.status = 429}, SENTRY_LIMITED, 60, 0},
        {{.status = 429, .retry_after = "7"}, SENTRY_LIMITED, 7, 0},
        {{.status = 429, .retry_after = "nonsense"}, SENTRY_LIMITED, 60, 0},
        {{.status = 429, .retry_after = "7", .rate_limits = "9:error:key"}, SENTRY_LIMITED, 9, 0},
        {{.status = 429, .retry_after = "7", .rate_limits = "9:transaction:key"}, SENTRY_LIMITED, 0, 0},
        {{.status = 0}, SENTRY_TRY_AGAIN, 0, 1},
        {{.status = 500}, SENTRY_TRY_AGAIN, 0, 1},
        {{.status = 503, .retry_after = "20"}, SENTRY_TRY_AGAIN, 20, 1},
        {{.status = 302}, SENTRY_REFUSED, 0, 0},
        {{.status = 400}, SENTRY_REFUSED, 0, 0},
        {{.status = 403}, SENTRY_REFUSED, 0, 0},
        {{.status = 413}, SENTRY_REFUSED, 0, 0},
    };
    const int64_t now = 1000 * NS_PER_S;
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++) {
        struct sentry_policy policy = {.backoff = 0};
        if (sentry_policy_judge(&policy, &table[i].answer, now, WALL) != table[i].verdict)
            fail_msg("%zu: the verdict", i);
        assert_true(policy.retry_at == (table[i].retry_s == 0 ? 0 : now + table[i].retry_s * NS_PER_S));
        int64_t limited = policy.limited_until < now ? 0 : policy.limited_until - now;
        if (limited != table[i].limited_s * NS_PER_S)
            fail_msg("%zu: limited for %lld", i, (long long)limited);
    }
}

static void test_the_backoff_doubles_up_to_a_minute(void **state)
{
    (void)state;
    static const int64_t seconds[] = {1, 2, 4, 8, 16, 32, 60, 60};
    struct sentry_policy policy = {.backoff = 0};
    const struct sentry_answer none = {.status = 0}, good = {.status = 200};
    int64_t now = NS_PER_S;
    for (size_t i = 0; i < ARRAY_LENGTH(seconds); i++) {
        assert_int_equal(sentry_policy_judge(&policy, &none, now, WALL), SENTRY_TRY_AGAIN);
        assert_true(policy.retry_at - now == seconds[i] * NS_PER_S);
        now = policy.retry_at;
    }
    assert_int_equal(sentry_policy_judge(&policy, &good, now, WALL), SENTRY_TAKEN);
    assert_true(policy.retry_at == 0);
    assert_int_equal(sentry_policy_judge(&policy, &none, now, WALL), SENTRY_TRY_AGAIN);
    assert_true(policy.retry_at - now == NS_PER_S);
}

// A shorter limit does not end a longer one.
static void test_a_shorter_limit_does_not_end_a_longer_one(void **state)
{
    (void)state;
    struct sentry_policy policy = {.backoff = 0};
    const struct sentry_answer longer = {.status = 429, .retry_after = "100"},
                               shorter = {.status = 429, .retry_after = "1"};
    (void)sentry_policy_judge(&policy, &longer, NS_PER_S, WALL);
    (void)sentry_policy_judge(&policy, &shorter, 2 * NS_PER_S, WALL);
    assert_true(policy.limited_until == 101 * NS_PER_S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_dsn_is_taken_apart),
        cmocka_unit_test(test_a_bad_dsn_is_refused),
        cmocka_unit_test(test_retry_after_is_seconds_or_a_date),
        cmocka_unit_test(test_only_limits_of_errors_count),
        cmocka_unit_test(test_each_answer_has_its_verdict),
        cmocka_unit_test(test_the_backoff_doubles_up_to_a_minute),
        cmocka_unit_test(test_a_shorter_limit_does_not_end_a_longer_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
