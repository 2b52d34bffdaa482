// The order in which each policy tries the targets, as tables.

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "proxy/upstream/balancer.h"
#include "proxy/upstream/health.h"

#define NOW (1000 * NS_PER_S)
#define TARGETS_MAX 9

struct scene {
    struct target targets[TARGETS_MAX];
    struct target_config target_settings[TARGETS_MAX];
    struct target_load loads[TARGETS_MAX];
    struct health healths[TARGETS_MAX];
    struct proxy_config settings;
};

// `targets`: a character each, g: good, o: out, d: out, and due for a trial. `active`: a digit each, or NULL.
static void set_up(struct scene *scene, enum balancer_policy policy, const char *targets, const char *active)
{
    memset(scene, 0, sizeof *scene);
    scene->settings = (struct proxy_config){.target_count = strlen(targets), .balancer = policy};
    assert_true(scene->settings.target_count <= TARGETS_MAX);
    for (size_t i = 0; i < scene->settings.target_count; i++) {
        scene->target_settings[i] = (struct target_config){.max_fails = 1, .fail_timeout = NS_PER_S};
        scene->targets[i] = (struct target){
            .settings = &scene->target_settings[i], .load = &scene->loads[i], .health = &scene->healths[i]};
        const struct health_rule rule = {.max_fails = 1, .fail_timeout = NS_PER_S};
        if (targets[i] != 'g')
            (void)health_note_failure(&scene->healths[i], &rule, targets[i] == 'o' ? NOW : NOW - NS_PER_S);
        if (active != NULL)
            atomic_store(&scene->loads[i].active, (uint64_t)(active[i] - '0'));
    }
}

// The index of the next target; -1: there is none.
static int next(struct scene *scene, struct balancer *balancer)
{
    struct target *target = balancer_next(balancer, NOW);
    return target == NULL ? -1 : (int)(target - scene->targets);
}

// The order if all fail: a digit each.
static void assert_order(struct scene *scene, uint64_t rr_counter, struct target *chosen, const char *wanted)
{
    struct balancer balancer;
    char order[TARGETS_MAX + 2] = "";
    int index;
    balancer_init(&balancer, &scene->settings, scene->targets, rr_counter, chosen);
    for (size_t n = 0; n <= TARGETS_MAX && (index = next(scene, &balancer)) >= 0; n++)
        order[n] = (char)('0' + index);
    // There is no more for ever.
    assert_null(balancer_next(&balancer, NOW));
    balancer_release(&balancer);
    if (strcmp(order, wanted) != 0)
        fail_msg("policy %d, counter %llu: %s, not %s", (int)scene->settings.balancer, (unsigned long long)rr_counter,
                 order, wanted);
}

static const struct {
    enum balancer_policy policy;
    const char *targets;
    const char *active;
    uint64_t rr_counter;
    const char *order;
} table[] = {
    {BALANCER_NONE, "g", NULL, 0, "0"},
    {BALANCER_NONE, "ggg", NULL, 7, "0"},
    {BALANCER_NONE, "ogg", NULL, 0, "0"}, // there is no other to go to
    {BALANCER_FAILOVER, "g", NULL, 0, "0"},
    {BALANCER_FAILOVER, "ggg", NULL, 0, "012"},
    {BALANCER_FAILOVER, "gggg", NULL, UINT64_MAX, "0123"},
    {BALANCER_FAILOVER, "ogg", NULL, 0, "120"},
    {BALANCER_FAILOVER, "oog", NULL, 0, "201"},
    {BALANCER_FAILOVER, "ooo", NULL, 0, "012"}, // better than to turn the client away
    {BALANCER_FAILOVER, "o", NULL, 0, "0"},
    {BALANCER_FAILOVER, "dgg", NULL, 0, "012"}, // its trial
    {BALANCER_ROUND_ROBIN, "g", NULL, 5, "0"},
    {BALANCER_ROUND_ROBIN, "gg", NULL, 0, "01"},
    {BALANCER_ROUND_ROBIN, "gg", NULL, 1, "10"},
    {BALANCER_ROUND_ROBIN, "ggg", NULL, 0, "012"},
    {BALANCER_ROUND_ROBIN, "ggg", NULL, 1, "120"},
    {BALANCER_ROUND_ROBIN, "ggg", NULL, 2, "201"},
    {BALANCER_ROUND_ROBIN, "ggg", NULL, 3, "012"},
    {BALANCER_ROUND_ROBIN, "gggg", NULL, UINT64_C(1) << 62, "0123"},
    // Those that are in share the connections evenly.
    {BALANCER_ROUND_ROBIN, "gogg", NULL, 0, "0231"},
    {BALANCER_ROUND_ROBIN, "gogg", NULL, 1, "2301"},
    {BALANCER_ROUND_ROBIN, "gogg", NULL, 2, "3021"},
    {BALANCER_ROUND_ROBIN, "gogg", NULL, 3, "0231"},
    {BALANCER_ROUND_ROBIN, "ooo", NULL, 1, "120"},
    {BALANCER_LEAST_CONNECTIONS, "g", "9", 3, "0"},
    {BALANCER_LEAST_CONNECTIONS, "ggg", "210", 0, "210"},
    {BALANCER_LEAST_CONNECTIONS, "ggg", "021", 0, "021"},
    {BALANCER_LEAST_CONNECTIONS, "ggg", "021", 7, "021"},
    // Ties go by round-robin.
    {BALANCER_LEAST_CONNECTIONS, "ggg", "000", 0, "012"},
    {BALANCER_LEAST_CONNECTIONS, "ggg", "000", 1, "120"},
    {BALANCER_LEAST_CONNECTIONS, "ggg", "000", 2, "201"},
    {BALANCER_LEAST_CONNECTIONS, "gggg", "1010", 0, "1302"},
    {BALANCER_LEAST_CONNECTIONS, "gggg", "1010", 1, "3120"},
    {BALANCER_LEAST_CONNECTIONS, "ggog", "1100", 0, "3012"},
    {BALANCER_LEAST_CONNECTIONS, "oo", "50", 0, "10"},
    {BALANCER_SNI, "ggg", NULL, 1, ""}, // only the name decides
};

