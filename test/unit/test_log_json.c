// The application log as JSON, read by a real parser (jansson): every line is one object of valid UTF-8, whatever bytes
// its values hold and wherever they were cut; and logfmt for the same bytes.

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/log.h"
#include "log_rig.h"

static int open_json(void **state)
{
    int result = open_log(state);
    log_set_format(LOG_JSON);
    return result;
}

// The one line that was logged, as an object. It is to be a line, and nothing in it may look like another one.
static json_t *logged_object(void)
{
    const char *line = logged();
    size_t length = strlen(line);
    assert_in_range(length, 2, LOG_LINE_MAX);
    assert_ptr_equal(strchr(line, '\n'), line + length - 1);
    for (size_t i = 0; i < length - 1; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            fail_msg("a control character at %zu: %s", i, line);
    json_error_t error;
    json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, &error); // jansson refuses what is not UTF-8
    if (object == NULL || !json_is_object(object))
        fail_msg("%s at %d in %s", error.text, error.position, line);
    return object;
}

static void assert_text(const json_t *object, const char *key, const char *expected)
{
    const char *text = json_string_value(json_object_get(object, key));
    assert_non_null(text);
    assert_string_equal(text, expected);
}

static void test_a_line_has_its_fields(void **state)
{
    (void)state;
    struct log_context context = {.proxy = "web", .connection = 42};
    log_info(&context, "cannot connect", "target", "db", "empty", "", "left_out", (const char *)NULL, NULL);
    json_t *object = logged_object();
    assert_int_equal(json_object_size(object), 7);
    assert_text(object, "level", "info");
    assert_text(object, "msg", "cannot connect");
    assert_text(object, "proxy", "web");
    assert_int_equal(json_integer_value(json_object_get(object, "conn")), 42);
    assert_text(object, "target", "db");
    assert_text(object, "empty", "");
    const char *ts = json_string_value(json_object_get(object, "ts"));
    assert_non_null(ts);
    assert_int_equal(strlen(ts), CLOCK_RFC3339_SIZE - 1);
    json_decref(object);

    log_debug(NULL, "started", NULL);
    object = logged_object();
    assert_int_equal(json_object_size(object), 3);
    json_decref(object);

    context = (struct log_context){.connection = UINT64_MAX};
    log_info(&context, "x", NULL);
    assert_non_null(strstr(logged(), ",\"conn\":18446744073709551615}\n"));
}

static void test_keys_come_in_order(void **state)
{
    (void)state;
    struct log_context context = {.proxy = "web", .connection = 42};
    log_warn(&context, "x", "k", "v", NULL);
    const char *line = logged();
    assert_memory_equal(line, "{\"ts\":\"", 7);
    assert_string_equal(line + 7 + CLOCK_RFC3339_SIZE - 1,
                        "\",\"level\":\"warn\",\"msg\":\"x\",\"proxy\":\"web\",\"conn\":42,\"k\":\"v\"}\n");
}

#define REPLACEMENT "\xef\xbf\xbd"

static void test_special_bytes_are_escaped(void **state)
{
    (void)state;
    static const struct {
        const char *value, *json, *logfmt;
    } rows[] = {
        {"say \"hi\" \\ / \b\f\n\r\t\x1b\x7f", "say \"hi\" \\ / \b\f\n\r\t\x1b\x7f",
         "\"say \\\"hi\\\" \\\\ / \\x08\\x0c\\n\\x0d\\x09\\x1b\\x7f\""},
        {"x\"}\n{\"level\":\"error", "x\"}\n{\"level\":\"error", "\"x\\\"}\\n{\\\"level\\\":\\\"error\""},
        {"m\xc3\xbcnchen", "m\xc3\xbcnchen", "m\xc3\xbcnchen"},
        {"\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf", "\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf",
         "\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf"},
        // Control characters of Latin-1, among them what starts a terminal's escape sequence; line separators.
        {"\xc2\x9b"
         "31m\xc2\x85\xc2\xa0",
         "\xc2\x9b"
         "31m\xc2\x85\xc2\xa0",
         "\"\\xc2\\x9b31m\\xc2\\x85\xc2\xa0\""},
        {"\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa", "\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa",
         "\"\\xe2\\x80\\xa8\\xe2\\x80\\xa9\xe2\x80\xaa\""},
        // Not UTF-8: a lone continuation, a cut sequence, overlong ones, a surrogate, beyond U+10FFFF.
        {"\x80", REPLACEMENT, "\"\\x80\""},
        {"a\xc3", "a" REPLACEMENT, "\"a\\xc3\""},
        {"\xe2\x82z", REPLACEMENT REPLACEMENT "z", "\"\\xe2\\x82z\""},
        {"\xf0\x9f\x98", REPLACEMENT REPLACEMENT REPLACEMENT, "\"\\xf0\\x9f\\x98\""},
        {"\xc0\xaf", REPLACEMENT REPLACEMENT, "\"\\xc0\\xaf\""},
        {"\xe0\x9f\xbf", REPLACEMENT REPLACEMENT REPLACEMENT, "\"\\xe0\\x9f\\xbf\""},
        {"\xf0\x8f\xbf\xbf", REPLACEMENT REPLACEMENT REPLACEMENT REPLACEMENT, "\"\\xf0\\x8f\\xbf\\xbf\""},
        {"\xed\xa0\x80", REPLACEMENT REPLACEMENT REPLACEMENT, "\"\\xed\\xa0\\x80\""},
        {"\xf4\x90\x80\x80", REPLACEMENT REPLACEMENT REPLACEMENT REPLACEMENT, "\"\\xf4\\x90\\x80\\x80\""},
        {"\xf5\xff\xfe", REPLACEMENT REPLACEMENT REPLACEMENT, "\"\\xf5\\xff\\xfe\""},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        char expected[256];
        log_set_format(LOG_JSON);
        log_info(NULL, "x", "k", rows[i].value, "z", "1", NULL);
        json_t *object = logged_object();
        assert_text(object, "k", rows[i].json);
        assert_text(object, "z", "1");
        json_decref(object);
        log_set_format(LOG_LOGFMT);
        log_info(NULL, "x", "k", rows[i].value, "z", "1", NULL);
        (void)snprintf(expected, sizeof expected, "level=info msg=x k=%s z=1\n", rows[i].logfmt);
        assert_logged(expected);
    }
}

