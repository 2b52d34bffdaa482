// Threads: named, with small stacks, and kept for reuse.
//
// A pool hands each task to the thread parked last (its stack and caches are the warmest) or starts a new one. A
// thread that finishes its task parks again, up to a bound, and ends after an idle time. The hand-over costs one
// futex wake and holds no lock across it. thread_pool_run() may be called from any thread, a pool's own threads
// included.

#ifndef BITFLOW_BASE_THREAD_H
#define BITFLOW_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"

#define THREAD_NAME_SIZE 16 // what the kernel keeps, with the terminating zero

// Names the calling thread, as gdb, top -H and /proc/PID/task/TID/comm show it. A longer name is cut.
void thread_set_name(const char *name);

// `head` and `tail` put together as a name: the head is cut, never within a UTF-8 sequence, so that the tail fits.
void thread_name(char out[THREAD_NAME_SIZE], const char *head, const char *tail);

// How the kernel schedules a thread that nobody gave another policy: SCHED_OTHER, or SCHED_BATCH, which does not
// interrupt another thread when it wakes up, so that there are fewer switches and more is done in each turn.
enum thread_scheduling { THREAD_SCHEDULING_NORMAL, THREAD_SCHEDULING_BATCH };

// Makes the calling thread SCHED_OTHER again where a pool has made it SCHED_BATCH: what it starts would be so, too.
// Async-signal-safe.
void thread_scheduling_undo(void);

// Starts a joinable thread with all signals blocked (one thread alone waits for them), and of normal scheduling, even
// where its creator's is another. `stack_size` in bytes, without the guard page; it is raised to what the C library and
// a sanitizer need. ERROR_NO_THREADS, ERROR_NO_MEMORY.
bool thread_start(pthread_t *thread, size_t stack_size, void *(*run)(void *), void *argument, struct error *error);

struct thread_pool_options {
    const char *parked_name; // a parked thread's name; a string constant
    size_t stack_size;       // bytes, see thread_start()
    unsigned max_threads;    // busy and parked together; 0: no bound of ours
    unsigned max_parked;
    int64_t idle_time; // ns after which a parked thread ends
    enum thread_scheduling scheduling;
};

struct thread_pool;
struct thread_pool *thread_pool_create(const struct thread_pool_options *options, struct error *error);

// Runs task(argument) on a thread of the pool. False: no thread could be had (ERROR_NO_THREADS, ERROR_NO_MEMORY) and
// the task will not run.
bool thread_pool_run(struct thread_pool *pool, void (*task)(void *), void *argument, struct error *error);

// The same, but where no thread can be had while others rest (thread_pool_rest()), waits for one of them, at most
// `patience` ns.
bool thread_pool_run_patiently(struct thread_pool *pool, void (*task)(void *), void *argument, int64_t patience,
                               struct error *error);

// For a task that has come to its end, and waits for another one of its own accord: until thread_pool_begin_task(), or
// until it returns, the thread is neither busy nor parked, and a debugger sees that it waits. Of that pool's threads
// only.
void thread_pool_rest(struct thread_pool *pool);
void thread_pool_begin_task(struct thread_pool *pool, void (*task)(void *), void *argument);

// Goes on with task(argument) on a new thread, and has the calling one, which is of that pool, end when its own task
// returns: with it goes what a thread keeps of what it has done (stack, malloc's cache, the kernel's page fragment).
// The argument is the new thread's at once. False: no thread could be had, and nothing has changed.
bool thread_pool_move(struct thread_pool *pool, void (*task)(void *), void *argument, struct error *error);

// Somebody waits for a thread: whoever rests had better return. Any thread.
bool thread_pool_is_short(const struct thread_pool *pool);

// Of every task that begins from now on; those that run go on as they are. Any thread.
void thread_pool_set_scheduling(struct thread_pool *pool, enum thread_scheduling scheduling);

struct thread_pool_count {
    unsigned busy;
    unsigned resting;
    unsigned parked;
};
struct thread_pool_count thread_pool_count(struct thread_pool *pool);

// Ends the parked threads and waits until every task has returned, at most until `deadline` (base/clock.h). False if
// some still run then: the pool then stays as it is, and must not be destroyed.
bool thread_pool_drain(struct thread_pool *pool, int64_t deadline);

// Only after a thread_pool_drain() that returned true.
void thread_pool_destroy(struct thread_pool **pool);

#endif
