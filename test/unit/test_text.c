// Characters of UTF-8, control characters, and texts that are cut.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/text.h"

static void test_a_character_has_the_length_that_unicode_gives_it(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t length;
    } cases[] = {
        {"", 1},
        {"a", 1},
        {"\x7f", 1},
        {"\xc2\x80", 2},
        {"\xdf\xbf", 2},
        {"\xe0\xa0\x80", 3},
        {"\xed\x9f\xbf", 3},
        {"\xef\xbf\xbf", 3},
        {"\xf0\x90\x80\x80", 4},
        {"\xf4\x8f\xbf\xbf", 4},
        {"\x80", 0},
        {"\xc1\xbf", 0}, // a continuation alone; overlong
        {"\xe0\x9f\xbf", 0},
        {"\xf0\x8f\xbf\xbf", 0}, // overlong
        {"\xed\xa0\x80", 0},
        {"\xf4\x90\x80\x80", 0}, // a surrogate; beyond Unicode
        {"\xc3", 0},
        {"\xe2\x82", 0}, // cut
        {"\xf0\x9f\x92", 0},
        {"\xff", 0},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_int_equal(text_character_length(cases[i].text), cases[i].length);
}

static void test_a_cut_is_never_within_a_character(void **state)
{
    (void)state;
    const char text[] = "a\xc3\xa4\xe2\x82\xac"
                        "b";
    static const size_t cuts[] = {0, 1, 1, 3, 3, 3, 6, 7};
    for (size_t most = 0; most < ARRAY_LENGTH(cuts); most++)
        assert_int_equal(text_cut(text, most), cuts[most]);
    assert_int_equal(text_cut("\x80\x80\x80", 2), 0);
}

static void test_control_characters_are_c0_del_and_c1(void **state)
{
    (void)state;
    const char text[] = "a\x1f \x7f\xc2\x80\xc2\x9f\xc2\xa0\xc3\x80\xc2";
    static const bool controls[] = {false, true,  false, true,  true,  true, true,
                                    true,  false, false, false, false, false};
    for (size_t at = 0; at < ARRAY_LENGTH(controls); at++)
        assert_int_equal(text_is_control(text, at, sizeof text - 1), controls[at]);
    assert_false(text_is_control("\xc2\x80", 0, 1)); // what is behind the text does not count
    assert_true(text_is_control("\0", 0, 1));
}

static void test_visible_ascii_is_without_the_space(void **state)
{
    (void)state;
    for (int byte = 0; byte < 256; byte++)
        assert_int_equal(text_is_visible_ascii((char)byte), byte >= '!' && byte <= '~');
}

static void test_a_number_is_written_to_its_end_in_decimal(void **state)
{
    (void)state;
    static const struct {
        uint64_t number;
        unsigned digits;
        const char *text;
    } rows[] = {
        {0, 1, "0"},
        {0, 0, ""},
        {7, 1, "7"},
        {10, 1, "10"},
        {42, 3, "042"},
        {1234, 3, "1234"},
        {UINT64_MAX, 1, "18446744073709551615"},
        {1, TEXT_DECIMAL_MAX, "00000000000000000001"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        char text[TEXT_DECIMAL_MAX + 1] = "";
        const char *begin = text_decimal(text + TEXT_DECIMAL_MAX, rows[i].number, rows[i].digits);
        assert_string_equal(begin, rows[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_character_has_the_length_that_unicode_gives_it),
        cmocka_unit_test(test_a_cut_is_never_within_a_character),
        cmocka_unit_test(test_control_characters_are_c0_del_and_c1),
        cmocka_unit_test(test_visible_ascii_is_without_the_space),
        cmocka_unit_test(test_a_number_is_written_to_its_end_in_decimal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
