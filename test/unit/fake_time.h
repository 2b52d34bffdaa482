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

static atomic_bool fake_time_flies;
static _Atomic int64_t fake_time_ahead; // ns

int fake_clock_gettime(clockid_t clock, struct timespec *now) __asm__("clock_gettime");
int fake_clock_gettime(clockid_t clock, struct timespec *now)
{
    if (syscall(SYS_clock_gettime, clock, now) != 0)
        return -1;
    const int64_t second = 1000000000;
    int64_t ns = now->tv_nsec + atomic_load(&fake_time_ahead);
    now->tv_sec += ns / second;
    now->tv_nsec = ns % second;
    return 0;
}

static int fake_wait(struct pollfd *descriptors, nfds_t count, int timeout)
{
    struct timespec bound = {.tv_sec = timeout / 1000, .tv_nsec = timeout % 1000 * 1000000L};
    if (!atomic_load(&fake_time_flies))
        return (int)syscall(SYS_ppoll, descriptors, count, timeout < 0 ? NULL : &bound, NULL, (size_t)0);
    bound = (struct timespec){.tv_sec = 0};
    int ready = (int)syscall(SYS_ppoll, descriptors, count, &bound, NULL, (size_t)0);
    if (ready == 0 && timeout < 0)
        fail_msg("this would wait for ever");
    if (ready == 0)
        atomic_fetch_add(&fake_time_ahead, timeout * INT64_C(1000000));
    return ready;
}

int fake_poll(struct pollfd *descriptors, nfds_t count, int timeout) __asm__("poll");
int fake_poll(struct pollfd *descriptors, nfds_t count, int timeout)
{
    return fake_wait(descriptors, count, timeout);
}

int fake_poll_checked(struct pollfd *descriptors, nfds_t count, int timeout, size_t size) __asm__("__poll_chk");
int fake_poll_checked(struct pollfd *descriptors, nfds_t count, int timeout, size_t size)
{
    assert_true(count <= size / sizeof *descriptors);
    return fake_wait(descriptors, count, timeout);
}

#endif
