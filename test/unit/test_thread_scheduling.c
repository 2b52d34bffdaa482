// The scheduling of a pool's threads and of those that they start: what is ours to change changes, in both directions,
// and what an operator chose stays.

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

#include <sys/wait.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/thread.h"
#include "pool_rig.h"

static struct thread_pool *make_scheduled(enum thread_scheduling scheduling)
{
    return make_pool(&(struct thread_pool_options){.max_parked = 1, .idle_time = LIMIT, .scheduling = scheduling});
}

// What a task saw of its thread.
struct look {
    sem_t done;
    pid_t thread;
    int policy;
    int child_policy;          // of a thread that it started
    struct thread_pool *other; // NULL, or a pool that it runs a task on
    struct look *there;        // what that saw
    int choice;                // a policy that the task chooses as an operator would, or -1
};

static void *see_policy(void *argument)
{
    int *policy = argument;
    *policy = sched_getscheduler(0);
    return NULL;
}

static void look(void *argument)
{
    struct look *look = argument;
    struct error error = ERROR_INIT;
    pthread_t child;
    look->thread = gettid();
    look->policy = sched_getscheduler(0);
    look->child_policy = -1;
    if (thread_start(&child, STACK_SIZE, see_policy, &look->child_policy, &error))
        (void)pthread_join(child, NULL);
    const struct sched_param parameter = {.sched_priority = 0};
    if (look->choice >= 0)
        (void)sched_setscheduler(0, look->choice, &parameter);
    (void)sem_post(&look->done);
}

static void await_parked(struct thread_pool *pool)
{
    int64_t limit = deadline_after(LIMIT);
    while (thread_pool_count(pool).parked != 1 && deadline_left(limit) > 0)
        (void)poll(NULL, 0, 1);
    assert_int_equal(thread_pool_count(pool).parked, 1);
}

static void start_look(struct thread_pool *pool, struct look *seen, int choice)
{
    struct error error = ERROR_INIT;
    *seen = (struct look){.choice = choice};
    assert_int_equal(sem_init(&seen->done, 0, 0), 0);
    if (!thread_pool_run(pool, look, seen, &error))
        fail_msg("%s", error.text);
}

static void run_look(struct thread_pool *pool, struct look *seen, int choice)
{
    start_look(pool, seen, choice);
    while (sem_wait(&seen->done) != 0)
        continue;
    await_parked(pool);
}

static void test_a_pool_is_scheduled_as_its_options_say(void **state)
{
    (void)state;
    struct look seen;
    struct thread_pool *normal = make_scheduled(THREAD_SCHEDULING_NORMAL);
    run_look(normal, &seen, -1);
    assert_int_equal(seen.policy, SCHED_OTHER);
    end_pool(normal);
    struct thread_pool *batch = make_scheduled(THREAD_SCHEDULING_BATCH);
    run_look(batch, &seen, -1);
    assert_int_equal(seen.policy, SCHED_BATCH);
    end_pool(batch);
}

static void test_a_change_reaches_a_parked_thread(void **state)
{
    (void)state;
    struct look first, seen;
    struct thread_pool *pool = make_scheduled(THREAD_SCHEDULING_BATCH);
    run_look(pool, &first, -1);
    for (int i = 0; i < 3; i++) {
        thread_pool_set_scheduling(pool, THREAD_SCHEDULING_NORMAL);
        run_look(pool, &seen, -1);
        assert_int_equal(seen.thread, first.thread);
        assert_int_equal(seen.policy, SCHED_OTHER);
        thread_pool_set_scheduling(pool, THREAD_SCHEDULING_BATCH);
        run_look(pool, &seen, -1);
        assert_int_equal(seen.thread, first.thread);
        assert_int_equal(seen.policy, SCHED_BATCH);
    }
    end_pool(pool);
}

static void test_a_thread_that_a_batch_thread_starts_is_normal(void **state)
{
    (void)state;
    struct look seen;
    struct thread_pool *pool = make_scheduled(THREAD_SCHEDULING_BATCH);
    run_look(pool, &seen, -1);
    assert_int_equal(seen.policy, SCHED_BATCH);
    assert_int_equal(seen.child_policy, SCHED_OTHER);
    end_pool(pool);
}

static void look_elsewhere(void *argument)
{
    struct look *look = argument;
    look->policy = sched_getscheduler(0);
    start_look(look->other, look->there, -1);
    while (sem_wait(&look->there->done) != 0)
        continue;
    (void)sem_post(&look->done);
}

