#include "bitflow/base/thread.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/types.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/crash.h"
#include "bitflow/base/log.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/text.h"

// The threads that are running, for a debugger: the kernel's name of a thread is not in a core file, and what it runs
// is not always in its registers. Nothing in the process reads the list. A thread enters it once, when it starts; what
// changes with its tasks are plain stores of its own.

// Lives on the stack of its thread.
struct listed_thread {
    TAILQ_ENTRY(listed_thread) link;
    pid_t id; // the kernel's
    char name[THREAD_NAME_SIZE];
    uintptr_t task; // the function that it runs; 0: it waits for one
    const void *argument;
};

static struct mutex list_lock = MUTEX_INIT;
// src/gdb knows it by name.
static TAILQ_HEAD(, listed_thread) all_threads GUARDED_BY(list_lock) = TAILQ_HEAD_INITIALIZER(all_threads);
static _Thread_local struct listed_thread *own;

// The calling thread, until it leaves.
static void thread_list_enter(struct listed_thread *self)
{
    self->id = gettid();
    mutex_lock(&list_lock);
    TAILQ_INSERT_TAIL(&all_threads, self, link);
    mutex_unlock(&list_lock);
    own = self;
}

static void thread_list_leave(struct listed_thread *self)
{
    own = NULL;
    mutex_lock(&list_lock);
    TAILQ_REMOVE(&all_threads, self, link);
    mutex_unlock(&list_lock);
}

// How the kernel schedules the calling thread. What an operator chose is left alone, for the process (chrt, systemd's
// CPUSchedulingPolicy=) or for one thread: only SCHED_OTHER becomes SCHED_BATCH, and only what we made SCHED_BATCH
// becomes SCHED_OTHER again.
//
// A thread begins with its creator's policy, and the kernel's SCHED_RESET_ON_FORK ends real-time policies only. So each
// thread is told by its creator where its policy comes from, and settles on its own.

// It is SCHED_BATCH by our doing, and a thread or process that it starts will be, too.
static _Thread_local bool scheduling_is_ours;
static _Thread_local enum thread_scheduling scheduling_asked_for; // also where it was refused

// First thing in a new thread: what `scheduling_is_ours` was in its creator.
static void scheduling_inherit(bool creator_is_ours)
{
    scheduling_is_ours = creator_is_ours;
    scheduling_asked_for = creator_is_ours ? THREAD_SCHEDULING_BATCH : THREAD_SCHEDULING_NORMAL;
}

// Returns 0, or what the system refused it with.
static int scheduling_change(int from, int to)
{
    int policy = sched_getscheduler(0);
    if (policy < 0)
        return errno;
    // To take that flag away would need a privilege.
    int kept = policy & SCHED_RESET_ON_FORK;
    if ((policy & ~SCHED_RESET_ON_FORK) != from)
        return 0;
    const struct sched_param no_priority = {.sched_priority = 0};
    if (sched_setscheduler(0, to | kept, &no_priority) != 0)
        return errno;
    scheduling_is_ours = to == SCHED_BATCH;
    return 0;
}

void thread_scheduling_undo(void)
{
    if (scheduling_is_ours)
        (void)scheduling_change(SCHED_BATCH, SCHED_OTHER);
}

// No system call where the thread was asked for the same before. Where the system refuses, the thread goes on as it is.
static void scheduling_settle(enum thread_scheduling wanted)
{
    static _Atomic bool is_said;
    if (wanted == scheduling_asked_for)
        return;
    scheduling_asked_for = wanted;
    if (wanted == THREAD_SCHEDULING_NORMAL) {
        thread_scheduling_undo();
        return;
    }
    int os_errno = scheduling_change(SCHED_OTHER, SCHED_BATCH);
    if (os_errno != 0 && !atomic_exchange_explicit(&is_said, true, memory_order_relaxed))
        log_debug(NULL, "threads keep the scheduling policy of the process", "error", strerrordesc_np(os_errno), NULL);
}

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
    struct mutex lock;
    struct condition changed; // a thread has ended
    // Guarded by the lock:
    LIST_HEAD(, pooled_thread) parked_threads GUARDED; // the one parked last first: its stack is warm
    unsigned threads GUARDED;
    unsigned parked GUARDED;
    bool draining GUARDED;
};

// What a new thread needs before it can live from its own stack.
struct first_run {
    void *(*run)(void *);
    void *argument;
    bool scheduling_is_ours; // the creator's
};

struct first_task {
    struct thread_pool *pool;
    bool scheduling_is_ours; // likewise
    void (*task)(void *);
    void *argument;
};

void thread_set_name(const char *name)
{
    char cut[THREAD_NAME_SIZE] = "";
    size_t length = strnlen(name, sizeof cut - 1);
    memcpy(cut, name, length);
    if (own != NULL)
        memcpy(own->name, cut, sizeof cut);
    (void)pthread_setname_np(pthread_self(), cut); // fails for longer names only
}

void thread_name(char out[THREAD_NAME_SIZE], const char *head, const char *tail)
{
    size_t tail_length = strnlen(tail, THREAD_NAME_SIZE - 1);
    size_t kept = strlen(head);
    if (kept > THREAD_NAME_SIZE - 1 - tail_length)
        kept = THREAD_NAME_SIZE - 1 - tail_length;
    kept = text_cut(head, kept);
    memcpy(out, head, kept);
    memcpy(out + kept, tail, tail_length);
    out[kept + tail_length] = '\0';
}

