// A sendto() to a Unix socket, as a service manager's, that waits until the file SEND_AFTER is there.

#include <dlfcn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

ssize_t sendto(int fd, const void *bytes, size_t size, int flags, const struct sockaddr *address, socklen_t length)
{
    ssize_t (*original)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
        dlsym(RTLD_NEXT, "sendto");
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
    const char *file = getenv("SEND_AFTER");
    while (file != NULL && address != NULL && address->sa_family == AF_UNIX && access(file, F_OK) != 0)
        (void)nanosleep(&pause, NULL);
    return original(fd, bytes, size, flags, address, length);
}
