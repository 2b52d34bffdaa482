// Look-ups: who joins one, and when it is done once more beside the first because its packets may be lost.

#include "bitflow/base/compiler.h"
#include "fake_resolver.h"
#include "fake_time.h"
#include "net/resolver_job.h"

static void pass_time(int64_t duration)
{
    atomic_fetch_add(&fake_time_ahead, duration);
}

static void set_address(void)
{
    struct endpoint endpoint = rig_endpoint("192.0.2.1:1");
    fake_clear();
    fake_add(&endpoint);
}

static struct resolver_job *join(const char *host, enum address_family family)
{
    struct error error = ERROR_INIT;
    struct resolver_job *lookup = resolver_job_join(host, family, &error);
    if (lookup == NULL)
        fail_msg("%s", error.text);
    return lookup;
}

static enum error_code await_answer(struct resolver_job *lookup, size_t *count)
{
    const struct resolved_addresses *answer = NULL;
    const struct error *error = NULL;
    rig_await(resolver_job_descriptor(lookup), POLLIN);
    assert_true(resolver_job_is_done(lookup, &answer, &error));
    *count = resolved_count(answer);
    return error->code;
}

static bool is_done(struct resolver_job *lookup)
{
    const struct resolved_addresses *answer;
    const struct error *error;
    return resolver_job_is_done(lookup, &answer, &error);
}

// All share a look-up. After each second it may be done once more, up to the bound.
static void test_a_shared_look_up_is_tried_again_up_to_the_bound(void **state)
{
    (void)state;
    int calls = atomic_load(&fake_slow_calls);
    struct resolver_job *first = join("slow.test", ADDRESS_IPV4), *second = join("slow.test", ADDRESS_IPV4);
    assert_ptr_equal(first, second);
    fake_await(&fake_slow_calls, calls + 1);
    pass_time(RESOLVER_RETRY / 2);
    assert_in_range(resolver_job_retry(first), clock_now(), clock_now() + RESOLVER_RETRY / 2);
    assert_int_equal(atomic_load(&fake_slow_calls), calls + 1);
    pass_time(RESOLVER_RETRY / 2);
    for (int i = 2; i <= RESOLVER_TRIES_MAX; i++) {
        (void)resolver_job_retry(i % 2 == 0 ? second : first);
        fake_await(&fake_slow_calls, calls + i);
        pass_time(RESOLVER_RETRY);
    }
    assert_true(resolver_job_retry(first) == DEADLINE_NONE);
    resolver_job_drop(&second);
    second = join("slow.test", ADDRESS_IPV4);
    assert_ptr_equal(second, first);
    // One of them is answered: that is the answer.
    size_t count;
    fake_release();
    assert_int_equal(await_answer(first, &count), ERROR_NONE);
    assert_int_equal(count, 1);
    assert_int_equal(atomic_load(&fake_slow_calls), calls + RESOLVER_TRIES_MAX);
    resolver_job_drop(&first);
    resolver_job_drop(&second);
    fake_release_to_end(0);
}

// The first question's packet is lost: the second one's answer serves everybody, before the first comes back.
static void test_the_second_try_answers_for_a_lost_packet(void **state)
{
    (void)state;
    size_t count;
    int calls = atomic_load(&fake_slow_calls);
    set_address();
    fake_lose(1);
    struct resolver_job *first = join("lost.test", ADDRESS_IPV4);
    fake_await(&fake_slow_calls, calls + 1);
    pass_time(RESOLVER_RETRY);
    struct resolver_job *second = join("lost.test", ADDRESS_IPV4);
    (void)resolver_job_retry(second);
    assert_int_equal(await_answer(first, &count), ERROR_NONE);
    assert_int_equal(count, 1);
    assert_true(is_done(second));
    resolver_job_drop(&first);
    resolver_job_drop(&second);
    fake_release_to_end(0);
}

// A failure that may pass does not count as long as another try is under way; one that stands does.
static void test_a_failure_that_may_pass_waits_for_the_other_try(void **state)
{
    (void)state;
    size_t count;
    set_address();
    atomic_store(&fake_lost_code, EAI_AGAIN);
    int calls = atomic_load(&fake_slow_calls), tries = atomic_load(&fake_list_calls);
    fake_lose(1);
    struct resolver_job *lookup = join("lost.test", ADDRESS_IPV4);
    fake_await(&fake_slow_calls, calls + 1);
    pass_time(RESOLVER_RETRY);
    (void)resolver_job_retry(lookup);
    fake_await(&fake_list_calls, tries + 2);
    assert_false(is_done(lookup));
    fake_release(); // the first one
    assert_int_equal(await_answer(lookup, &count), ERROR_NONE);
    resolver_job_drop(&lookup);
    fake_release_to_end(0);

    atomic_store(&fake_lost_code, EAI_NONAME);
    calls = atomic_load(&fake_slow_calls);
    fake_lose(1);
    lookup = join("lost.test", ADDRESS_IPV4);
    fake_await(&fake_slow_calls, calls + 1);
    pass_time(RESOLVER_RETRY);
    (void)resolver_job_retry(lookup);
    assert_int_equal(await_answer(lookup, &count), ERROR_RESOLVE);
    resolver_job_drop(&lookup);
    atomic_store(&fake_lost_code, 0);
    fake_release_to_end(0);
}

// A look-up of both families is never done twice: those of each are there for that.
static void test_a_look_up_of_both_families_is_tried_once(void **state)
{
    (void)state;
    int calls = atomic_load(&fake_slow_calls);
    struct resolver_job *lookup = join("slow.test", ADDRESS_ANY);
    fake_await(&fake_slow_calls, calls + 1);
    pass_time(2 * RESOLVER_RETRY);
    struct resolver_job *joined = join("slow.test", ADDRESS_ANY);
    assert_ptr_equal(joined, lookup);
    assert_true(resolver_job_retry(lookup) == DEADLINE_NONE);
    assert_int_equal(atomic_load(&fake_slow_calls), calls + 1);
    resolver_job_drop(&lookup);
    resolver_job_drop(&joined);
    fake_release_to_end(0);
}

// Further tries leave half of the threads to other names.
static void test_further_tries_leave_half_of_the_threads(void **state)
{
    (void)state;
    struct resolver_job *hanging[RESOLVER_THREADS_MAX / 2];
    int calls = atomic_load(&fake_slow_calls);
    for (int i = 0; i < (int)ARRAY_LENGTH(hanging); i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "slow%d.test", i);
        hanging[i] = join(name, ADDRESS_IPV6);
    }
    fake_await(&fake_slow_calls, calls + (int)ARRAY_LENGTH(hanging));
    pass_time(2 * RESOLVER_RETRY);
    assert_true(resolver_job_retry(hanging[0]) > clock_now()); // later, perhaps
    assert_int_equal(atomic_load(&fake_slow_calls), calls + (int)ARRAY_LENGTH(hanging));
    for (size_t i = 0; i < ARRAY_LENGTH(hanging); i++)
        resolver_job_drop(&hanging[i]);
    fake_release_to_end(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_shared_look_up_is_tried_again_up_to_the_bound),
        cmocka_unit_test(test_the_second_try_answers_for_a_lost_packet),
        cmocka_unit_test(test_a_failure_that_may_pass_waits_for_the_other_try),
        cmocka_unit_test(test_a_look_up_of_both_families_is_tried_once),
        cmocka_unit_test(test_further_tries_leave_half_of_the_threads),
    };
    return cmocka_run_group_tests(tests, fake_begin, NULL);
}
