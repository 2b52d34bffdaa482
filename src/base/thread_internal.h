// What a thread knows of itself, for the files that start threads (thread.c, thread_pool.c).

#ifndef BITFLOW_SRC_BASE_THREAD_INTERNAL_H
#define BITFLOW_SRC_BASE_THREAD_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "bitflow/base/thread.h"

// Lives on the stack of its thread.
struct listed_thread {
    TAILQ_ENTRY(listed_thread) link;
    pid_t id; // the kernel's
    char name[THREAD_NAME_SIZE];
    uintptr_t task; // the function that it runs; 0: it waits for one
    bool is_resting;
    bool is_last_task; // its own goes on elsewhere: the thread ends
    const void *argument;
};

// The calling thread's; NULL: it is in no list.
extern _Thread_local struct listed_thread *thread_own;

// The calling thread, until it leaves.
void thread_list_enter(struct listed_thread *self);
void thread_list_leave(struct listed_thread *self);

// Starts a thread with all signals blocked. `detach_state` is pthread_attr_setdetachstate()'s. The new thread is to
// call thread_scheduling_inherit() first, then thread_list_enter().
bool thread_create(pthread_t *thread, size_t stack_size, int detach_state, void *(*run)(void *), void *argument,
                   struct error *error);

// What thread_scheduling_inherit() wants to know of the creator.
bool thread_scheduling_is_ours(void);

// First thing in a new thread: what thread_scheduling_is_ours() was in its creator.
void thread_scheduling_inherit(bool creator_is_ours);

// Gives the calling thread this policy. No system call where it was asked for the same before; where the system
// refuses, the thread goes on as it is.
void thread_scheduling_settle(enum thread_scheduling wanted);

#endif
