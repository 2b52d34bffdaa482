// The JSON writer, its text read back by jansson.

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/json_writer.h"

static void write_everything(struct json_writer *writer)
{
    json_put_begin(writer, NULL);
    json_put_begin(writer, "empty");
    json_put_end(writer);
    json_put_begin(writer, "inner");
    json_put_bool(writer, "yes", true);
    json_put_bool(writer, "no", false);
    json_put_end(writer);
    json_put_null(writer, "none");
    json_put_count(writer, "zero", 0);
    json_put_count(writer, "most", UINT64_MAX);
    json_put_text(writer, "text", "a");
    json_put_text(writer, "no_text", NULL);
    json_put_milliseconds(writer, "time", 1234567);
    json_put_end(writer);
}

#define EVERYTHING                                                                  \
    "{\"empty\":{},\"inner\":{\"yes\":true,\"no\":false},\"none\":null,\"zero\":0," \
    "\"most\":18446744073709551615,\"text\":\"a\",\"no_text\":null,\"time\":1.234}"

static void test_all_kinds(void **state)
{
    (void)state;
    char buffer[256];
    struct json_writer writer;
    json_writer_init(&writer, buffer, sizeof buffer);
    write_everything(&writer);
    assert_true(json_writer_fits(&writer));
    assert_int_equal(writer.length, strlen(EVERYTHING));
    assert_memory_equal(buffer, EVERYTHING, writer.length);
}

// With any buffer it counts the same, and writes nothing behind it.
static void test_buffers_of_all_sizes(void **state)
{
    (void)state;
    const size_t whole = strlen(EVERYTHING);
    for (size_t size = 0; size <= whole + 1; size++) {
        char *buffer = malloc(size + 1); // no byte more, so that a sanitizer sees it, too
        struct json_writer writer;
        assert_non_null(buffer);
        buffer[size] = '!';
        json_writer_init(&writer, buffer, size);
        write_everything(&writer);
        assert_int_equal(writer.length, whole);
        assert_int_equal(json_writer_fits(&writer), size >= whole);
        assert_int_equal(buffer[size], '!');
        free(buffer);
    }
}

static void test_milliseconds(void **state)
{
    (void)state;
    static const struct {
        int64_t ns;
        const char *text;
    } rows[] = {{0, "0.000"},
                {999, "0.000"},
                {1000, "0.001"},
                {10 * NS_PER_US, "0.010"},
                {999999, "0.999"},
                {NS_PER_MS, "1.000"},
                {INT64_MAX, "9223372036854.775"},
                {-1, "0.000"},
                {INT64_MIN, "0.000"}};
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        char buffer[64], expected[64] = "\"t\":";
        struct json_writer writer;
        json_writer_init(&writer, buffer, sizeof buffer);
        json_put_milliseconds(&writer, "t", rows[i].ns);
        strcat(expected, rows[i].text);
        assert_int_equal(writer.length, strlen(expected));
        assert_memory_equal(buffer, expected, writer.length);
    }
}

// What jansson reads from the text; NULL: it takes it for no JSON.
static char *read_back(const char *value)
{
    char buffer[256];
    struct json_writer writer;
    json_writer_init(&writer, buffer, sizeof buffer);
    json_put_begin(&writer, NULL);
    json_put_text(&writer, "t", value);
    json_put_end(&writer);
    assert_true(json_writer_fits(&writer));
    for (size_t i = 0; i < writer.length; i++)
        assert_true(buffer[i] >= ' ' && buffer[i] < 0x7f);
    json_t *object = json_loadb(buffer, writer.length, 0, NULL);
    const char *text = json_string_value(json_object_get(object, "t"));
    char *copy = text == NULL ? NULL : strdup(text);
    json_decref(object);
    return copy;
}

static void assert_read_back(const char *value, const char *expected)
{
    char *text = read_back(value);
    assert_non_null(text);
    assert_string_equal(text, expected);
    free(text);
}

// Every code point but zero and the surrogates comes back as it was.
static void test_every_code_point(void **state)
{
    (void)state;
    for (uint32_t point = 1; point <= 0x10ffff; point += point < 0x3000 ? 1 : 61) {
        char text[8];
        size_t at = 0;
        if (point >= 0xd800 && point < 0xe000)
            continue;
        text[at++] = 'a';
        if (point < 0x80) {
            text[at++] = (char)point;
        } else if (point < 0x800) {
            text[at++] = (char)(0xc0 | point >> 6);
            text[at++] = (char)(0x80 | (point & 0x3f));
        } else if (point < 0x10000) {
            text[at++] = (char)(0xe0 | point >> 12);
            text[at++] = (char)(0x80 | (point >> 6 & 0x3f));
            text[at++] = (char)(0x80 | (point & 0x3f));
        } else {
            text[at++] = (char)(0xf0 | point >> 18);
            text[at++] = (char)(0x80 | (point >> 12 & 0x3f));
            text[at++] = (char)(0x80 | (point >> 6 & 0x3f));
            text[at++] = (char)(0x80 | (point & 0x3f));
        }
        text[at++] = 'z';
        text[at] = '\0';
        assert_read_back(text, text);
    }
}

// RFC 3629: overlong forms, surrogates, beyond the last plane, stray and missing continuations.
static void test_what_is_no_utf8(void **state)
{
    (void)state;
    static const char *const texts[] = {"\x80",
                                        "a\xbf",
                                        "\xc0\x80",
                                        "\xc1\xbf",
                                        "\xe0\x9f\xbf",
                                        "\xf0\x8f\xbf\xbf",
                                        "\xed\xa0\x80",
                                        "\xed\xbf\xbf",
                                        "\xf4\x90\x80\x80",
                                        "\xf5\x80\x80\x80",
                                        "\xf8\x88\x80\x80\x80",
                                        "\xff",
                                        "\xc3",
                                        "\xe2\x82",
                                        "\xf0\x9f\x90",
                                        "\xc3(",
                                        "\xe2\x82z",
                                        "good, then \xfe bad"};
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
        assert_read_back(texts[i], "(not UTF-8)");
    assert_read_back("\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf");
    assert_read_back("\xed\x9f\xbf", "\xed\x9f\xbf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_kinds),       cmocka_unit_test(test_buffers_of_all_sizes),
        cmocka_unit_test(test_milliseconds),    cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_what_is_no_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
