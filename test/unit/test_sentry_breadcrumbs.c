// What is kept of the log for a report, and how often the same is reported.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/thread.h"
#include "sentry/breadcrumbs.h"
#include "sentry/policy.h"

static void test_a_line_is_kept(void **state)
{
    (void)state;
    const struct log_field fields[] = {{"target", "blue"}, {"empty", ""}, {"error", "refused"}};
    const struct log_event event = {.level = LOG_WARN,
                                    .wall = 5,
                                    .proxy = "web",
                                    .connection = 42,
                                    .message = "hello",
                                    .fields = fields,
                                    .field_count = ARRAY_LENGTH(fields)};
    struct sentry_line line;
    char text[200];
    sentry_line_pack(&event, &line, text, sizeof text);
    assert_true(line.wall == 5 && line.connection == 42 && line.level == LOG_WARN);
    assert_string_equal(sentry_line_message(&line, text), "hello");
    assert_string_equal(sentry_line_proxy(&line, text), "web");
    assert_string_equal(sentry_line_field(&line, text, "error"), "refused");
    assert_string_equal(sentry_line_field(&line, text, "empty"), "");
    assert_null(sentry_line_field(&line, text, "none"));
    const char *at = sentry_line_fields(&line, text);
    struct log_field field;
    for (size_t i = 0; i < ARRAY_LENGTH(fields); i++) {
        assert_true(sentry_line_next_field(&line, text, &at, &field));
        assert_string_equal(field.key, fields[i].key);
    }
    assert_false(sentry_line_next_field(&line, text, &at, &field));
}

// Whatever the room, what is kept is whole strings, keys have values, and no UTF-8 sequence is cut.
static void test_a_line_is_cut_between_characters(void **state)
{
    (void)state;
    const struct log_field fields[] = {{"first", "\u00e4\u00f6\u00fc\u20ac"}, {"second", "value"}, {"third", "last"}};
    const struct log_event event = {.proxy = "web", .message = "message", .fields = fields, .field_count = 3};
    for (size_t size = 0; size < 80; size++) {
        struct sentry_line line;
        char *text = malloc(size + 1); // ASan then sees what is beyond it
        sentry_line_pack(&event, &line, text, size);
        assert_true(line.length <= size);
        assert_true(strncmp(sentry_line_message(&line, text), "message", strlen(sentry_line_message(&line, text))) ==
                    0);
        const char *at = sentry_line_fields(&line, text);
        struct log_field field;
        size_t count = 0;
        for (; sentry_line_next_field(&line, text, &at, &field); count++) {
            assert_string_equal(field.key, fields[count].key);
            size_t length = strlen(field.value);
            assert_memory_equal(field.value, fields[count].value, length);
            assert_true(((unsigned char)fields[count].value[length] & 0xc0) != 0x80);
        }
        assert_true(at == text + line.length);
        if (size == 79)
            assert_int_equal(count, 3);
        free(text);
    }
}

static void add(struct sentry_breadcrumbs *breadcrumbs, enum log_level level, int64_t wall, uint64_t connection)
{
    const struct log_event event = {
        .level = level, .wall = wall, .proxy = "web", .connection = connection, .message = "m"};
    sentry_breadcrumbs_add(breadcrumbs, &event);
}

static void test_the_last_lines_come_in_their_order(void **state)
{
    (void)state;
    static struct sentry_breadcrumbs breadcrumbs;
    static struct sentry_breadcrumb out[SENTRY_BREADCRUMBS_MAX];
    assert_int_equal(sentry_breadcrumbs_collect(&breadcrumbs, 0, out), 0);
    for (int64_t i = 1; i <= 3; i++)
        add(&breadcrumbs, LOG_INFO, i, 0);
    assert_int_equal(sentry_breadcrumbs_collect(&breadcrumbs, 0, out), 3);
    for (int64_t i = 1; i <= 3; i++)
        assert_true(out[i - 1].line.wall == i);
    assert_string_equal(sentry_line_message(&out[0].line, out[0].text), "m");
}

// A flood of connections' ends drives out neither the process's lines nor a connection's warnings.
static void test_a_flood_keeps_the_lines_of_the_process_and_of_the_connection(void **state)
{
    (void)state;
    static struct sentry_breadcrumbs breadcrumbs;
    static struct sentry_breadcrumb out[SENTRY_BREADCRUMBS_MAX];
    add(&breadcrumbs, LOG_INFO, 1, 0);
    add(&breadcrumbs, LOG_WARN, 2, 42);
    for (uint64_t i = 0; i < 1000; i++)
        add(&breadcrumbs, LOG_INFO, 3 + (int64_t)i, 100 + i);
    add(&breadcrumbs, LOG_INFO, 2000, 42);
    size_t count = sentry_breadcrumbs_collect(&breadcrumbs, 42, out);
    assert_int_equal(count, SENTRY_BREADCRUMBS_MAX);
    assert_true(out[0].line.wall == 1 && out[1].line.wall == 2 && out[count - 1].line.wall == 2000);
    // The rest are the newest of the others, in order.
    for (size_t i = 2; i < count - 1; i++)
        assert_true(out[i].line.wall == (int64_t)(1003 - (count - 1) + i));
}

static struct sentry_breadcrumbs shared;

