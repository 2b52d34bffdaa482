// What is known of targets over reloads: the same state for the same name and address, freed with its last holder.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/proxy/target_state.h"

static struct target_config target_of(const char *name, const char *address)
{
    struct target_config target = {.name = name};
    assert_true(address_parse(address, ADDRESS_TO_CONNECT, &target.address, NULL));
    return target;
}

static void test_a_target_keeps_its_state(void **state)
{
    (void)state;
    struct target_list list;
    target_list_init(&list);
    const struct target_config before[] = {target_of("a", "h:1"), target_of("b", "h:2"), target_of("c", "h:3")};
    const struct target_config after[] = {target_of("c", "h:3"), target_of("a", "h:4"), target_of("d", "h:2"),
                                          target_of("b", "h:2")};
    struct target_state **old = target_list_hold(&list, before, ARRAY_LENGTH(before), NULL);
    struct target_state **new = target_list_hold(&list, after, ARRAY_LENGTH(after), NULL);
    assert_non_null(old);
    assert_non_null(new);
    assert_ptr_equal(new[0], old[2]);
    assert_ptr_equal(new[3], old[1]);
    assert_ptr_not_equal(new[1], old[0]); // another address
    assert_ptr_not_equal(new[2], old[1]); // another name
    atomic_store(&old[1]->active, 7);
    target_list_drop(&list, &old, ARRAY_LENGTH(before));
    assert_null(old);
    assert_int_equal(atomic_load(&new[3]->active), 7);
    target_list_drop(&list, &new, ARRAY_LENGTH(after));

    // Nobody holds it any more: it is forgotten.
    struct target_state **again = target_list_hold(&list, before, ARRAY_LENGTH(before), NULL);
    assert_int_equal(atomic_load(&again[1]->active), 0);
    target_list_drop(&list, &again, ARRAY_LENGTH(before));
    target_list_drop(&list, &again, ARRAY_LENGTH(before)); // NULL
    target_list_release(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_target_keeps_its_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
