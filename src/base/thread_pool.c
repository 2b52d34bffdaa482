#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/crash.h"
#include "bitflow/base/mutex.h"
#include "thread_internal.h"

// One thread of a pool; lives on that thread's stack. While parked, it is linked into the pool.
struct pooled_thread {
    LIST_ENTRY(pooled_thread) link; // while parked, as the pool's lock guards
    bool parked;                    // likewise
    sem_t wake;
    // Written by who wakes the thread; publishes `argument`.
    _Atomic(void (*)(void *)) task; // NULL: end
    void *argument;
    struct listed_thread listed;
};

struct thread_pool {
    struct thread_pool_options options;
    _Atomic enum thread_scheduling scheduling; // in the place of the options'
    _Atomic unsigned resting;
    _Atomic unsigned short_of; // who waits for a thread
    struct mutex lock;
    struct condition changed; // a thread has ended; or has parked, while somebody waits for one
    // Guarded by the lock:
    LIST_HEAD(, pooled_thread) parked_threads GUARDED; // the one parked last first: its stack is warm
    unsigned threads GUARDED;
    unsigned parked GUARDED;
    bool draining GUARDED;
};

// What a new thread needs before it can live from its own stack.
struct first_task {
    struct thread_pool *pool;
    bool scheduling_is_ours; // the creator's
    void (*task)(void *);
    void *argument;
};

struct thread_pool *thread_pool_create(const struct thread_pool_options *options, struct error *error)
{
    struct thread_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        error_set_errno(error, ENOMEM, "cannot create a thread pool");
        return NULL;
    }
    pool->options = *options;
    atomic_init(&pool->scheduling, options->scheduling);
    mutex_init(&pool->lock);
    condition_init(&pool->changed);
    return pool;
}

static void unpark(struct thread_pool *pool, struct pooled_thread *thread) REQUIRES(pool->lock)
{
    LIST_REMOVE(thread, link);
    thread->parked = false;
    pool->parked--;
}

static void wake(struct pooled_thread *thread, void (*task)(void *), void *argument)
{
    thread->argument = argument;
    atomic_store_explicit(&thread->task, task, memory_order_release);
    (void)sem_post(&thread->wake); // cannot overflow: one post for each time parked
}

static bool wait_for_wake(struct pooled_thread *self, int64_t deadline)
{
    struct timespec until = clock_timespec(deadline);
    int result;
    do
        result =
            deadline == DEADLINE_NONE ? sem_wait(&self->wake) : sem_clockwait(&self->wake, CLOCK_MONOTONIC, &until);
    while (result != 0 && errno == EINTR);
    return result == 0;
}

// Parks the thread until it has a task. False: it shall end.
static bool next_task(struct thread_pool *pool, struct pooled_thread *self) EXCLUDES(pool->lock)
{
    mutex_lock(&pool->lock);
    if (pool->draining || pool->parked >= pool->options.max_parked) {
        mutex_unlock(&pool->lock);
        return false;
    }
    LIST_INSERT_HEAD(&pool->parked_threads, self, link);
    self->parked = true;
    pool->parked++;
    if (thread_pool_is_short(pool))
        condition_broadcast(&pool->changed);
    mutex_unlock(&pool->lock);

    thread_set_name(pool->options.parked_name);
    if (!wait_for_wake(self, deadline_after(pool->options.idle_time))) {
        mutex_lock(&pool->lock);
        bool idle = self->parked;
        if (idle)
            unpark(pool, self);
        mutex_unlock(&pool->lock);
        if (idle)
            return false;
        (void)wait_for_wake(self, DEADLINE_NONE); // taken in the same moment: the wake is on its way
    }
    return atomic_load_explicit(&self->task, memory_order_acquire) != NULL;
}

static void forget_thread(struct thread_pool *pool) EXCLUDES(pool->lock)
{
    mutex_lock(&pool->lock);
    pool->threads--;
    // Under the lock: after it the pool may be gone.
    condition_broadcast(&pool->changed);
    mutex_unlock(&pool->lock);
}

void thread_pool_rest(struct thread_pool *pool)
{
    thread_own->task = 0;
    thread_own->is_resting = true;
    atomic_fetch_add_explicit(&pool->resting, 1, memory_order_relaxed);
}

static void end_rest(struct thread_pool *pool)
{
    if (thread_own->is_resting)
        atomic_fetch_sub_explicit(&pool->resting, 1, memory_order_relaxed);
    thread_own->is_resting = false;
}

void thread_pool_begin_task(struct thread_pool *pool, void (*task)(void *), void *argument)
{
    end_rest(pool);
    thread_scheduling_settle(atomic_load_explicit(&pool->scheduling, memory_order_relaxed));
    thread_own->argument = argument;
    thread_own->task = (uintptr_t)task;
}

bool thread_pool_is_short(const struct thread_pool *pool)
{
    return atomic_load_explicit(&pool->short_of, memory_order_relaxed) > 0;
}

static void run_task(struct thread_pool *pool, const struct pooled_thread *self)
{
    void (*task)(void *) = atomic_load_explicit(&self->task, memory_order_relaxed);
    thread_pool_begin_task(pool, task, self->argument);
    task(self->argument);
    end_rest(pool);
    thread_own->task = 0;
}

static void *run_pooled(void *argument)
{
    struct first_task *first = argument;
    struct thread_pool *pool = first->pool;
    struct pooled_thread self = {.argument = first->argument};
    void *alternate_stack = crash_stack_take();
    thread_scheduling_inherit(first->scheduling_is_ours);
    atomic_init(&self.task, first->task);
    free(first);
    (void)sem_init(&self.wake, 0, 0);
    thread_list_enter(&self.listed);
    do
        run_task(pool, &self);
    while (!self.listed.is_last_task && next_task(pool, &self));
    thread_list_leave(&self.listed);
    (void)sem_destroy(&self.wake);
    crash_stack_give_back(alternate_stack);
    forget_thread(pool);
    return NULL;
}

