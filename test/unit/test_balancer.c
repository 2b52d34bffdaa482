// The order in which each policy tries the targets, as a table.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/proxy/balancer.h"

#define END BALANCER_NO_MORE

static const struct {
    enum balancer_policy policy;
    size_t targets;
    uint64_t turn;
    size_t order[5]; // up to and with END
} table[] = {
    {BALANCER_NONE, 1, 0, {0, END}},
    {BALANCER_NONE, 3, 0, {0, END}},
    {BALANCER_NONE, 3, 7, {0, END}},
    {BALANCER_FAILOVER, 1, 0, {0, END}},
    {BALANCER_FAILOVER, 3, 0, {0, 1, 2, END}},
    {BALANCER_FAILOVER, 3, 1, {0, 1, 2, END}},
    {BALANCER_FAILOVER, 4, UINT64_MAX, {0, 1, 2, 3, END}},
    {BALANCER_ROUND_ROBIN, 1, 0, {0, END}},
    {BALANCER_ROUND_ROBIN, 1, 5, {0, END}},
    {BALANCER_ROUND_ROBIN, 2, 0, {0, 1, END}},
    {BALANCER_ROUND_ROBIN, 2, 1, {1, 0, END}},
    {BALANCER_ROUND_ROBIN, 3, 0, {0, 1, 2, END}},
    {BALANCER_ROUND_ROBIN, 3, 1, {1, 2, 0, END}},
    {BALANCER_ROUND_ROBIN, 3, 2, {2, 0, 1, END}},
    {BALANCER_ROUND_ROBIN, 3, 3, {0, 1, 2, END}},
    {BALANCER_ROUND_ROBIN, 4, UINT64_C(1) << 62, {0, 1, 2, 3, END}},
    {BALANCER_SNI, 3, 1, {END}}, // only the name decides
};

static void test_orders(void **state)
{
    (void)state;
    for (size_t row = 0; row < ARRAY_LENGTH(table); row++) {
        size_t n = 0;
        do
            assert_int_equal(balancer_candidate(table[row].policy, table[row].targets, table[row].turn, n),
                             table[row].order[n]);
        while (table[row].order[n++] != END);
    }
}

static void test_there_is_no_more_for_ever(void **state)
{
    (void)state;
    for (enum balancer_policy policy = BALANCER_NONE; policy <= BALANCER_SNI; policy++) {
        assert_true(balancer_candidate(policy, 3, 1, 3) == END);
        assert_true(balancer_candidate(policy, 3, 1, SIZE_MAX) == END);
        assert_true(balancer_candidate(policy, 0, 1, 0) == END);
    }
}

// Whatever the turn: every target once.
static void test_round_robin_tries_each_target_once(void **state)
{
    (void)state;
    const uint64_t turns[] = {0, 1, 2, 1000, UINT32_MAX, UINT64_MAX - 9};
    for (size_t targets = 1; targets <= 7; targets++) {
        for (size_t i = 0; i < ARRAY_LENGTH(turns); i++) {
            unsigned seen = 0;
            for (size_t n = 0; n < targets; n++)
                seen |= 1U << balancer_candidate(BALANCER_ROUND_ROBIN, targets, turns[i], n);
            assert_int_equal(seen, (1U << targets) - 1);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_there_is_no_more_for_ever),
        cmocka_unit_test(test_round_robin_tries_each_target_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
