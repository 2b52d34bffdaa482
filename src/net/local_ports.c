#include "bitflow/net/local_ports.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/net/socket.h"

#define SYSCTL "/proc/sys/net/ipv4/ip_local_"
#define TIME_WAIT (60 * NS_PER_S)
#define SHARE 8      // the part of all ports whose sockets are not marked
#define TRIES_MAX 64 // ports, for one connection
#define RESERVED_MAX 4096

struct port_range {
    long first, last;
};

// Linux's own, for a system without /proc.
static const struct port_range usual_range = {32768, 60999};
static const struct port_range every_port = {1, UINT16_MAX};

// The ends within a minute, and in the one before that. Who counts at the turn of a minute may be lost: a few are.
static struct {
    _Atomic int64_t minute;
    _Atomic unsigned ends;
    _Atomic unsigned ends_before;
    _Atomic unsigned most_unmarked;
} count;

// False: there is no such file, or it is bigger than `size`.
static bool read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, text, size);
    (void)close(fd);
    if (length < 0 || (size_t)length >= size)
        return false;
    text[length] = '\0';
    return true;
}

// `otherwise`: where it cannot be read.
static struct port_range read_range(struct port_range otherwise)
{
    char text[64], *end;
    struct port_range range;
    if (!read_file(SYSCTL "port_range", text, sizeof text))
        return otherwise;
    range.first = strtol(text, &end, 10);
    range.last = strtol(end, NULL, 10);
    return range.first > 0 && range.last >= range.first && range.last <= UINT16_MAX ? range : otherwise;
}

static void begin_minute(int64_t minute, int64_t before)
{
    unsigned ends = atomic_exchange_explicit(&count.ends, 0, memory_order_relaxed);
    struct port_range range = read_range(usual_range);
    atomic_store_explicit(&count.ends_before, minute == before + 1 ? ends : 0, memory_order_relaxed);
    atomic_store_explicit(&count.most_unmarked, (unsigned)(range.last - range.first + 1) / SHARE, memory_order_relaxed);
}

void local_ports_note_end(int fd)
{
    int64_t minute = clock_now_coarse() / TIME_WAIT + 1; // 0: nothing was counted yet
    int64_t before = atomic_load_explicit(&count.minute, memory_order_relaxed);
    if (minute != before && atomic_compare_exchange_strong(&count.minute, &before, minute))
        begin_minute(minute, before);
    unsigned ends = atomic_fetch_add_explicit(&count.ends, 1, memory_order_relaxed) +
                    atomic_load_explicit(&count.ends_before, memory_order_relaxed);
    if (ends >= atomic_load_explicit(&count.most_unmarked, memory_order_relaxed))
        socket_reuse_port(fd);
}

// Whether the port is among those that are reserved: "8080,9148,10000-10100", in which nobody is to be given one.
static bool is_reserved(const char *reserved, long port)
{
    char *end;
    for (const char *at = reserved; *at >= '0' && *at <= '9'; at = *end == ',' ? end + 1 : end) {
        long first = strtol(at, &end, 10), last = first;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        if (port >= first && port <= last)
            return true;
    }
    return false;
}

static int new_socket(const struct endpoint *endpoint)
{
    int fd = socket(endpoint->address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        socket_keep_urgent_data(fd);
        socket_reuse_port(fd);
    }
    return fd;
}

static bool bind_to_port(int fd, sa_family_t family, long port)
{
    struct sockaddr_in inet = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 inet6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    if (family == AF_INET)
        return bind(fd, (const struct sockaddr *)&inet, sizeof inet) == 0;
    return bind(fd, (const struct sockaddr *)&inet6, sizeof inet6) == 0;
}

// Kept out of other frames: what is reserved may be a long list.
__attribute__((noinline)) int local_ports_connect_again(const struct endpoint *endpoint)
{
    char reserved[RESERVED_MAX];
    struct port_range range = read_range(usual_range);
    long ports = range.last - range.first + 1;
    if (!read_file(SYSCTL "reserved_ports", reserved, sizeof reserved))
        return -1;
    long at = (long)arc4random_uniform((uint32_t)ports);
    int fd = new_socket(endpoint);
    for (int tries = 0; fd >= 0 && tries < TRIES_MAX && tries < ports; tries++, at++) {
        long port = range.first + at % ports;
        if (is_reserved(reserved, port) || !bind_to_port(fd, endpoint->address.any.sa_family, port))
            continue; // somebody's, and not waiting
        if (connect(fd, &endpoint->address.any, endpoint->length) == 0 || errno == EINPROGRESS || errno == EINTR)
            return fd;
        (void)close(fd); // it stays bound
        fd = new_socket(endpoint);
    }
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

static long port_of(const struct endpoint *endpoint)
{
    struct sockaddr_in inet;
    struct sockaddr_in6 inet6;
    if (endpoint_family(endpoint) == AF_INET) {
        memcpy(&inet, &endpoint->address, sizeof inet);
        return ntohs(inet.sin_port);
    }
    memcpy(&inet6, &endpoint->address, sizeof inet6);
    return ntohs(inet6.sin6_port);
}

bool local_ports_include(const struct endpoint *endpoint)
{
    // One word, so that its parts belong together: the second that it was read in, the first port, the last one.
    static _Atomic uint64_t range_read; // no second is 0
    uint32_t second = (uint32_t)(clock_now_coarse() / NS_PER_S + 1);
    uint64_t packed = atomic_load_explicit(&range_read, memory_order_relaxed);
    if (packed >> 32 != second) {
        struct port_range range = read_range(every_port);
        packed = (uint64_t)second << 32 | (uint64_t)range.first << 16 | (uint64_t)range.last;
        atomic_store_explicit(&range_read, packed, memory_order_relaxed);
    }
    long port = port_of(endpoint), first = packed >> 16 & UINT16_MAX, last = packed & UINT16_MAX;
    return port >= first && port <= last;
}
