// The half of the process that takes over.

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/handover.h"
#include "bitflow/net/inherited.h"
#include "bitflow/net/socket.h"
#include "handover_table.h"

static struct handover_table *table;
static size_t table_size;
static int *sockets; // of each record; -1: taken
static size_t socket_count;
static bool is_unconfirmed;

static void close_all(const int *descriptors, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (descriptors[i] >= 0)
            (void)close(descriptors[i]);
}

// Returns how many descriptors came; they have replaced the first ones of `descriptors`. -1, with errno: none did, or
// not all that were sent.
static ssize_t receive_descriptors(int channel, int64_t deadline, int descriptors[HANDOVER_MESSAGE_SOCKETS])
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(HANDOVER_MESSAGE_SOCKETS * sizeof(int))];
    char byte;
    struct iovec content = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &content, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct pollfd poller = {.fd = channel, .events = POLLIN};
    if (deadline_poll(&poller, 1, deadline) <= 0) {
        errno = ETIMEDOUT;
        return -1;
    }
    ssize_t got = recvmsg(channel, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0)
        return -1;
    const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    size_t count = 0;
    if (got > 0 && head != NULL && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
        count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(descriptors, CMSG_DATA(head), count * sizeof(int));
    }
    if (count > 0 && (message.msg_flags & MSG_CTRUNC) == 0)
        return (ssize_t)count;
    close_all(descriptors, count);
    errno = got == 0 ? ECONNRESET : (message.msg_flags & MSG_CTRUNC) != 0 ? EMFILE : EPROTO;
    return -1;
}

static bool is_understood(const struct handover_table *offered, size_t size)
{
    return offered->magic == HANDOVER_MAGIC && offered->record_size == sizeof(struct handover_record) &&
           offered->count <= HANDOVER_SOCKETS_MAX &&
           size == sizeof *offered + offered->count * sizeof(struct handover_record);
}

static bool map_table(int memory, struct error *error)
{
    struct stat status;
    size_t most = sizeof *table + HANDOVER_SOCKETS_MAX * sizeof(struct handover_record);
    bool is_whole =
        fstat(memory, &status) == 0 && status.st_size >= (off_t)sizeof *table && status.st_size <= (off_t)most;
    void *mapped =
        !is_whole ? MAP_FAILED : mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (mapped == MAP_FAILED) {
        error_set(error, ERROR_INVALID, "cannot take over: the running process offers no table of its sockets");
        return false;
    }
    table = mapped;
    table_size = (size_t)status.st_size;
    if (is_understood(table, table_size))
        return true;
    error_set(error, ERROR_INVALID, "cannot take over: the running process hands over in another version's way");
    return false;
}

static bool receive_table(int channel, int64_t deadline, struct error *error)
{
    int memory[HANDOVER_MESSAGE_SOCKETS];
    ssize_t count = receive_descriptors(channel, deadline, memory);
    if (count < 0) {
        error_set_errno(error, errno, "cannot take over from the running process");
        return false;
    }
    bool good = map_table(memory[0], error);
    close_all(memory, (size_t)count);
    return good;
}

static bool receive_sockets(int channel, int64_t deadline, struct error *error)
{
    size_t wanted = table->count;
    sockets = calloc(wanted + 1, sizeof *sockets);
    if (sockets == NULL) {
        error_set_errno(error, ENOMEM, "cannot take over");
        return false;
    }
    while (socket_count < wanted) {
        int some[HANDOVER_MESSAGE_SOCKETS];
        ssize_t count = receive_descriptors(channel, deadline, some);
        if (count < 0) {
            error_set_errno(error, errno, "cannot take over the listening sockets");
            return false;
        }
        size_t room = wanted - socket_count;
        size_t kept = (size_t)count < room ? (size_t)count : room;
        memcpy(sockets + socket_count, some, kept * sizeof *sockets);
        close_all(some + kept, (size_t)count - kept);
        socket_count += kept;
    }
    return true;
}

