// Time that passes by itself: once fake_time_flies is set, a poll() that would wait returns at once, and the clock has
// gone on by what it would have waited. One that would wait for ever fails the test. For tests of long bounds.
//
// The program's own definitions come before the C library's. They are given the names as symbols, since the headers'
// checked variants of poll() may not be defined a second time.

#ifndef BITFLOW_TEST_FAKE_TIME_H
#define BITFLOW_TEST_FAKE_TIME_H

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

extern atomic_bool fake_time_flies;
extern _Atomic int64_t fake_time_ahead; // ns

#endif