static void test_each_policy_has_its_order(void **state)
{
    (void)state;
    for (size_t row = 0; row < ARRAY_LENGTH(table); row++) {
        static struct scene scene;
        set_up(&scene, table[row].policy, table[row].targets, table[row].active);
        assert_order(&scene, table[row].rr_counter, NULL, table[row].order);
    }
}

static void test_a_chosen_target_is_the_only_one(void **state)
{
    (void)state;
    static struct scene scene;
    set_up(&scene, BALANCER_SNI, "ogo", NULL);
    assert_order(&scene, 0, &scene.targets[2], "2");
}

// Whatever the counter: every target once.
static void test_each_target_is_tried_once(void **state)
{
    (void)state;
    static const uint64_t counters[] = {0, 1, 2, 1000, UINT32_MAX, UINT64_MAX - 9};
    static const enum balancer_policy policies[] = {BALANCER_ROUND_ROBIN, BALANCER_LEAST_CONNECTIONS};
    static struct scene scene;
    for (size_t targets = 1; targets <= 7; targets++) {
        for (size_t i = 0; i < ARRAY_LENGTH(counters) * ARRAY_LENGTH(policies); i++) {
            struct balancer balancer;
            unsigned seen = 0;
            set_up(&scene, policies[i % 2], &"gdogggo"[7 - targets], &"3000121"[7 - targets]);
            balancer_init(&balancer, &scene.settings, scene.targets, counters[i / 2], NULL);
            for (size_t n = 0; n < targets; n++) {
                int index = next(&scene, &balancer);
                seen |= index < 0 ? 0 : 1U << index;
            }
            assert_null(balancer_next(&balancer, NOW));
            balancer_release(&balancer);
            assert_int_equal(seen, (1U << targets) - 1);
        }
    }
}

// Of the connections that come when a target is due, one tries it.
static void test_one_connection_tries_a_target_that_is_due(void **state)
{
    (void)state;
    static struct scene scene;
    struct balancer first, second;
    set_up(&scene, BALANCER_FAILOVER, "dg", NULL);
    balancer_init(&first, &scene.settings, scene.targets, 0, NULL);
    balancer_init(&second, &scene.settings, scene.targets, 1, NULL);
    assert_ptr_equal(balancer_next(&first, NOW), &scene.targets[0]);
    assert_ptr_equal(balancer_next(&second, NOW), &scene.targets[1]);
    assert_false(balancer_note_success(&second, NOW));
    assert_true(balancer_note_success(&first, NOW));
    assert_int_equal(health_judge(&scene.healths[0], &(struct health_rule){1, NS_PER_S}, NOW), HEALTH_GOOD);
    balancer_release(&first);
    balancer_release(&second);
}

