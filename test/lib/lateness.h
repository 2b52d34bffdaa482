// How late the machine is. A thread that is to wake up every 10 ms notes by how much later it does; an upper bound of
// time, where that is what a test claims, is extended by what came together meanwhile, and by nothing else.
//
// Times are nanoseconds of clock_now(). Any thread may call these functions, after lateness_begin().

#ifndef BITFLOW_TEST_LATENESS_H
#define BITFLOW_TEST_LATENESS_H

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// Begins to measure, unless this process has begun.
void lateness_begin(void);

// By how much the machine was late between the two.
int64_t lateness_between(int64_t from, int64_t until);

// Whether less than `limit` passed, as far as it is not the machine that was late.
bool lateness_is_within(int64_t from, int64_t until, int64_t limit);

void lateness_assert_within(int64_t from, int64_t until, int64_t limit, const char *file, int line);

#define assert_within(from, until, limit) lateness_assert_within((from), (until), (limit), __FILE__, __LINE__)

// Waits as poll() does for one descriptor, but for longer by as much as the machine is late meanwhile: what did not
// happen until then would not have happened. False: that was so.
bool lateness_poll(struct pollfd *poller, int64_t duration);

// The same, for nothing.
void lateness_sleep(int64_t duration);

#endif