static void release(void)
{
    close_all(sockets, socket_count);
    free(sockets);
    if (table != NULL)
        (void)munmap(table, table_size);
    sockets = NULL;
    socket_count = 0;
    table = NULL;
}

bool handover_receive(int channel, int64_t deadline, struct error *error)
{
    release();
    is_unconfirmed = true;
    bool good = receive_table(channel, deadline, error) && receive_sockets(channel, deadline, error);
    if (!good)
        release();
    return good;
}

static void set_port(struct endpoint *endpoint, in_port_t port)
{
    // At the same place in both families' addresses.
    _Static_assert(offsetof(struct sockaddr_in, sin_port) == offsetof(struct sockaddr_in6, sin6_port), "ports");
    memcpy((char *)&endpoint->address + offsetof(struct sockaddr_in, sin_port), &port, sizeof port);
}

static bool has_port(const struct endpoint *endpoint)
{
    in_port_t port;
    memcpy(&port, (const char *)&endpoint->address + offsetof(struct sockaddr_in, sin_port), sizeof port);
    return port != 0;
}

static bool is_v6_only(int fd)
{
    int is_only = 0;
    socklen_t size = sizeof is_only;
    return getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &is_only, &size) == 0 && is_only != 0;
}

// The port that was chosen says nothing of what it was meant for: of several sockets none is taken for another.
static bool is_the_one_for_any_port(size_t i)
{
    size_t count = 0;
    for (size_t k = 0; k < socket_count; k++)
        count += table->records[k].is_any_port != 0;
    return count == 1 && table->records[i].is_any_port != 0;
}

static bool listens_at(size_t i, const struct endpoint *endpoint, bool v6_only)
{
    struct endpoint local;
    if (sockets[i] < 0 || !inherited_is_listening(sockets[i]) || !socket_local(sockets[i], &local) ||
        endpoint_family(&local) != endpoint_family(endpoint))
        return false;
    if (!has_port(endpoint)) {
        if (!is_the_one_for_any_port(i))
            return false;
        set_port(&local, 0);
    }
    return endpoint_equal(&local, endpoint) &&
           (endpoint_family(endpoint) != AF_INET6 || is_v6_only(sockets[i]) == v6_only);
}

static int take(size_t i)
{
    int fd = sockets[i];
    sockets[i] = -1;
    table->records[i].is_taken = 1;
    return fd;
}

int handover_take_tcp(const struct endpoint *endpoint, bool v6_only)
{
    int fd = -1;
    for (size_t i = 0; fd < 0 && i < socket_count; i++)
        if (listens_at(i, endpoint, v6_only))
            fd = take(i);
    return fd;
}

static bool is_file(size_t i, const struct endpoint *endpoint)
{
    const struct handover_record *record = &table->records[i];
    struct stat status;
    if (endpoint->address.local.sun_path[0] == '\0')
        return true; // abstract
    return lstat(endpoint->address.local.sun_path, &status) == 0 && S_ISSOCK(status.st_mode) &&
           (uint64_t)status.st_dev == record->device && (uint64_t)status.st_ino == record->inode;
}

int handover_take_unix(const struct endpoint *endpoint, struct handover_mark *mark)
{
    int fd = -1;
    for (size_t i = 0; fd < 0 && i < socket_count; i++) {
        struct endpoint local;
        if (sockets[i] < 0 || !inherited_is_listening(sockets[i]) || !socket_local(sockets[i], &local) ||
            !endpoint_equal(&local, endpoint) || !is_file(i, endpoint))
            continue;
        *mark =
            (struct handover_mark){.device = (dev_t)table->records[i].device, .inode = (ino_t)table->records[i].inode};
        fd = take(i);
    }
    return fd;
}

void handover_close_rest(void)
{
    release();
}

void handover_confirm(void)
{
    is_unconfirmed = false;
}

bool handover_is_confirmed(void)
{
    return !is_unconfirmed;
}
