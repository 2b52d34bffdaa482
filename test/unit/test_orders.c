// Orders to the main thread: given, waited for, left, dropped.

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/server/orders.h"
#include "bitflow/base/clock.h"

#define SHORT (20 * NS_PER_MS)

static struct orders orders;
static unsigned rung, told;

static void ring(void)
{
    rung++;
}

static void tell(void *subject)
{
    (*(unsigned *)subject)++;
}

static int begin(void **state)
{
    (void)state;
    rung = told = 0;
    orders_init(&orders, ring);
    return 0;
}

static struct order *give(enum order_kind kind)
{
    struct error error = ERROR_INIT;
    struct order *order = orders_give(&orders, kind, &error);
    assert_non_null(order);
    return order;
}

static void test_orders_are_taken_as_they_were_given(void **state)
{
    (void)state;
    orders_tell(&orders, tell, &told);
    struct order *reload = give(ORDER_RELOAD), *drain = give(ORDER_DRAIN);
    assert_int_equal(rung, 2);
    assert_ptr_equal(orders_take(&orders), reload);
    reload->outcome.status = RELOAD_REFUSED;
    orders_done(&orders, reload);
    assert_ptr_equal(orders_take(&orders), drain);
    assert_null(orders_take(&orders));
    orders_done(&orders, drain);
    assert_int_equal(told, 2);
    assert_true(orders_wait(&orders, reload, 0) && orders_wait(&orders, drain, DEADLINE_NONE));
    assert_int_equal(reload->outcome.status, RELOAD_REFUSED);
    assert_false(reload->is_dropped);
    orders_leave(&orders, &reload);
    orders_leave(&orders, &drain);
    assert_null(reload);
}

static void test_nobody_waits_for_longer_than_he_wants(void **state)
{
    (void)state;
    struct order *order = give(ORDER_ANSWER);
    int64_t before = clock_now();
    assert_false(orders_wait(&orders, order, deadline_after(SHORT)));
    assert_true(clock_now() - before >= SHORT);
    orders_done(&orders, orders_take(&orders));
    orders_leave(&orders, &order);
}

// Freed by whoever comes last: the address sanitizer sees it.
static void test_one_that_is_left_is_done_all_the_same(void **state)
{
    (void)state;
    struct order *order = give(ORDER_RELOAD), *given = order;
    orders_leave(&orders, &order);
    struct order *taken = orders_take(&orders);
    assert_ptr_equal(taken, given);
    taken->outcome.has_diagnostics = true;
    diagnostics_init(&taken->outcome.diagnostics, "f");
    diagnostics_add_general(&taken->outcome.diagnostics, "wrong");
    orders_done(&orders, taken);
    assert_null(orders_take(&orders));
}

// Who waits must not take them for done.
static void test_the_end_drops_what_nobody_has_taken(void **state)
{
    (void)state;
    struct error error = ERROR_INIT;
    struct order *taken = give(ORDER_RELOAD), *waiting = give(ORDER_DRAIN);
    assert_ptr_equal(orders_take(&orders), taken);
    orders_close(&orders);
    assert_true(orders_wait(&orders, waiting, 0));
    assert_true(waiting->is_dropped);
    assert_false(orders_wait(&orders, taken, 0));
    orders_done(&orders, taken);
    assert_false(taken->is_dropped);
    assert_null(orders_give(&orders, ORDER_RELOAD, &error));
    assert_int_equal(error.code, ERROR_REFUSED);
    orders_leave(&orders, &taken);
    orders_leave(&orders, &waiting);
}

static void *do_one(void *argument)
{
    (void)argument;
    struct order *order;
    while ((order = orders_take(&orders)) == NULL)
        continue;
    orders_done(&orders, order);
    return NULL;
}

static void test_who_waits_is_woken(void **state)
{
    (void)state;
    pthread_t thread;
    struct order *order = give(ORDER_REOPEN_LOGS);
    assert_int_equal(pthread_create(&thread, NULL, do_one, NULL), 0);
    assert_true(orders_wait(&orders, order, deadline_after(20 * NS_PER_S)));
    assert_int_equal(pthread_join(thread, NULL), 0);
    orders_leave(&orders, &order);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_orders_are_taken_as_they_were_given, begin),
        cmocka_unit_test_setup(test_nobody_waits_for_longer_than_he_wants, begin),
        cmocka_unit_test_setup(test_one_that_is_left_is_done_all_the_same, begin),
        cmocka_unit_test_setup(test_the_end_drops_what_nobody_has_taken, begin),
        cmocka_unit_test_setup(test_who_waits_is_woken, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
