// Threads and the pool that keeps them: reuse, bounds, idle end, drain, and many tasks from many threads at once.

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"
#include "pool_rig.h"

// Waits until the pool has this many threads.
static void await_count(struct thread_pool *pool, unsigned busy, unsigned parked)
{
    int64_t limit = deadline_after(LIMIT);
    struct thread_pool_count count;
    do {
        count = thread_pool_count(pool);
        if (count.busy == busy && count.parked == parked)
            return;
        (void)poll(NULL, 0, 1);
    } while (deadline_left(limit) > 0);
    fail_msg("%u busy, %u parked; not %u, %u", count.busy, count.parked, busy, parked);
}

// A task that tells which thread runs it, and ends when it is let go.
struct held {
    sem_t started, go;
    pid_t thread;
};

static void hold(void *argument)
{
    struct held *held = argument;
    held->thread = (pid_t)syscall(SYS_gettid);
    (void)sem_post(&held->started);
    while (sem_wait(&held->go) != 0)
        continue;
}

static void start_held(struct thread_pool *pool, struct held *held)
{
    struct error error = ERROR_INIT;
    assert_int_equal(sem_init(&held->started, 0, 0), 0);
    assert_int_equal(sem_init(&held->go, 0, 0), 0);
    if (!thread_pool_run(pool, hold, held, &error))
        fail_msg("%s", error.text);
    while (sem_wait(&held->started) != 0)
        continue;
}

static void let_go(struct held *held)
{
    assert_int_equal(sem_post(&held->go), 0);
}

static void test_the_thread_parked_last_runs_first(void **state)
{
    (void)state;
    struct thread_pool *pool = make_pool(&(struct thread_pool_options){.max_parked = 8, .idle_time = LIMIT});
    struct held tasks[3], again[3];
    for (size_t i = 0; i < 3; i++)
        start_held(pool, &tasks[i]);
    await_count(pool, 3, 0);
    for (size_t i = 0; i < 3; i++) { // parked in this order
        let_go(&tasks[i]);
        await_count(pool, 2 - (unsigned)i, (unsigned)i + 1);
    }
    for (size_t i = 0; i < 3; i++) {
        start_held(pool, &again[i]);
        assert_int_equal(again[i].thread, tasks[2 - i].thread);
    }
    for (size_t i = 0; i < 3; i++)
        let_go(&again[i]);
    await_count(pool, 0, 3);
    end_pool(pool);
}

static void test_no_more_threads_run_than_the_bound(void **state)
{
    (void)state;
    struct thread_pool *pool =
        make_pool(&(struct thread_pool_options){.max_threads = 2, .max_parked = 8, .idle_time = LIMIT});
    struct held tasks[2], third;
    struct error error = ERROR_INIT;
    start_held(pool, &tasks[0]);
    start_held(pool, &tasks[1]);
    assert_false(thread_pool_run(pool, hold, &third, &error));
    assert_int_equal(error.code, ERROR_NO_THREADS);
    assert_string_equal(error.text, "all 2 threads are busy");
    let_go(&tasks[0]);
    await_count(pool, 1, 1);
    start_held(pool, &third); // by the parked one
    assert_int_equal(third.thread, tasks[0].thread);
    let_go(&tasks[1]);
    let_go(&third);
    end_pool(pool);
}

static void test_no_more_threads_are_kept_than_the_bound(void **state)
{
    (void)state;
    struct thread_pool *pool = make_pool(&(struct thread_pool_options){.max_parked = 1, .idle_time = LIMIT});
    struct held tasks[3];
    for (size_t i = 0; i < 3; i++)
        start_held(pool, &tasks[i]);
    for (size_t i = 0; i < 3; i++)
        let_go(&tasks[i]);
    await_count(pool, 0, 1);
    end_pool(pool);

    pool = make_pool(&(struct thread_pool_options){.max_parked = 0, .idle_time = LIMIT}); // none is kept
    start_held(pool, &tasks[0]);
    let_go(&tasks[0]);
    await_count(pool, 0, 0);
    end_pool(pool);
}

