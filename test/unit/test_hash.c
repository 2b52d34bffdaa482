// Fingerprints: the same for the same, another one for every difference there can be.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/hash.h"

static uint64_t of_two(const char *one, const char *other)
{
    return hash_text(hash_text(hash_begin(), one), other);
}

static void test_different_strings_have_different_hashes(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"ab", "c"},   {"a", "bc"}, {"abc", ""},  {"", "abc"}, {"abc", NULL},
                                           {NULL, "abc"}, {"", ""},    {NULL, NULL}, {"ab", "d"}, {"ba", "c"}};
    for (size_t i = 0; i < ARRAY_LENGTH(pairs); i++)
        for (size_t j = 0; j < ARRAY_LENGTH(pairs); j++)
            assert_int_equal(of_two(pairs[i][0], pairs[i][1]) == of_two(pairs[j][0], pairs[j][1]), i == j);
}

static void test_the_hash_begins_with_the_same_value(void **state)
{
    (void)state;
    assert_true(hash_begin() == hash_begin());
    assert_true(hash_number(hash_begin(), 1) != hash_number(hash_begin(), 2));
    assert_true(hash_bytes(hash_begin(), "\0", 1) != hash_bytes(hash_begin(), "\0\0", 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_different_strings_have_different_hashes),
        cmocka_unit_test(test_the_hash_begins_with_the_same_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
