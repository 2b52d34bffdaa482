#include "bitflow/base/clock.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

static int64_t read_clock(clockid_t id)
{
    struct timespec now;
    // Cannot fail: the clocks named here exist on every Linux.
    (void)clock_gettime(id, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

int64_t clock_now(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

int64_t clock_now_coarse(void)
{
    return read_clock(CLOCK_MONOTONIC_COARSE);
}

int64_t clock_wall(void)
{
    return read_clock(CLOCK_REALTIME);
}

int64_t deadline_after(int64_t duration)
{
    if (duration <= 0)
        return DEADLINE_NONE;
    int64_t now = clock_now();
    return duration > DEADLINE_NONE - now ? DEADLINE_NONE : now + duration;
}

int64_t deadline_left(int64_t deadline)
{
    if (deadline == DEADLINE_NONE)
        return INT64_MAX;
    int64_t left = deadline - clock_now();
    return left > 0 ? left : 0;
}

int deadline_poll_ms(int64_t deadline)
{
    if (deadline == DEADLINE_NONE)
        return -1;
    int64_t left = deadline_left(deadline);
    if (left > (int64_t)INT_MAX * NS_PER_MS - NS_PER_MS)
        return INT_MAX;
    return (int)((left + NS_PER_MS - 1) / NS_PER_MS);
}

int deadline_poll(struct pollfd *descriptors, size_t count, int64_t deadline)
{
    int ready;
    do
        ready = poll(descriptors, count, deadline_poll_ms(deadline));
    while (ready < 0 && errno == EINTR);
    return ready;
}

struct timeval clock_timeval(int64_t duration)
{
    int64_t us = duration / NS_PER_US + (duration % NS_PER_US != 0);
    return (struct timeval){.tv_sec = us / 1000000, .tv_usec = us % 1000000};
}

struct timespec clock_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}

void clock_format_rfc3339(int64_t wall, char out[CLOCK_RFC3339_SIZE])
{
    time_t seconds = wall / NS_PER_S;
    struct tm utc;
    char date[sizeof "2026-11-23T15:54:05"];
    if (gmtime_r(&seconds, &utc) == NULL || strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc) == 0)
        memcpy(date, "0000-00-00T00:00:00", sizeof date);
    (void)snprintf(out, CLOCK_RFC3339_SIZE, "%s.%03uZ", date, (unsigned)(wall / NS_PER_MS % 1000) % 1000U);
}