static size_t real_stack_size(size_t wanted)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    // The C library keeps its own and the program's thread-local storage on the stack.
    size_t minimum = (size_t)sysconf(_SC_THREAD_STACK_MIN);
    size_t size = wanted + minimum;
    if (IS_SANITIZED)
        size = size * 4 + (size_t)256 * 1024; // red zones make frames several times as large
    return (size + page - 1) / page * page;
}

// The new thread inherits the creator's mask, so the mask is changed around the creation.
static int create_with_signals_blocked(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                                       void *argument)
{
    sigset_t all, before;
    sigfillset(&all);
    // A fault must reach its handler whichever thread it happens on.
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGABRT);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(thread, attributes, run, argument);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

static bool start(pthread_t *thread, size_t stack_size, int detach_state, void *(*run)(void *), void *argument,
                  struct error *error)
{
    pthread_attr_t attributes;
    int result = pthread_attr_init(&attributes);
    if (result != 0) {
        error_set_errno(error, result, "cannot prepare a thread");
        return false;
    }
    (void)pthread_attr_setdetachstate(&attributes, detach_state);
    result = pthread_attr_setstacksize(&attributes, real_stack_size(stack_size));
    if (result == 0)
        result = create_with_signals_blocked(thread, &attributes, run, argument);
    (void)pthread_attr_destroy(&attributes);
    if (result == EAGAIN)
        error_set(error, ERROR_NO_THREADS, "cannot start a thread: the system has no more (%s)",
                  strerrordesc_np(result));
    else if (result != 0)
        error_set_errno(error, result, "cannot start a thread");
    return result == 0;
}

static void *run_first(void *argument)
{
    struct first_run first = *(struct first_run *)argument;
    free(argument);
    scheduling_inherit(first.scheduling_is_ours);
    scheduling_settle(THREAD_SCHEDULING_NORMAL);
    void *alternate_stack = crash_stack_take();
    struct listed_thread listed = {.task = (uintptr_t)first.run, .argument = first.argument};
    thread_list_enter(&listed);
    void *result = first.run(first.argument);
    thread_list_leave(&listed);
    crash_stack_give_back(alternate_stack);
    return result;
}

bool thread_start(pthread_t *thread, size_t stack_size, void *(*run)(void *), void *argument, struct error *error)
{
    struct first_run *first = malloc(sizeof *first);
    if (first == NULL) {
        error_set_errno(error, ENOMEM, "cannot start a thread");
        return false;
    }
    *first = (struct first_run){.run = run, .argument = argument, .scheduling_is_ours = scheduling_is_ours};
    if (start(thread, stack_size, PTHREAD_CREATE_JOINABLE, run_first, first, error))
        return true;
    free(first);
    return false;
}

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

static void run_task(const struct thread_pool *pool, struct pooled_thread *self)
{
    scheduling_settle(atomic_load_explicit(&pool->scheduling, memory_order_relaxed));
    void (*task)(void *) = atomic_load_explicit(&self->task, memory_order_relaxed);
    self->listed.argument = self->argument;
    self->listed.task = (uintptr_t)task;
    task(self->argument);
    self->listed.task = 0;
}

static void *run_pooled(void *argument)
{
    struct first_task *first = argument;
    struct thread_pool *pool = first->pool;
    struct pooled_thread self = {.argument = first->argument};
    void *alternate_stack = crash_stack_take();
    scheduling_inherit(first->scheduling_is_ours);
    atomic_init(&self.task, first->task);
    free(first);
    (void)sem_init(&self.wake, 0, 0);
    thread_list_enter(&self.listed);
    do
        run_task(pool, &self);
    while (next_task(pool, &self));
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
    *first =
        (struct first_task){.pool = pool, .scheduling_is_ours = scheduling_is_ours, .task = task, .argument = argument};
    pthread_t thread;
    if (!start(&thread, pool->options.stack_size, PTHREAD_CREATE_DETACHED, run_pooled, first, error)) {
        free(first);
        return false;
    }
    return true;
}

bool thread_pool_run(struct thread_pool *pool, void (*task)(void *), void *argument, struct error *error)
{
    mutex_lock(&pool->lock);
    struct pooled_thread *thread = LIST_FIRST(&pool->parked_threads);
    bool may_start = pool->options.max_threads == 0 || pool->threads < pool->options.max_threads;
    if (thread != NULL)
        unpark(pool, thread);
    else if (may_start)
        pool->threads++;
    mutex_unlock(&pool->lock);

    if (thread != NULL) {
        wake(thread, task, argument);
        return true;
    }
    if (!may_start) {
        error_set(error, ERROR_NO_THREADS, "all %u threads are busy", pool->options.max_threads);
        return false;
    }
    if (!start_pooled(pool, task, argument, error)) {
        forget_thread(pool);
        return false;
    }
    return true;
}

void thread_pool_set_scheduling(struct thread_pool *pool, enum thread_scheduling scheduling)
{
    atomic_store_explicit(&pool->scheduling, scheduling, memory_order_relaxed);
}

struct thread_pool_count thread_pool_count(struct thread_pool *pool)
{
    mutex_lock(&pool->lock);
    struct thread_pool_count count = {.busy = pool->threads - pool->parked, .parked = pool->parked};
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