static void *add_many(void *argument)
{
    const uint64_t number = (uint64_t)(uintptr_t)argument;
    char text[32];
    (void)snprintf(text, sizeof text, "of %u", (unsigned)number);
    const struct log_field fields[] = {{"who", text}};
    for (unsigned i = 1; i <= 20000; i++) {
        const struct log_event event = {
            .level = LOG_WARN, .wall = i, .connection = number, .message = "m", .fields = fields, .field_count = 1};
        sentry_breadcrumbs_add(&shared, &event);
    }
    return NULL;
}

static void test_lines_of_many_threads_stay_whole(void **state)
{
    (void)state;
    static struct sentry_breadcrumb out[SENTRY_BREADCRUMBS_MAX];
    pthread_t threads[4];
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++)
        assert_true(thread_start(&threads[i], 65536, add_many, (void *)(uintptr_t)(i + 1), NULL));
    for (size_t round = 0; round < 200; round++) {
        size_t count = sentry_breadcrumbs_collect(&shared, 1, out);
        for (size_t i = 0; i < count; i++) {
            char text[32];
            (void)snprintf(text, sizeof text, "of %u", (unsigned)out[i].line.connection);
            assert_string_equal(sentry_line_field(&out[i].line, out[i].text, "who"), text);
        }
    }
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(sentry_breadcrumbs_collect(&shared, 1, out), SENTRY_BREADCRUMBS_MAX);
}

// ---- the limiter

static void test_an_error_is_reported_once_a_minute(void **state)
{
    (void)state;
    static struct sentry_limiter limiter;
    uint64_t repeated = 99;
    int64_t now = 5 * NS_PER_S;
    assert_int_equal(sentry_limiter_pass(&limiter, 7, now, &repeated), SENTRY_REPORT);
    assert_int_equal(repeated, 0);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(sentry_limiter_pass(&limiter, 7, now + i, &repeated), SENTRY_REPEATED);
    assert_int_equal(sentry_limiter_pass(&limiter, 8, now, &repeated), SENTRY_REPORT); // another one
    assert_int_equal(sentry_limiter_pass(&limiter, 7, now + SENTRY_LIMITER_INTERVAL - 1, &repeated), SENTRY_REPEATED);
    now += SENTRY_LIMITER_INTERVAL;
    assert_int_equal(sentry_limiter_pass(&limiter, 7, now, &repeated), SENTRY_REPORT);
    assert_int_equal(repeated, 1001);
    assert_int_equal(sentry_limiter_pass(&limiter, 7, now, &repeated), SENTRY_REPEATED);
    assert_int_equal(sentry_limiter_pass(&limiter, 7, now + 10 * SENTRY_LIMITER_INTERVAL, &repeated), SENTRY_REPORT);
    assert_int_equal(repeated, 1);
}

static void test_a_full_table_takes_no_more_errors(void **state)
{
    (void)state;
    static struct sentry_limiter limiter;
    uint64_t repeated;
    for (uint64_t i = 1; i <= SENTRY_LIMITER_SIZE; i++)
        assert_int_equal(sentry_limiter_pass(&limiter, i, NS_PER_S + (int64_t)i, &repeated), SENTRY_REPORT);
    assert_int_equal(sentry_limiter_pass(&limiter, 5000, 2 * NS_PER_S, &repeated), SENTRY_TOO_MANY);
    assert_int_equal(sentry_limiter_pass(&limiter, SENTRY_LIMITER_SIZE, 2 * NS_PER_S, &repeated), SENTRY_REPEATED);
    // Whose time is over makes room: the first, and no other.
    int64_t later = NS_PER_S + 1 + SENTRY_LIMITER_INTERVAL;
    assert_int_equal(sentry_limiter_pass(&limiter, 5000, later, &repeated), SENTRY_REPORT);
    assert_int_equal(sentry_limiter_pass(&limiter, 5001, later, &repeated), SENTRY_TOO_MANY);
}

static void test_different_errors_have_different_fingerprints(void **state)
{
    (void)state;
    static const char *const sets[][4] = {{"a", "b", "c", "d"},    {"ab", "", "c", "d"}, {"a", "bc", "", "d"},
                                          {"a", NULL, NULL, NULL}, {"b", "a", "c", "d"}, {"", "", "", ""}};
    uint64_t hashes[ARRAY_LENGTH(sets)];
    for (size_t i = 0; i < ARRAY_LENGTH(sets); i++) {
        hashes[i] = sentry_fingerprint(sets[i], 4);
        assert_true(hashes[i] != 0 && hashes[i] == sentry_fingerprint(sets[i], 4));
        for (size_t n = 0; n < i; n++)
            assert_true(hashes[n] != hashes[i]);
    }
    static const char *const without[] = {"", NULL, "", NULL};
    assert_true(sentry_fingerprint(without, 4) == hashes[ARRAY_LENGTH(sets) - 1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_line_is_kept),
        cmocka_unit_test(test_a_line_is_cut_between_characters),
        cmocka_unit_test(test_the_last_lines_come_in_their_order),
        cmocka_unit_test(test_a_flood_keeps_the_lines_of_the_process_and_of_the_connection),
        cmocka_unit_test(test_lines_of_many_threads_stay_whole),
        cmocka_unit_test(test_an_error_is_reported_once_a_minute),
        cmocka_unit_test(test_a_full_table_takes_no_more_errors),
        cmocka_unit_test(test_different_errors_have_different_fingerprints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
