// Time. Durations are int64_t nanoseconds; a deadline is a point on CLOCK_MONOTONIC in nanoseconds, DEADLINE_NONE if
// there is none. Wall-clock time is for people only and never for waiting. Any thread, no locks, no errors.

#ifndef BITFLOW_BASE_CLOCK_H
#define BITFLOW_BASE_CLOCK_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/time.h>
#include <time.h>

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

#define DEADLINE_NONE INT64_MAX

int64_t clock_now(void);        // CLOCK_MONOTONIC, ns
int64_t clock_now_coarse(void); // the same clock at the tick's resolution (1-10 ms), for a fifth of the cost
int64_t clock_wall(void);       // CLOCK_REALTIME, ns since 1970

// Now + duration; DEADLINE_NONE where the duration is 0 (in the configuration 0 means none).
int64_t deadline_after(int64_t duration);

static inline int64_t deadline_sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

// What is left, at least 0. INT64_MAX for DEADLINE_NONE.
int64_t deadline_left(int64_t deadline);

// The same as poll() wants it: ms rounded up, -1 for none, capped at INT_MAX.
int deadline_poll_ms(int64_t deadline);

// poll() until the deadline; a signal does not end it.
int deadline_poll(struct pollfd *descriptors, size_t count, int64_t deadline);

// A duration as SO_RCVTIMEO wants it: rounded up to 1 us, so that a short bound never becomes "none".
struct timeval clock_timeval(int64_t duration);

struct timespec clock_timespec(int64_t ns);

#define CLOCK_RFC3339_SIZE sizeof "2026-11-23T15:54:05.123Z"
// Writes the wall-clock time as RFC 3339 in UTC with milliseconds.
void clock_format_rfc3339(int64_t wall, char out[CLOCK_RFC3339_SIZE]);

#endif
