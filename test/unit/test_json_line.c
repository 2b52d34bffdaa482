// Lines of JSON, beside what jansson makes of the same.

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/json_builder.h"
#include "bitflow/telemetry/json_line.h"
#include "row.h"

#define DUMP_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(15) | JSON_ENSURE_ASCII)

// Takes the object over.
static void assert_line(struct json_line *line, json_t *object)
{
    char *expected = json_dumps(object, DUMP_FLAGS);
    assert_non_null(line->text);
    assert_int_equal(line->length, strlen(expected) + 2);
    assert_int_equal(line->text[0], '\n');
    assert_int_equal(line->text[line->length - 1], '\n');
    assert_memory_equal(line->text + 1, expected, line->length - 2);
    free(expected);
    json_decref(object);
    json_line_release(line);
    assert_null(line->text);
}

static void test_an_object_is_written_as_jansson_writes_it(void **state)
{
    (void)state;
    struct json_line line;
    json_line_begin(&line);
    json_line_begin_object(&line, "empty");
    json_line_end_object(&line);
    json_line_begin_object(&line, "inner");
    json_line_text(&line, "text", "a");
    json_line_null(&line, "null");
    json_line_text(&line, "none", NULL);
    json_line_begin_object(&line, "deeper");
    json_line_boolean(&line, "yes", true);
    json_line_end_object(&line);
    json_line_boolean(&line, "no", false);
    json_line_end_object(&line);
    json_line_integer(&line, "last", 7);
    json_line_end(&line);
    assert_line(&line, json_pack("{s:{}, s:{s:s, s:n, s:n, s:{s:b}, s:b}, s:i}", "empty", "inner", "text", "a", "null",
                                 "none", "deeper", "yes", 1, "no", 0, "last", 7));
}

static void test_an_empty_object_is_whole(void **state)
{
    (void)state;
    struct json_line line;
    json_line_begin(&line);
    json_line_end(&line);
    assert_line(&line, json_object());
}

static void test_numbers_and_times_are_written_as_jansson_writes_them(void **state)
{
    (void)state;
    static const int64_t values[] = {
        0,         1,         -1,        9,          10,       999,     1000,
        1001,      999999,    1000000,   1100000,    1010000,  1234567, 120000000,
        999999999, INT64_MAX, INT64_MIN, 1000000000, 86400000, 50,      1764422400L * NS_PER_S};
    for (size_t i = 0; i < ARRAY_LENGTH(values); i++) {
        struct json_line line;
        json_line_begin(&line);
        json_line_integer(&line, "integer", values[i]);
        json_line_time(&line, "time", values[i] < 0 ? 0 : values[i]);
        if (values[i] < INT64_MAX)
            json_line_milliseconds(&line, "ms", values[i]);
        json_line_end(&line);
        struct json_builder builder = json_builder_object();
        json_builder_set(&builder, "integer", json_integer(values[i]));
        json_builder_set(&builder, "time", json_builder_time(values[i] < 0 ? 0 : values[i]));
        if (values[i] < INT64_MAX)
            json_builder_set(&builder, "ms", json_real((double)(values[i] < 0 ? 0 : values[i] / NS_PER_US) / 1000.0));
        assert_line(&line, json_builder_finish(&builder));
    }
}

static void assert_text(const char *text)
{
    struct json_line line;
    json_line_begin(&line);
    json_line_text(&line, "text", text);
    json_line_end(&line);
    struct json_builder builder = json_builder_object();
    json_builder_set(&builder, "text", json_builder_text(text));
    assert_line(&line, json_builder_finish(&builder));
}

static void test_texts_are_escaped_as_jansson_escapes_them(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
    } rows[] = {
        {"nothing", ""},
        {"plain", "web-1.example.com"},
        {"a slash and DEL", "a/b\x7f"},
        {"quotes", "\"\\\""},
        {"named controls", "\b\f\n\r\t"},
        {"two bytes", "gr\xc3\xbc\xc3\x9f"},
        {"three bytes", "\xe2\x82\xac\xe2\x80\xa8"},
        {"four bytes", "\xf0\x9f\x90\x98 \xf4\x8f\xbf\xbf"},
        {"Latin-1", "gr\xfc\xdf \xc3\xbc"},
        {"cut short", "x\xe2\x82"},
        {"overlong", "\xc0\x80"},
        {"a surrogate", "\xed\xa0\x80"},
    };
    FOR_EACH_ROW(row, rows)
    assert_text(row->text);
}

static void test_random_texts_are_escaped_as_jansson_escapes_them(void **state)
{
    (void)state;
    static const char *const parts[] = {"a",    "\"",  "\\", "\x01", "\xc3\xbc", "\xe2\x82\xac", "\xf0\x9f\x90\x98",
                                        "\xff", "\xc3"};
    srand(7);
    for (int round = 0; round < 2000; round++) {
        char text[256] = "";
        for (int i = rand() % 40; i > 0; i--)
            strcat(text, parts[(size_t)rand() % (round % 2 == 0 ? ARRAY_LENGTH(parts) : ARRAY_LENGTH(parts) - 2)]);
        assert_text(text);
    }
}

static void test_a_line_grows_beyond_its_buffer(void **state)
{
    (void)state;
    char *text = malloc(100001);
    for (size_t size = JSON_LINE_SIZE - 40; size < 100000; size += size < JSON_LINE_SIZE + 40 ? 1 : 20011) {
        memset(text, 'x', size);
        text[size] = '\0';
        assert_text(text);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_object_is_written_as_jansson_writes_it),
        cmocka_unit_test(test_an_empty_object_is_whole),
        cmocka_unit_test(test_numbers_and_times_are_written_as_jansson_writes_them),
        UNIT_TEST_OF_ROWS(test_texts_are_escaped_as_jansson_escapes_them),
        cmocka_unit_test(test_random_texts_are_escaped_as_jansson_escapes_them),
        cmocka_unit_test(test_a_line_grows_beyond_its_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
