// A pthread mutex that clang's thread-safety analysis understands, with every call checked: a failing lock is a bug in
// this program, never a condition to go on from.

#ifndef BITFLOW_BASE_MUTEX_H
#define BITFLOW_BASE_MUTEX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/compiler.h"

struct LOCKABLE mutex {
    pthread_mutex_t native;
};

#define MUTEX_INIT {PTHREAD_MUTEX_INITIALIZER}

void mutex_init(struct mutex *mutex);
void mutex_release(struct mutex *mutex);
void mutex_lock(struct mutex *mutex) ACQUIRES(mutex);
void mutex_unlock(struct mutex *mutex) RELEASES(mutex);
// False: it could not be had by the deadline (base/clock.h), be it that the calling thread has it. With glibc it may be
// called, and the lock given back, in a signal's handler.
bool mutex_lock_by(struct mutex *mutex, int64_t deadline) TRY_ACQUIRES(true, mutex);

// A condition variable on CLOCK_MONOTONIC.
struct condition {
    pthread_cond_t native;
};

void condition_init(struct condition *condition);
void condition_release(struct condition *condition);
void condition_signal(struct condition *condition);
void condition_broadcast(struct condition *condition);
// Waits until signalled or until `deadline` (base/clock.h); may return early, so the caller checks its condition.
void condition_wait(struct condition *condition, struct mutex *mutex, int64_t deadline) REQUIRES(mutex);

#endif