static void test_a_failure_puts_a_target_out(void **state)
{
    (void)state;
    static struct scene scene;
    struct balancer balancer;
    set_up(&scene, BALANCER_FAILOVER, "gg", NULL);
    balancer_init(&balancer, &scene.settings, scene.targets, 0, NULL);
    assert_ptr_equal(balancer_next(&balancer, NOW), &scene.targets[0]);
    assert_true(balancer_note_failure(&balancer, NOW));
    assert_ptr_equal(balancer_next(&balancer, NOW), &scene.targets[1]);
    assert_false(balancer_note_success(&balancer, NOW));
    balancer_release(&balancer);
    balancer_init(&balancer, &scene.settings, scene.targets, 1, NULL);
    assert_ptr_equal(balancer_next(&balancer, NOW), &scene.targets[1]);
    balancer_release(&balancer);
}

// Where there is no choice, failures mean nothing.
static void test_a_lone_target_is_never_out(void **state)
{
    (void)state;
    static const struct {
        enum balancer_policy policy;
        const char *targets;
    } lone[] = {{BALANCER_NONE, "gg"}, {BALANCER_SNI, "gg"}, {BALANCER_FAILOVER, "g"}, {BALANCER_ROUND_ROBIN, "g"}};
    for (size_t i = 0; i < ARRAY_LENGTH(lone); i++) {
        static struct scene scene;
        struct balancer balancer;
        set_up(&scene, lone[i].policy, lone[i].targets, NULL);
        for (int n = 0; n < 5; n++) {
            balancer_init(&balancer, &scene.settings, scene.targets, 0, &scene.targets[0]);
            assert_ptr_equal(balancer_next(&balancer, NOW), &scene.targets[0]);
            assert_false(balancer_note_failure(&balancer, NOW));
            balancer_release(&balancer);
        }
        assert_int_equal(atomic_load(&scene.healths[0].state), 0);
    }
}

static void test_the_most_specific_name_is_chosen(void **state)
{
    (void)state;
    static const struct target_config settings[] = {
        {.name = "*"}, {.name = "*.example.com"}, {.name = "A.example.com"}, {.name = "example.com"}};
    struct target targets[ARRAY_LENGTH(settings)];
    for (size_t i = 0; i < ARRAY_LENGTH(settings); i++)
        targets[i] = (struct target){.settings = &settings[i]};
    static const struct {
        const char *name;
        size_t index;
    } cases[] = {{"a.example.com", 2}, {"b.example.com", 1}, {"c.b.example.com", 0}, {"example.com", 3}, {"", 0}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_ptr_equal(balancer_by_name(targets, ARRAY_LENGTH(targets), cases[i].name), &targets[cases[i].index]);
    assert_null(balancer_by_name(targets + 1, 3, "other"));
    assert_null(balancer_by_name(targets + 1, 3, ""));
}

// Connections that come to a target and leave it while others choose.
struct bustle {
    struct scene *scene;
    _Atomic bool is_over;
};

static void *come_and_go(void *argument)
{
    struct bustle *bustle = argument;
    while (!atomic_load(&bustle->is_over))
        for (size_t i = 0; i < bustle->scene->settings.target_count; i++) {
            atomic_fetch_add(&bustle->scene->loads[i].active, 1);
            atomic_fetch_sub(&bustle->scene->loads[i].active, 1);
        }
    return NULL;
}

// Numbers that change between two looks at them must neither leave a client without a target nor send it to one that
// is out.
static void test_changing_counts_leave_a_good_target(void **state)
{
    (void)state;
    static struct scene scene;
    struct bustle bustle = {.scene = &scene};
    pthread_t threads[2];
    size_t none = 0, out = 0;
    set_up(&scene, BALANCER_LEAST_CONNECTIONS, "gog", NULL);
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &bustle), 0);
    for (uint64_t counter = 0; counter < 300000; counter++) {
        struct balancer balancer;
        balancer_init(&balancer, &scene.settings, scene.targets, counter, NULL);
        int index = next(&scene, &balancer);
        none += index < 0;
        out += index == 1;
        balancer_release(&balancer);
    }
    atomic_store(&bustle.is_over, true);
    for (size_t i = 0; i < ARRAY_LENGTH(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(none, 0);
    assert_int_equal(out, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_policy_has_its_order),
        cmocka_unit_test(test_a_chosen_target_is_the_only_one),
        cmocka_unit_test(test_each_target_is_tried_once),
        cmocka_unit_test(test_one_connection_tries_a_target_that_is_due),
        cmocka_unit_test(test_a_failure_puts_a_target_out),
        cmocka_unit_test(test_a_lone_target_is_never_out),
        cmocka_unit_test(test_changing_counts_leave_a_good_target),
        cmocka_unit_test(test_the_most_specific_name_is_chosen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
