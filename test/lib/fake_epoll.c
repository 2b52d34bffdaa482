#include "fake_epoll.h"

#include <dlfcn.h>
#include <errno.h>
#include <sys/epoll.h>

atomic_bool fake_epoll_is_patient;

atomic_int fake_epoll_waiting, fake_epoll_most_waiting;

atomic_int fake_epoll_refused_creation;

atomic_int fake_epoll_refused_addition;

int epoll_wait(int epoll, struct epoll_event *events, int count, int timeout)
{
    int (*real)(int, struct epoll_event *, int, int);
    *(void **)&real = dlsym(RTLD_NEXT, "epoll_wait");
    int now = atomic_fetch_add(&fake_epoll_waiting, 1) + 1, most = atomic_load(&fake_epoll_most_waiting);
    while (now > most && !atomic_compare_exchange_weak(&fake_epoll_most_waiting, &most, now))
        continue;
    int result = real(epoll, events, count, atomic_load(&fake_epoll_is_patient) ? FAKE_EPOLL_PATIENCE_MS : timeout);
    int os_errno = errno;
    (void)atomic_fetch_sub(&fake_epoll_waiting, 1);
    errno = os_errno;
    return result;
}

int epoll_create1(int flags)
{
    int (*real)(int);
    *(void **)&real = dlsym(RTLD_NEXT, "epoll_create1");
    errno = atomic_load(&fake_epoll_refused_creation);
    return errno != 0 ? -1 : real(flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    int (*real)(int, int, int, struct epoll_event *);
    *(void **)&real = dlsym(RTLD_NEXT, "epoll_ctl");
    errno = operation == EPOLL_CTL_ADD ? atomic_load(&fake_epoll_refused_addition) : 0;
    return errno != 0 ? -1 : real(epoll, operation, fd, event);
}
