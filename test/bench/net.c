#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

void net_raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int fail(int fd)
{
    int error = errno;

    (void)close(fd);
    errno = error;
    return -1;
}

static bool set_flag(int fd, int level, int option)
{
    int on = 1;

    return setsockopt(fd, level, option, &on, sizeof on) == 0;
}

int net_listen(const struct options *options)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return -1;
    }
    if (!set_flag(fd, SOL_SOCKET, SO_REUSEADDR) ||
        bind(fd, (const struct sockaddr *)&options->address, sizeof options->address) != 0 || listen(fd, 4096) != 0) {
        return fail(fd);
    }
    return fd;
}

static bool bind_source(int fd, const struct options *options, uint64_t number)
{
    struct sockaddr_in source = {.sin_family = AF_INET};

    if (options->sources == 0) {
        return true;
    }
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(number % options->sources));
    return set_flag(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT) &&
           bind(fd, (const struct sockaddr *)&source, sizeof source) == 0;
}

static int connect_socket(const struct options *options, uint64_t number, int flags)
{
    struct timeval timeout = {.tv_sec = GRACE_SECONDS};
    struct sockaddr_in target = options->address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

    if (fd < 0) {
        return -1;
    }
    if (!set_flag(fd, IPPROTO_TCP, TCP_NODELAY) || !bind_source(fd, options, number)) {
        return fail(fd);
    }
    if (flags == 0 && (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0 ||
                       setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0)) {
        return fail(fd);
    }
    target.sin_port = htons((uint16_t)(ntohs(target.sin_port) + number % options->ports));
    if (connect(fd, (const struct sockaddr *)&target, sizeof target) != 0 && (flags == 0 || errno != EINPROGRESS)) {
        return fail(fd);
    }
    return fd;
}

static bool open_leg(struct leg *leg, int fd)
{
    if (fd < 0 || leg_open(leg, fd)) {
        return fd >= 0;
    }
    (void)fail(fd);
    return false;
}

bool net_connect_start(const struct options *options, uint64_t number, struct leg *leg)
{
    return open_leg(leg, connect_socket(options, number, SOCK_NONBLOCK));
}

bool net_connect(const struct options *options, uint64_t number, struct leg *leg)
{
    int error = 0;

    if (!open_leg(leg, connect_socket(options, number, 0))) {
        return false;
    }
    if (leg_shake_hands(leg)) {
        return true;
    }
    error = errno;
    leg_close(leg);
    errno = error;
    return false;
}

bool net_set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

void net_fill(char *message, size_t size, uint64_t number)
{
    memset(message, 'a' + (int)(number % 26), size);
    memcpy(message, &number, size < sizeof number ? size : sizeof number);
}

bool net_exchange(struct leg *leg, size_t size, uint64_t number)
{
    char message[4096];
    char reply[4096];
    size_t got = 0;

    net_fill(message, size, number);
    if (leg_send(leg, message, size) != (ssize_t)size) {
        return false;
    }
    while (got < size) {
        ssize_t bytes = leg_receive(leg, reply + got, size - got, false);

        if (bytes <= 0) {
            errno = bytes == 0 ? ECONNABORTED : errno;
            return false;
        }
        got += (size_t)bytes;
    }
    if (memcmp(message, reply, size) != 0) {
        errno = EPROTO;
        return false;
    }
    return true;
}

static bool control(int epoll, int operation, int fd, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};

    return epoll_ctl(epoll, operation, fd, &event) == 0;
}

bool net_watch(int epoll, int fd, uint32_t events, void *data)
{
    return control(epoll, EPOLL_CTL_ADD, fd, events, data);
}

bool net_rewatch(int epoll, int fd, uint32_t events, void *data)
{
    return control(epoll, EPOLL_CTL_MOD, fd, events, data);
}
