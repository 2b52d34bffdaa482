// The threads that are running, for a debugger: the kernel's name of a thread is not in a core file, and what it runs
// is not always in its registers. Nothing in the process reads the list. A thread enters it once, when it starts; what
// changes with its tasks are plain stores of its own. One lock; any thread.

#ifndef BITFLOW_SRC_BASE_THREAD_LIST_H
#define BITFLOW_SRC_BASE_THREAD_LIST_H

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
    const void *argument;
};

// The calling thread, until it leaves.
void thread_list_enter(struct listed_thread *self);
void thread_list_leave(struct listed_thread *self);

// The calling thread's name, which has its final length; one that is not listed has none.
void thread_list_set_name(const char name[THREAD_NAME_SIZE]);

#endif
