// How the kernel schedules the calling thread (enum thread_scheduling, base/thread.h). What an operator chose is left
// alone, for the process (chrt, systemd's CPUSchedulingPolicy=) or for one thread: only SCHED_OTHER becomes
// SCHED_BATCH, and only what we made SCHED_BATCH becomes SCHED_OTHER again.
//
// A thread begins with its creator's policy, and the kernel's SCHED_RESET_ON_FORK ends real-time policies only. So each
// thread is told by its creator where its policy comes from, and settles on its own.

#ifndef BITFLOW_SRC_BASE_THREAD_SCHEDULING_H
#define BITFLOW_SRC_BASE_THREAD_SCHEDULING_H

#include <stdbool.h>

#include "bitflow/base/thread.h"

// Whether the calling thread is SCHED_BATCH by our doing, and a thread or process that it starts will be, too.
bool thread_scheduling_is_ours(void);

// First thing in a new thread: what thread_scheduling_is_ours() said in its creator.
void thread_scheduling_inherit(bool is_ours);

// No system call where the thread was asked for the same before. Where the system refuses, the thread goes on as it is.
void thread_scheduling_settle(enum thread_scheduling wanted);

// Undoes what we did. Async-signal-safe.
void thread_scheduling_undo(void);

#endif