// As a worker asks for a look-up, or for a pump.
static void check_pools(enum thread_scheduling other, int expected)
{
    struct look there;
    struct look here = {.there = &there, .other = make_scheduled(other)};
    struct thread_pool *pool = make_scheduled(THREAD_SCHEDULING_BATCH);
    assert_int_equal(sem_init(&here.done, 0, 0), 0);
    assert_true(thread_pool_run(pool, look_elsewhere, &here, NULL));
    while (sem_wait(&here.done) != 0)
        continue;
    assert_int_equal(here.policy, SCHED_BATCH);
    assert_int_equal(there.policy, expected);
    end_pool(pool);
    end_pool(here.other);
}

static void test_each_pool_has_a_policy_of_its_own(void **state)
{
    (void)state;
    check_pools(THREAD_SCHEDULING_NORMAL, SCHED_OTHER);
    check_pools(THREAD_SCHEDULING_BATCH, SCHED_BATCH);
}

static void test_a_thread_that_an_operator_gave_a_policy_keeps_it(void **state)
{
    (void)state;
    struct look first, seen;
    struct thread_pool *pool = make_scheduled(THREAD_SCHEDULING_BATCH);
    run_look(pool, &first, SCHED_IDLE); // anyone may choose it
    thread_pool_set_scheduling(pool, THREAD_SCHEDULING_NORMAL);
    run_look(pool, &seen, -1);
    assert_int_equal(seen.thread, first.thread);
    assert_int_equal(seen.policy, SCHED_IDLE);
    thread_pool_set_scheduling(pool, THREAD_SCHEDULING_BATCH);
    run_look(pool, &seen, -1);
    assert_int_equal(seen.policy, SCHED_IDLE);
    end_pool(pool);
}

// The policies that a process had before its pools: in a child, as one cannot always go back.
static void check_process(int policy, int expected)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct sched_param parameter = {.sched_priority = 0};
        struct look seen;
        if (sched_setscheduler(0, policy, &parameter) != 0)
            _exit(2);
        struct thread_pool *pool = make_scheduled(THREAD_SCHEDULING_BATCH);
        run_look(pool, &seen, -1);
        bool good = seen.policy == expected;
        thread_pool_set_scheduling(pool, THREAD_SCHEDULING_NORMAL);
        run_look(pool, &seen, -1);
        // A child begins without the flag.
        _exit(good && seen.policy == (policy & ~SCHED_RESET_ON_FORK) ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_the_process_policy_is_the_operators(void **state)
{
    (void)state;
    check_process(SCHED_OTHER, SCHED_BATCH);
    check_process(SCHED_OTHER | SCHED_RESET_ON_FORK, SCHED_BATCH);
    check_process(SCHED_IDLE, SCHED_IDLE);
    check_process(SCHED_BATCH, SCHED_BATCH); // stays batch with `normal`, too
}

// The flag that cannot be cleared without a privilege.
static void test_a_threads_own_reset_on_fork_stays(void **state)
{
    (void)state;
    struct look seen;
    struct thread_pool *pool = make_scheduled(THREAD_SCHEDULING_NORMAL);
    run_look(pool, &seen, SCHED_OTHER | SCHED_RESET_ON_FORK);
    thread_pool_set_scheduling(pool, THREAD_SCHEDULING_BATCH);
    run_look(pool, &seen, -1);
    assert_int_equal(seen.policy, SCHED_BATCH | SCHED_RESET_ON_FORK);
    thread_pool_set_scheduling(pool, THREAD_SCHEDULING_NORMAL);
    run_look(pool, &seen, -1);
    assert_int_equal(seen.policy, SCHED_OTHER | SCHED_RESET_ON_FORK);
    end_pool(pool);
}

int main(void)
{
    if (sched_getscheduler(0) != SCHED_OTHER)
        return 77; // run by chrt
    const struct CMUnitTest tests[] = {
        // First: under ThreadSanitizer, a child of a process with threads may have none of its own.
        cmocka_unit_test(test_the_process_policy_is_the_operators),
        cmocka_unit_test(test_a_pool_is_scheduled_as_its_options_say),
        cmocka_unit_test(test_a_change_reaches_a_parked_thread),
        cmocka_unit_test(test_a_thread_that_a_batch_thread_starts_is_normal),
        cmocka_unit_test(test_each_pool_has_a_policy_of_its_own),
        cmocka_unit_test(test_a_thread_that_an_operator_gave_a_policy_keeps_it),
        cmocka_unit_test(test_a_threads_own_reset_on_fork_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
