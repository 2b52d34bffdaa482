#include "bitflow/base/mutex.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/clock.h"

static void check(int result, const char *call)
{
    if (result == 0)
        return;
    (void)fprintf(stderr, "bitflow: %s: %s\n", call, strerrorname_np(result));
    abort();
}

void mutex_init(struct mutex *mutex)
{
    check(pthread_mutex_init(&mutex->native, NULL), "pthread_mutex_init");
}

void mutex_release(struct mutex *mutex)
{
    check(pthread_mutex_destroy(&mutex->native), "pthread_mutex_destroy");
}

void mutex_lock(struct mutex *mutex) NO_THREAD_SAFETY_ANALYSIS
{
    check(pthread_mutex_lock(&mutex->native), "pthread_mutex_lock");
}

void mutex_unlock(struct mutex *mutex) NO_THREAD_SAFETY_ANALYSIS
{
    check(pthread_mutex_unlock(&mutex->native), "pthread_mutex_unlock");
}

bool mutex_lock_by(struct mutex *mutex, int64_t deadline) NO_THREAD_SAFETY_ANALYSIS
{
    struct timespec until = clock_timespec(deadline);
    int result = pthread_mutex_clocklock(&mutex->native, CLOCK_MONOTONIC, &until);
    check(result == ETIMEDOUT ? 0 : result, "pthread_mutex_clocklock");
    return result == 0;
}

void condition_init(struct condition *condition)
{
    pthread_condattr_t attributes;
    check(pthread_condattr_init(&attributes), "pthread_condattr_init");
    check(pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC), "pthread_condattr_setclock");
    check(pthread_cond_init(&condition->native, &attributes), "pthread_cond_init");
    check(pthread_condattr_destroy(&attributes), "pthread_condattr_destroy");
}

void condition_release(struct condition *condition)
{
    check(pthread_cond_destroy(&condition->native), "pthread_cond_destroy");
}

void condition_signal(struct condition *condition)
{
    check(pthread_cond_signal(&condition->native), "pthread_cond_signal");
}

void condition_broadcast(struct condition *condition)
{
    check(pthread_cond_broadcast(&condition->native), "pthread_cond_broadcast");
}

void condition_wait(struct condition *condition, struct mutex *mutex, int64_t deadline)
{
    if (deadline == DEADLINE_NONE) {
        check(pthread_cond_wait(&condition->native, &mutex->native), "pthread_cond_wait");
        return;
    }
    struct timespec until = clock_timespec(deadline);
    int result = pthread_cond_timedwait(&condition->native, &mutex->native, &until);
    check(result == ETIMEDOUT ? 0 : result, "pthread_cond_timedwait");
}