static void test_an_idle_thread_ends(void **state)
{
    (void)state;
    struct thread_pool *pool = make_pool(&(struct thread_pool_options){.max_parked = 8, .idle_time = 20 * NS_PER_MS});
    struct held task;
    int64_t start = clock_now();
    start_held(pool, &task);
    let_go(&task);
    await_count(pool, 0, 0);
    assert_true(clock_now() - start >= 20 * NS_PER_MS);
    start_held(pool, &task); // a new one takes its place
    let_go(&task);
    end_pool(pool);
}

static void test_a_drain_waits_for_tasks_and_ends_idle_threads(void **state)
{
    (void)state;
    struct thread_pool *pool = make_pool(&(struct thread_pool_options){.max_parked = 8, .idle_time = LIMIT});
    struct held busy, idle;
    start_held(pool, &busy);
    start_held(pool, &idle);
    let_go(&idle);
    await_count(pool, 1, 1);
    assert_false(thread_pool_drain(pool, clock_now() + 20 * NS_PER_MS)); // one is still at work
    await_count(pool, 1, 0);
    let_go(&busy);
    assert_true(thread_pool_drain(pool, deadline_after(LIMIT)));
    await_count(pool, 0, 0);
    thread_pool_destroy(&pool);
    thread_pool_destroy(&pool); // NULL by now

    pool = make_pool(&(struct thread_pool_options){.max_parked = 8, .idle_time = LIMIT});
    assert_true(thread_pool_drain(pool, clock_now())); // nothing to wait for
    thread_pool_destroy(&pool);
}

#define FLOOD_THREADS 4
#define FLOOD_TASKS 500

struct flood {
    struct thread_pool *pool;
    atomic_int started, done, refused;
    int plain GUARDED; // by lock
    struct mutex lock;
};

static void count_second(void *argument)
{
    struct flood *flood = argument;
    mutex_lock(&flood->lock);
    flood->plain++;
    mutex_unlock(&flood->lock);
    (void)atomic_fetch_add(&flood->done, 1);
}

// A task that starts another one on its own pool.
static void count_first(void *argument)
{
    struct flood *flood = argument;
    if (!thread_pool_run(flood->pool, count_second, flood, NULL))
        (void)atomic_fetch_add(&flood->refused, 1);
    (void)atomic_fetch_add(&flood->done, 1);
}

static void *pour(void *argument)
{
    struct flood *flood = argument;
    for (int i = 0; i < FLOOD_TASKS; i++) {
        if (thread_pool_run(flood->pool, count_first, flood, NULL))
            (void)atomic_fetch_add(&flood->started, 1);
    }
    return NULL;
}

// Every task that was taken runs once; an idle time as short as this one makes threads end and be woken in the same
// moment.
static void check_flood(unsigned max_threads, unsigned max_parked, int64_t idle_time)
{
    struct flood flood = {.pool = make_pool(&(struct thread_pool_options){
                              .max_threads = max_threads, .max_parked = max_parked, .idle_time = idle_time}),
                          .lock = MUTEX_INIT};
    pthread_t threads[FLOOD_THREADS];
    for (size_t i = 0; i < FLOOD_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, pour, &flood), 0);
    for (size_t i = 0; i < FLOOD_THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    // A drain is for when nothing is started any more, and the tasks start tasks.
    int64_t limit = deadline_after(LIMIT);
    while (atomic_load(&flood.done) + atomic_load(&flood.refused) < 2 * atomic_load(&flood.started) &&
           deadline_left(limit) > 0)
        (void)poll(NULL, 0, 1);
    assert_true(thread_pool_drain(flood.pool, deadline_after(LIMIT)));
    int started = atomic_load(&flood.started), refused = atomic_load(&flood.refused);
    assert_int_equal(atomic_load(&flood.done) + refused, 2 * started);
    mutex_lock(&flood.lock);
    assert_int_equal(flood.plain, started - refused);
    mutex_unlock(&flood.lock);
    if (max_threads == 0)
        assert_int_equal(started, FLOOD_THREADS * FLOOD_TASKS);
    assert_true(started > 0);
    thread_pool_destroy(&flood.pool);
    mutex_release(&flood.lock);
}

