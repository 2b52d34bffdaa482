// A pthread mutex that clang's thread-safety analysis understands, with every call checked: a failing lock is a bug in
// this program, never a condition to go on from.

#ifndef BITFLOW_BASE_MUTEX_H
#define BITFLOW_BASE_MUTEX_H

#include <pthread.h>
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
