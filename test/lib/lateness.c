#include "lateness.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

#include "bitflow/base/clock.h"

#define PERIOD (10 * NS_PER_MS)
#define NEGLIGIBLE NS_PER_MS // timers have their slack
#define DELAYS_MAX 16384     // more than a test's minutes have

struct delay {
    int64_t due, woke;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct delay delays[DELAYS_MAX]; // the last ones, by `noted` modulo their number
static size_t noted;
static int64_t due; // when the thread is to wake up next

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void *wake_up(void *has_begun)
{
    require(sem_post(has_begun) == 0);
    for (;;) {
        struct timespec left = clock_timespec(later(due - clock_now(), 0));
        (void)nanosleep(&left, NULL);
        int64_t now = clock_now();
        require(pthread_mutex_lock(&lock) == 0);
        if (now - due > NEGLIGIBLE)
            delays[noted++ % DELAYS_MAX] = (struct delay){due, now};
        due = now + PERIOD;
        require(pthread_mutex_unlock(&lock) == 0);
    }
    return NULL;
}

void lateness_begin(void)
{
    static bool is_measured;
    static sem_t has_begun; // what a thread allocates at first is not for the test to count, or to refuse
    pthread_t thread;
    if (is_measured)
        return;
    is_measured = true;
    due = clock_now() + PERIOD;
    require(sem_init(&has_begun, 0, 0) == 0);
    require(pthread_create(&thread, NULL, wake_up, &has_begun) == 0 && pthread_detach(thread) == 0);
    while (sem_wait(&has_begun) != 0)
        ;
}

int64_t lateness_between(int64_t from, int64_t until)
{
    int64_t sum = 0;
    require(pthread_mutex_lock(&lock) == 0);
    require(due != 0); // it was not begun
    for (size_t i = noted; i > 0 && noted - i < DELAYS_MAX; i--) {
        const struct delay *delay = &delays[(i - 1) % DELAYS_MAX];
        sum += later(earlier(delay->woke, until) - later(delay->due, from), 0);
        if (delay->woke < from)
            break;
    }
    int64_t pending = until - later(due, from); // its thread ought to run now
    if (pending > NEGLIGIBLE)
        sum += pending;
    require(pthread_mutex_unlock(&lock) == 0);
    return sum;
}

bool lateness_is_within(int64_t from, int64_t until, int64_t limit)
{
    return until - from < limit + lateness_between(from, until);
}

void lateness_assert_within(int64_t from, int64_t until, int64_t limit, const char *file, int line)
{
    if (lateness_is_within(from, until, limit))
        return;
    print_error("%.1f ms passed, %.1f ms are the limit, and the machine was late by %.1f ms\n",
                (double)(until - from) / NS_PER_MS, (double)limit / NS_PER_MS,
                (double)lateness_between(from, until) / NS_PER_MS);
    _fail(file, line);
}

bool lateness_poll(struct pollfd *poller, int64_t duration)
{
    int64_t since = clock_now(), now = since;
    while (now - since < duration + lateness_between(since, now)) {
        int64_t left = since + duration + lateness_between(since, now) - now;
        if (poll(poller, 1, (int)(left / NS_PER_MS) + 1) == 1)
            return true;
        now = clock_now();
    }
    return false;
}

void lateness_sleep(int64_t duration)
{
    struct pollfd nothing = {.fd = -1};
    (void)lateness_poll(&nothing, duration);
}
