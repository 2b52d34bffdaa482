#include "fake_time.h"

atomic_bool fake_time_flies;

_Atomic int64_t fake_time_ahead;

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
