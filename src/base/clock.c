#include "bitflow/base/clock.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>

#include "bitflow/base/text.h"

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

// In decimal, with zeros before it, and `mark` behind it. Returns where it ends.
static char *put_padded(char *at, unsigned value, unsigned digits, char mark)
{
    (void)text_decimal(at + digits, value, digits);
    at[digits] = mark;
    return at + digits + 1;
}

// The Gregorian calendar. Years begin in March here, so that the leap day is a year's last; 400 years have 146097 days.
static char *put_date(char *at, int64_t days_since_1970)
{
    unsigned days = (unsigned)(days_since_1970 + 719468); // since 1 March of the year 0
    unsigned in_cycle = days % 146097;
    unsigned year = (in_cycle - in_cycle / 1460 + in_cycle / 36524 - in_cycle / 146096) / 365;
    unsigned in_year = in_cycle - (365 * year + year / 4 - year / 100);
    unsigned month = (5 * in_year + 2) / 153; // five months have 153 days, from March on
    unsigned day = in_year - (153 * month + 2) / 5 + 1;
    bool is_next_year = month >= 10;
    at = put_padded(at, days / 146097 * 400 + year + is_next_year, 4, '-');
    at = put_padded(at, is_next_year ? month - 9 : month + 3, 2, '-');
    return put_padded(at, day, 2, 'T');
}

// By hand: the C library would take a lock of the whole process, for the time zone, and a microsecond for three times.
void clock_format_rfc3339(int64_t wall, char out[CLOCK_RFC3339_SIZE])
{
    const int64_t day = 86400 * NS_PER_S;
    int64_t in_day = (wall % day + day) % day;
    unsigned ms = (unsigned)(in_day / NS_PER_MS);
    char *at = put_date(out, (wall - in_day) / day);
    at = put_padded(at, ms / 3600000, 2, ':');
    at = put_padded(at, ms / 60000 % 60, 2, ':');
    at = put_padded(at, ms / 1000 % 60, 2, '.');
    *put_padded(at, ms % 1000, 3, 'Z') = '\0';
}
