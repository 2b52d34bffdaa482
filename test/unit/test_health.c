// A target's health as a story: what happens at which second, and what is thought of it then.

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "proxy/upstream/health.h"

static const struct health_rule rule = {.max_fails = 3, .fail_timeout = 10 * NS_PER_S};

enum event { FAILS, GOES_OUT, FAILS_STILL, SUCCEEDS, IS_BACK, GOOD, DUE, OUT, CLAIMS, CLAIMS_NOT };

struct step {
    double at; // s
    enum event event;
};

static void play(const struct health_rule *by, const struct step *steps, size_t count)
{
    struct health health = {.state = 0};
    for (size_t i = 0; i < count; i++) {
        int64_t now = 1000 * NS_PER_S + (int64_t)(steps[i].at * 1000) * NS_PER_MS;
        bool is_right = false;
        switch (steps[i].event) {
        case FAILS:
        case FAILS_STILL:
            is_right = !health_note_failure(&health, by, now);
            break;
        case GOES_OUT:
            is_right = health_note_failure(&health, by, now);
            break;
        case SUCCEEDS:
            is_right = !health_note_success(&health, by, now);
            break;
        case IS_BACK:
            is_right = health_note_success(&health, by, now);
            break;
        case GOOD:
            is_right = health_judge(&health, by, now) == HEALTH_GOOD;
            break;
        case DUE:
            is_right = health_judge(&health, by, now) == HEALTH_DUE;
            break;
        case OUT:
            is_right = health_judge(&health, by, now) == HEALTH_OUT;
            break;
        case CLAIMS:
            is_right = health_claim(&health, by, now);
            break;
        case CLAIMS_NOT:
            is_right = !health_claim(&health, by, now);
            break;
        }
        if (!is_right)
            fail_msg("step %zu, at %.3f s", i, steps[i].at);
    }
}

#define STORY(by, ...)                                    \
    do {                                                  \
        static const struct step steps[] = {__VA_ARGS__}; \
        play(by, steps, ARRAY_LENGTH(steps));             \
    } while (0)

static void test_a_target_goes_out_and_comes_back(void **state)
{
    (void)state;
    STORY(&rule, {0, GOOD}, {0, FAILS}, {1, FAILS}, {2, GOOD}, {3, GOES_OUT}, {3, OUT}, {12.999, OUT}, {13, DUE},
          {13, CLAIMS}, {13, OUT}, {13, CLAIMS_NOT}, {14, IS_BACK}, {14, GOOD}, {14, FAILS}, {15, GOOD});
}

static void test_a_failed_trial_is_another_term(void **state)
{
    (void)state;
    STORY(&rule, {0, FAILS}, {0, FAILS}, {0, GOES_OUT}, {10, CLAIMS}, {12, FAILS_STILL}, {21.999, OUT}, {22, DUE},
          {22, CLAIMS}, {22.5, IS_BACK}, {23, GOOD});
}

// A client that leaves during the trial leaves it undecided: the next one is after another term.
static void test_a_trial_without_an_end_is_followed_by_another_term(void **state)
{
    (void)state;
    STORY(&rule, {0, FAILS}, {0, FAILS}, {0, GOES_OUT}, {10, CLAIMS}, {15, OUT}, {19.999, OUT}, {20, DUE});
}

static void test_failures_count_within_the_time(void **state)
{
    (void)state;
    STORY(&rule, {0, FAILS}, {9, FAILS}, {10, FAILS}, {11, FAILS}, {12, GOES_OUT});
    STORY(&rule, {0, FAILS}, {20, FAILS}, {40, FAILS}, {60, FAILS}, {60, GOOD});
}

// As with nginx, successes in between do not make up for failures: a target that fails now and then is out, too.
static void test_successes_do_not_make_up_for_failures(void **state)
{
    (void)state;
    STORY(&rule, {0, FAILS}, {5, FAILS}, {5, SUCCEEDS}, {6, SUCCEEDS}, {7, GOES_OUT}, {7, OUT});
    STORY(&rule, {0, FAILS}, {5, FAILS}, {9.999, SUCCEEDS}, {9.999, GOES_OUT});
    // Once the time is over, they are forgotten.
    STORY(&rule, {0, FAILS}, {5, FAILS}, {10, SUCCEEDS}, {10, FAILS}, {11, FAILS}, {12, SUCCEEDS}, {12, GOES_OUT});
}

// Connections that had begun before it went out report late.
static void test_failures_that_come_late_do_not_prolong_the_term(void **state)
{
    (void)state;
    STORY(&rule, {0, FAILS}, {0, FAILS}, {0, GOES_OUT}, {5, FAILS_STILL}, {14, OUT}, {15, DUE});
    STORY(&rule, {0, FAILS}, {0, FAILS}, {0, GOES_OUT}, {1, IS_BACK}, {1, GOOD}, {1, CLAIMS_NOT});
}