static bool start_pooled(struct thread_pool *pool, void (*task)(void *), void *argument, struct error *error)
{
    struct first_task *first = malloc(sizeof *first);
    if (first == NULL) {
        error_set_errno(error, ENOMEM, "cannot start a thread");
        return false;
    }
    *first = (struct first_task){
        .pool = pool, .scheduling_is_ours = thread_scheduling_is_ours(), .task = task, .argument = argument};
    pthread_t thread;
    if (!thread_create(&thread, pool->options.stack_size, PTHREAD_CREATE_DETACHED, run_pooled, first, error)) {
        free(first);
        return false;
    }
    return true;
}

// Has a new thread run it; `threads` counts it already. False: it does no more.
static bool start_counted(struct thread_pool *pool, void (*task)(void *), void *argument, struct error *error)
{
    if (start_pooled(pool, task, argument, error))
        return true;
    forget_thread(pool);
    return false;
}

static bool may_start(const struct thread_pool *pool) REQUIRES(pool->lock)
{
    return pool->options.max_threads == 0 || pool->threads < pool->options.max_threads;
}

static void refuse_start(const struct thread_pool *pool, struct error *error)
{
    error_set(error, ERROR_NO_THREADS, "all %u threads are busy", pool->options.max_threads);
}

bool thread_pool_move(struct thread_pool *pool, void (*task)(void *), void *argument, struct error *error)
{
    mutex_lock(&pool->lock);
    bool is_counted = may_start(pool);
    if (is_counted)
        pool->threads++;
    mutex_unlock(&pool->lock);
    if (!is_counted) {
        refuse_start(pool, error);
        return false;
    }
    // Before the new one has it: a debugger finds one thread for an argument.
    struct listed_thread before = *thread_own;
    thread_own->task = 0;
    thread_own->argument = NULL;
    thread_own->is_last_task = true;
    if (start_counted(pool, task, argument, error))
        return true;
    thread_own->task = before.task;
    thread_own->argument = before.argument;
    thread_own->is_last_task = false;
    return false;
}

bool thread_pool_run(struct thread_pool *pool, void (*task)(void *), void *argument, struct error *error)
{
    mutex_lock(&pool->lock);
    struct pooled_thread *thread = LIST_FIRST(&pool->parked_threads);
    bool is_counted = thread == NULL && may_start(pool);
    if (thread != NULL)
        unpark(pool, thread);
    else if (is_counted)
        pool->threads++;
    mutex_unlock(&pool->lock);

    if (thread != NULL) {
        wake(thread, task, argument);
        return true;
    }
    if (is_counted)
        return start_counted(pool, task, argument, error);
    refuse_start(pool, error);
    return false;
}

// The one parked last, once there is one. NULL: there was none by the deadline.
static struct pooled_thread *await_parked(struct thread_pool *pool, int64_t deadline) EXCLUDES(pool->lock)
{
    atomic_fetch_add_explicit(&pool->short_of, 1, memory_order_relaxed);
    mutex_lock(&pool->lock);
    while (LIST_EMPTY(&pool->parked_threads) && deadline_left(deadline) > 0)
        condition_wait(&pool->changed, &pool->lock, deadline);
    struct pooled_thread *thread = LIST_FIRST(&pool->parked_threads);
    if (thread != NULL)
        unpark(pool, thread);
    mutex_unlock(&pool->lock);
    atomic_fetch_sub_explicit(&pool->short_of, 1, memory_order_relaxed);
    return thread;
}

bool thread_pool_run_patiently(struct thread_pool *pool, void (*task)(void *), void *argument, int64_t patience,
                               struct error *error)
{
    if (thread_pool_run(pool, task, argument, error))
        return true;
    if (atomic_load_explicit(&pool->resting, memory_order_relaxed) == 0)
        return false;
    struct pooled_thread *thread = await_parked(pool, deadline_after(patience));
    if (thread == NULL)
        return false;
    wake(thread, task, argument);
    return true;
}

void thread_pool_set_scheduling(struct thread_pool *pool, enum thread_scheduling scheduling)
{
    atomic_store_explicit(&pool->scheduling, scheduling, memory_order_relaxed);
}

struct thread_pool_count thread_pool_count(struct thread_pool *pool)
{
    mutex_lock(&pool->lock);
    unsigned occupied = pool->threads - pool->parked, resting = atomic_load(&pool->resting);
    if (resting > occupied)
        resting = occupied; // counted without the lock
    struct thread_pool_count count = {.busy = occupied - resting, .resting = resting, .parked = pool->parked};
    mutex_unlock(&pool->lock);
    return count;
}

bool thread_pool_drain(struct thread_pool *pool, int64_t deadline)
{
    mutex_lock(&pool->lock);
    pool->draining = true;
    while (!LIST_EMPTY(&pool->parked_threads)) {
        struct pooled_thread *thread = LIST_FIRST(&pool->parked_threads);
        unpark(pool, thread);
        wake(thread, NULL, NULL);
    }
    while (pool->threads > 0 && deadline_left(deadline) > 0)
        condition_wait(&pool->changed, &pool->lock, deadline);
    bool drained = pool->threads == 0;
    mutex_unlock(&pool->lock);
    return drained;
}

void thread_pool_destroy(struct thread_pool **pool)
{
    if (*pool == NULL)
        return;
    condition_release(&(*pool)->changed);
    mutex_release(&(*pool)->lock);
    free(*pool);
    *pool = NULL;
}