static void test_every_task_that_was_taken_runs_once(void **state)
{
    (void)state;
    check_flood(0, 16, LIMIT);
    check_flood(0, 16, NS_PER_US);
    check_flood(0, 0, LIMIT);
    check_flood(8, 4, 50 * NS_PER_US);
}

struct seen {
    char own[32];
    sigset_t blocked;
};

static void *look(void *argument)
{
    struct seen *seen = argument;
    // So much stack was asked for, and is there.
    volatile char block[48 * 1024];
    for (size_t i = 0; i < sizeof block; i += 1024)
        block[i] = 1;
    thread_set_name("a-name-of-more-than-15-bytes");
    (void)pthread_getname_np(pthread_self(), seen->own, sizeof seen->own);
    (void)pthread_sigmask(SIG_BLOCK, NULL, &seen->blocked);
    return argument;
}

static void test_a_thread_starts_with_its_stack_and_signals_blocked(void **state)
{
    (void)state;
    struct seen seen = {.own = ""};
    pthread_t thread;
    void *returned;
    struct error error = ERROR_INIT;
    sigset_t before, after;
    (void)pthread_sigmask(SIG_BLOCK, NULL, &before);
    if (!thread_start(&thread, (size_t)64 * 1024, look, &seen, &error))
        fail_msg("%s", error.text);
    assert_int_equal(pthread_join(thread, &returned), 0);
    assert_ptr_equal(returned, &seen);
    assert_string_equal(seen.own, "a-name-of-more-");
    assert_true(sigismember(&seen.blocked, SIGTERM) && sigismember(&seen.blocked, SIGHUP));
    assert_true(sigismember(&seen.blocked, SIGINT) && sigismember(&seen.blocked, SIGUSR1));
    assert_false(sigismember(&seen.blocked, SIGSEGV));
    (void)pthread_sigmask(SIG_BLOCK, NULL, &after);
    for (int signal = 1; signal < 32; signal++)
        assert_int_equal(sigismember(&before, signal), sigismember(&after, signal));
}

static void test_a_stack_that_no_machine_has_is_an_error(void **state)
{
    (void)state;
    pthread_t thread;
    struct error error = ERROR_INIT;
    assert_false(thread_start(&thread, SIZE_MAX / 8, look, NULL, &error));
    assert_int_equal(error.code, ERROR_NO_THREADS);

    const struct thread_pool_options options = {.parked_name = "x", .stack_size = SIZE_MAX / 8, .max_parked = 1};
    struct thread_pool *pool = thread_pool_create(&options, NULL);
    assert_non_null(pool);
    error = ERROR_INIT;
    assert_false(thread_pool_run(pool, count_second, NULL, &error));
    assert_int_not_equal(error.code, ERROR_NONE);
    await_count(pool, 0, 0); // the thread that was not started is not counted
    end_pool(pool);
}

static void test_a_condition_is_not_waited_for_beyond_its_deadline(void **state)
{
    (void)state;
    struct mutex lock;
    struct condition condition;
    mutex_init(&lock);
    condition_init(&condition);
    mutex_lock(&lock);
    int64_t deadline = clock_now() + 20 * NS_PER_MS;
    while (deadline_left(deadline) > 0)
        condition_wait(&condition, &lock, deadline);
    condition_wait(&condition, &lock, clock_now() - 1); // a deadline that has passed
    mutex_unlock(&lock);
    condition_release(&condition);
    mutex_release(&lock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_thread_parked_last_runs_first),
        cmocka_unit_test(test_no_more_threads_run_than_the_bound),
        cmocka_unit_test(test_no_more_threads_are_kept_than_the_bound),
        cmocka_unit_test(test_an_idle_thread_ends),
        cmocka_unit_test(test_a_drain_waits_for_tasks_and_ends_idle_threads),
        cmocka_unit_test(test_every_task_that_was_taken_runs_once),
        cmocka_unit_test(test_a_thread_starts_with_its_stack_and_signals_blocked),
        cmocka_unit_test(test_a_stack_that_no_machine_has_is_an_error),
        cmocka_unit_test(test_a_condition_is_not_waited_for_beyond_its_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