// Every byte, and every pair that begins with one beyond ASCII: each line is valid, and each field where it belongs.
static void test_any_bytes_leave_valid_json(void **state)
{
    (void)state;
    for (unsigned first = 1; first < 0x100; first++)
        for (unsigned second = first < 0x80 ? 0xff : 1; second < 0x100; second++) {
            const char value[] = {(char)first, (char)second, '\0'};
            log_info(NULL, "x", "k", value, "z", "1", NULL);
            json_t *object = logged_object();
            assert_int_equal(json_object_size(object), 5);
            assert_text(object, "z", "1");
            json_decref(object);
        }
}

// A value of `unit` repeated, for every length around the line's limit.
static void check_cut(const char *unit, size_t size_in_line)
{
    static char value[2 * LOG_LINE_MAX];
    size_t unit_length = strlen(unit);
    for (size_t count = (LOG_LINE_MAX - 100) / size_in_line; count < LOG_LINE_MAX / size_in_line + 2; count++) {
        for (size_t i = 0; i < count; i++)
            memcpy(value + i * unit_length, unit, unit_length);
        value[count * unit_length] = '\0';
        struct log_context context = {.proxy = "web", .connection = INT64_MAX};
        log_info(&context, "x", "k", value, "last", "1", NULL);
        json_t *object = logged_object();
        const char *kept = json_string_value(json_object_get(object, "k"));
        assert_non_null(kept);
        // Whole units, from the first on.
        size_t kept_length = strlen(kept);
        assert_int_equal(kept_length % unit_length, 0);
        assert_true(kept_length <= count * unit_length && memcmp(kept, value, kept_length) == 0);
        assert_true(kept_length * size_in_line / unit_length > LOG_LINE_MAX - 150);
        json_decref(object);
    }
}

static void test_long_values_are_cut(void **state)
{
    (void)state;
    check_cut("x", 1);
    check_cut("\"", 2);
    check_cut("\x01", 6);
    check_cut("\xc3\xbc", 2);
    check_cut("\xe2\x82\xac", 3);
    check_cut("\xf0\x9f\x98\x80", 4);
}

// A proxy's name, which comes before the connection's id, of every length around the limit.
static void test_a_line_that_is_cut_before_the_id_is_valid_json(void **state)
{
    (void)state;
    static char name[LOG_LINE_MAX];
    for (size_t length = LOG_LINE_MAX - 150; length < LOG_LINE_MAX; length++) {
        memset(name, 'n', length);
        name[length] = '\0';
        struct log_context context = {.proxy = name, .connection = UINT64_MAX};
        log_set_format(LOG_JSON);
        log_info(&context, "x", "k", "v", NULL);
        const char *line = logged();
        json_error_t error;
        json_t *object = json_loads(line, JSON_DECODE_INT_AS_REAL, &error);
        if (object == NULL)
            fail_msg("%s: %s", error.text, line);
        json_decref(object);
        log_set_format(LOG_LOGFMT);
        log_info(&context, "x", "k", "v", NULL);
        line = logged();
        assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
        const char *id = strstr(line, " conn=");
        assert_true(id == NULL || strncmp(id, " conn=18446744073709551615", 26) == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_line_has_its_fields, open_json, close_log),
        cmocka_unit_test_setup_teardown(test_keys_come_in_order, open_json, close_log),
        cmocka_unit_test_setup_teardown(test_special_bytes_are_escaped, open_json, close_log),
        cmocka_unit_test_setup_teardown(test_any_bytes_leave_valid_json, open_json, close_log),
        cmocka_unit_test_setup_teardown(test_long_values_are_cut, open_json, close_log),
        cmocka_unit_test_setup_teardown(test_a_line_that_is_cut_before_the_id_is_valid_json, open_json, close_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
