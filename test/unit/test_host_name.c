// Which texts are host names, and which names a pattern is for, as tables.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/host_name.h"

#define LABEL_OF_63 "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff123"

static void test_names_have_labels_of_letters_digits_hyphens_and_underscores(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool is_strictly, is_loosely;
    } table[] = {
        {"a", true, true},
        {"EXAMPLE.com", true, true},
        {"xn--bcher-kva.example", true, true},
        {"_dmarc.my_host.example", true, true},
        {"3com.example", true, true},
        {"a-b", true, true},
        {"-a.example", false, true},
        {"a-.example", false, true},
        {"a.example-", false, true},
        {"-", false, true},
        {LABEL_OF_63, true, true},
        {LABEL_OF_63 "4", false, false},
        {"b." LABEL_OF_63 "4.c", false, false},
        {"", false, false},
        {".", false, false},
        {"a.", false, false},
        {".a", false, false},
        {"a..b", false, false},
        {"a b", false, false},
        {"*.example", false, false},
        {"b\xc3\xbc"
         "cher.example",
         false, false},
        {"a:80", false, false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++) {
        size_t length = strlen(table[i].name);
        if (host_name_is_valid(table[i].name, length, false) != table[i].is_strictly ||
            host_name_is_valid(table[i].name, length, true) != table[i].is_loosely)
            fail_msg("%s", table[i].name);
    }
    assert_true(host_name_is_valid("a.example:80", strlen("a.example"), false)); // what is beyond is not looked at
}

static void test_names_have_at_most_253_bytes(void **state)
{
    (void)state;
    char name[255];
    for (size_t i = 0; i < sizeof name; i++)
        name[i] = i % 2 == 0 ? 'a' : '.';
    assert_true(host_name_is_valid(name, 253, false));
    assert_false(host_name_is_valid(name, 255, false));
}

static void test_a_pattern_is_for_itself_or_for_one_label_more(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        enum name_match match;
    } table[] = {
        {"a.example", "a.example", NAME_EXACT},
        {"A.Example", "a.eXample", NAME_EXACT},
        {"a.example", "b.example", NAME_DIFFERS},
        {"a.example", "a.example.", NAME_DIFFERS},
        {"*.example", "a.example", NAME_WILDCARD},
        {"*.Example", "a.exAmple", NAME_WILDCARD},
        {"*.example", "b.a.example", NAME_DIFFERS},
        {"*.example", "example", NAME_DIFFERS},
        {"*.example", ".example", NAME_DIFFERS},
        {"*.example", "*.example", NAME_EXACT},
        {"*.example", "", NAME_DIFFERS},
        {"", "", NAME_DIFFERS},
        {"", "a", NAME_DIFFERS},
        {"*", "a", NAME_DIFFERS},
        {"*.", "a.", NAME_DIFFERS},
        {"a*.example", "ab.example", NAME_DIFFERS},
        {"*.example", "a.example.com", NAME_DIFFERS},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++)
        if (host_name_match(table[i].pattern, strlen(table[i].pattern), table[i].name) != table[i].match)
            fail_msg("%s, %s", table[i].pattern, table[i].name);
    // Of a certificate's pattern its length counts.
    assert_int_equal(host_name_match("*.exampleXX", strlen("*.example"), "a.example"), NAME_WILDCARD);
    assert_int_equal(host_name_match("a.example\0.evil", sizeof "a.example\0.evil" - 1, "a.example"), NAME_DIFFERS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_have_labels_of_letters_digits_hyphens_and_underscores),
        cmocka_unit_test(test_names_have_at_most_253_bytes),
        cmocka_unit_test(test_a_pattern_is_for_itself_or_for_one_label_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