static void test_no_failure_counts_under_a_rule_that_is_off(void **state)
{
    (void)state;
    static const struct health_rule off = {.max_fails = 0, .fail_timeout = NS_PER_S};
    static const struct health_rule once = {.max_fails = 1, .fail_timeout = NS_PER_MS};
    STORY(&off, {0, FAILS}, {0, FAILS}, {0, FAILS}, {0, GOOD}, {0, CLAIMS_NOT}, {0, SUCCEEDS});
    STORY(&once, {0, GOES_OUT}, {0, OUT}, {0.001, DUE}, {0.001, CLAIMS}, {0.001, OUT}, {0.002, DUE});
}

// A reload may change the rule under a state.
static void test_a_rule_that_changes_judges_anew(void **state)
{
    (void)state;
    struct health health = {.state = 0};
    static const struct health_rule stricter = {.max_fails = 1, .fail_timeout = 10 * NS_PER_S};
    static const struct health_rule off = {.max_fails = 0, .fail_timeout = 10 * NS_PER_S};
    assert_false(health_note_failure(&health, &rule, NS_PER_S));
    assert_int_equal(health_judge(&health, &stricter, NS_PER_S), HEALTH_OUT);
    assert_int_equal(health_judge(&health, &off, NS_PER_S), HEALTH_GOOD);
    assert_false(health_note_success(&health, &off, NS_PER_S)); // where none counts, none is remembered
    assert_int_equal(health_judge(&health, &stricter, NS_PER_S), HEALTH_GOOD);
}

static void test_failures_do_not_overflow(void **state)
{
    (void)state;
    static const struct health_rule most = {.max_fails = HEALTH_MAX_FAILS, .fail_timeout = 1000 * NS_PER_S};
    struct health health = {.state = 0};
    for (int i = 1; i < HEALTH_MAX_FAILS; i++)
        assert_false(health_note_failure(&health, &most, NS_PER_S));
    assert_true(health_note_failure(&health, &most, NS_PER_S));
    for (int i = 0; i < 70000; i++)
        assert_false(health_note_failure(&health, &most, NS_PER_S));
    assert_int_equal(health_judge(&health, &most, NS_PER_S), HEALTH_OUT);
}

#define CROWD 4
#define ROUNDS 2000

static struct health shared;
static atomic_int claims;
static atomic_int outs;
static pthread_barrier_t barrier;

static void *take_part(void *argument)
{
    (void)argument;
    static const struct health_rule crowd = {.max_fails = CROWD, .fail_timeout = NS_PER_S};
    for (int64_t round = 1; round <= ROUNDS; round++) {
        int64_t now = round * 10 * NS_PER_S;
        atomic_fetch_add(&outs, health_note_failure(&shared, &crowd, now));
        (void)pthread_barrier_wait(&barrier);
        atomic_fetch_add(&claims, health_claim(&shared, &crowd, now + 2 * NS_PER_S));
        (void)pthread_barrier_wait(&barrier);
        (void)health_note_success(&shared, &crowd, now + 2 * NS_PER_S);
        (void)pthread_barrier_wait(&barrier);
    }
    return NULL;
}

// However many see it go out or due at once: one of them is told so.
static void test_of_a_crowd_one_is_told_of_each_change(void **state)
{
    (void)state;
    pthread_t threads[CROWD];
    assert_int_equal(pthread_barrier_init(&barrier, NULL, CROWD), 0);
    for (int i = 0; i < CROWD; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_part, NULL), 0);
    for (int i = 0; i < CROWD; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&outs), ROUNDS);
    assert_int_equal(atomic_load(&claims), ROUNDS);
    (void)pthread_barrier_destroy(&barrier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_target_goes_out_and_comes_back),
        cmocka_unit_test(test_a_failed_trial_is_another_term),
        cmocka_unit_test(test_a_trial_without_an_end_is_followed_by_another_term),
        cmocka_unit_test(test_failures_count_within_the_time),
        cmocka_unit_test(test_successes_do_not_make_up_for_failures),
        cmocka_unit_test(test_failures_that_come_late_do_not_prolong_the_term),
        cmocka_unit_test(test_no_failure_counts_under_a_rule_that_is_off),
        cmocka_unit_test(test_a_rule_that_changes_judges_anew),
        cmocka_unit_test(test_failures_do_not_overflow),
        cmocka_unit_test(test_of_a_crowd_one_is_told_of_each_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
