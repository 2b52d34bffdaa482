// Shared objects: one for each name, found as long as it is there.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bitflow/base/shared.h"

struct thing {
    struct shared shared;
    uint64_t value;
};

static void test_a_name_has_one_object(void **state)
{
    (void)state;
    struct shared_list list = LIST_HEAD_INITIALIZER(list);
    char name[] = "a";
    struct thing *a = shared_hold(&list, name, sizeof *a);
    struct thing *b = shared_hold(&list, "b", sizeof *b);
    assert_non_null(a);
    assert_int_equal(a->value, 0);
    assert_ptr_not_equal(a, b);
    name[0] = 'c'; // the name is its own
    assert_string_equal(a->shared.name, "a");
    assert_ptr_equal(shared_hold(&list, "a", sizeof *a), a);
    assert_ptr_not_equal(shared_hold(&list, "", sizeof *a), a);
    assert_false(shared_drop(a));
    assert_true(shared_drop(a));
    assert_ptr_equal(shared_hold(&list, "a", sizeof *a), a); // until it is freed
    assert_true(shared_drop(a));
    a->value = 7;
    shared_free(a);
    a = shared_hold(&list, "a", sizeof *a);
    assert_int_equal(a->value, 0);
    assert_int_equal(a->shared.references, 1);
    while (!LIST_EMPTY(&list)) {
        struct shared *first = LIST_FIRST(&list);
        assert_true(shared_drop(first));
        shared_free(first);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_name_has_one_object),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
