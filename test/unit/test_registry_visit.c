// Visits of all live connections, while others come and go.

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/proxy/registry.h"

enum { RESIDENTS = 1000, GUESTS = 4, STAYS = 3000, WALKS = 200 };

struct resident {
    struct registry_entry entry;
    unsigned visits;
};

static void visit(struct registry_entry *entry, void *argument)
{
    struct resident *resident = (struct resident *)entry;
    unsigned *total = argument;
    resident->visits++;
    (*total)++;
}

static struct resident *add_residents(struct registry *registry)
{
    struct resident *residents = calloc(RESIDENTS, sizeof *residents);
    assert_non_null(residents);
    for (int i = 0; i < RESIDENTS; i++) {
        residents[i].entry.client = -1;
        residents[i].entry.deadline = i % 2 == 0 ? DEADLINE_NONE : deadline_after(3600 * NS_PER_S);
        registry_add(registry, &residents[i].entry);
    }
    return residents;
}

static void test_everyone_is_visited_once(void **state)
{
    (void)state;
    struct registry *registry = registry_create(NULL, NULL);
    unsigned total = 0;
    registry_visit(registry, REGISTRY_VISIT_BATCH, visit, &total);
    assert_int_equal(total, 0);
    struct resident *residents = add_residents(registry);
    for (unsigned round = 1; round <= 3; round++) {
        total = 0;
        registry_visit(registry, REGISTRY_VISIT_BATCH, visit, &total);
        assert_int_equal(total, RESIDENTS);
        for (int i = 0; i < RESIDENTS; i++)
            assert_int_equal(residents[i].visits, round);
    }
    for (int i = 0; i < RESIDENTS; i++)
        registry_remove(registry, &residents[i].entry);
    free(residents);
    registry_destroy(&registry);
}

// Comes and goes; its memory is another's as soon as it has gone, so a visit after that is found by the sanitizers.
static void *come_and_go(void *argument)
{
    struct registry *registry = argument;
    for (int i = 0; i < STAYS; i++) {
        struct resident *guest = calloc(1, sizeof *guest);
        if (guest == NULL)
            abort();
        guest->entry.client = -1;
        guest->entry.deadline = i % 2 == 0 ? DEADLINE_NONE : deadline_after(3600 * NS_PER_S);
        registry_add(registry, &guest->entry);
        registry_remove(registry, &guest->entry);
        free(guest);
    }
    return NULL;
}

static void test_residents_are_visited_while_guests_come_and_go(void **state)
{
    (void)state;
    struct registry *registry = registry_create(NULL, NULL);
    struct resident *residents = add_residents(registry);
    pthread_t guests[GUESTS];
    for (int i = 0; i < GUESTS; i++)
        assert_int_equal(pthread_create(&guests[i], NULL, come_and_go, registry), 0);
    for (unsigned walk = 1; walk <= WALKS; walk++) {
        unsigned total = 0;
        registry_visit(registry, REGISTRY_VISIT_BATCH, visit, &total);
        assert_true(total >= RESIDENTS);
        for (int i = 0; i < RESIDENTS; i++)
            assert_int_equal(residents[i].visits, walk);
    }
    for (int i = 0; i < GUESTS; i++)
        assert_int_equal(pthread_join(guests[i], NULL), 0);
    for (int i = 0; i < RESIDENTS; i++)
        registry_remove(registry, &residents[i].entry);
    free(residents);
    registry_destroy(&registry);
}

static void *visit_often(void *argument)
{
    for (int i = 0; i < WALKS; i++) {
        unsigned total = 0;
        registry_visit(argument, 3, visit, &total);
        assert_int_equal(total, RESIDENTS);
    }
    return NULL;
}

// Metrics are counted while somebody lists the connections.
static void test_visits_wait_for_each_other(void **state)
{
    (void)state;
    struct registry *registry = registry_create(NULL, NULL);
    struct resident *residents = add_residents(registry);
    pthread_t other;
    assert_int_equal(pthread_create(&other, NULL, visit_often, registry), 0);
    (void)visit_often(registry);
    assert_int_equal(pthread_join(other, NULL), 0);
    for (int i = 0; i < RESIDENTS; i++) {
        assert_int_equal(residents[i].visits, 2 * WALKS);
        registry_remove(registry, &residents[i].entry);
    }
    free(residents);
    registry_destroy(&registry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everyone_is_visited_once),
        cmocka_unit_test(test_residents_are_visited_while_guests_come_and_go),
        cmocka_unit_test(test_visits_wait_for_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
