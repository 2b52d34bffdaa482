#include "unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static socklen_t fill(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t length = strnlen(path, sizeof address->sun_path - 1);
    memcpy(address->sun_path, path, length);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
}

#define LOCK_TRIES 50
#define LOCK_INTERVAL 20 // ms

// Two servers that start at once could each find the other's socket bound but not yet listening, take it for
// stale and remove it. A lock on the directory makes them take turns. It is best effort: -1 where there is
// none to be had.
static int lock_directory(const char *path)
{
    char directory[sizeof((struct sockaddr_un *)NULL)->sun_path];
    size_t length = (size_t)(strrchr(path, '/') - path);
    memcpy(directory, path, length);
    directory[length] = '\0';
    int fd = open(length > 0 ? directory : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; fd >= 0 && i < LOCK_TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0 || (errno != EWOULDBLOCK && errno != EINTR))
            break;
        (void)poll(NULL, 0, LOCK_INTERVAL);
    }
    return fd;
}

// Asks the socket at `address`: 0 if nobody listens there (ECONNREFUSED), EADDRINUSE if somebody does, else
// why it can't be told. A server whose queue is full (EAGAIN) or that talks datagrams (EPROTOTYPE) is alive.
static int probe(const struct sockaddr_un *address, socklen_t length)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    int reason = connect(fd, (const struct sockaddr *)address, length) == 0 ? 0 : errno;
    (void)close(fd);
    switch (reason) {
    case 0:
    case EAGAIN:
    case EINPROGRESS:
    case EPROTOTYPE:
        return EADDRINUSE;
    case ECONNREFUSED:
        return 0;
    default:
        return reason;
    }
}

// Removes a stale socket file, so that the next bind() may succeed.
static bool clear_stale(const struct sockaddr_un *address, socklen_t length, struct error *error)
{
    const char *path = address->sun_path;
    struct stat status;
    if (lstat(path, &status) != 0) {
        if (errno == ENOENT)
            return true; // gone meanwhile
        error_set_errno(error, errno, "cannot listen on unix://%s", path);
        return false;
    }
    if (!S_ISSOCK(status.st_mode)) {
        error_set(error, ERROR_INVALID, "cannot listen on unix://%s: the file there is not a socket", path);
        return false;
    }
    int reason = probe(address, length);
    if (reason == ENOENT)
        return true;
    if (reason == 0 && unlink(path) != 0 && errno != ENOENT)
        reason = errno;
    if (reason == EADDRINUSE)
        error_set_errno(error, reason, "cannot listen on unix://%s: a server is already listening there", path);
    else if (reason != 0)
        error_set_errno(error, reason, "cannot listen on unix://%s: replacing its stale socket", path);
    return reason == 0;
}

#define BIND_TRIES 3 // others may be replacing the file, too

static bool bind_path(int fd, const char *path, struct error *error)
{
    struct sockaddr_un address;
    socklen_t length = fill(&address, path);
    for (int i = 0; i < BIND_TRIES; i++) {
        if (bind(fd, (const struct sockaddr *)&address, length) == 0)
            return true;
        if (errno != EADDRINUSE) {
            error_set_errno(error, errno, "cannot listen on unix://%s", path);
            return false;
        }
        if (!clear_stale(&address, length, error))
            return false;
    }
    error_set_errno(error, EADDRINUSE, "cannot listen on unix://%s", path);
    return false;
}

bool unix_socket_listen(int fd, const char *path, int backlog, struct unix_socket_file *file, struct error *error)
{
    int directory = lock_directory(path);
    struct stat status;
    bool good = bind_path(fd, path, error);
    if (good && (listen(fd, backlog) != 0 || lstat(path, &status) != 0)) {
        error_set_errno(error, errno, "cannot listen on unix://%s", path);
        (void)unlink(path); // the one that bind() has just made
        good = false;
    }
    if (good)
        *file = (struct unix_socket_file){.device = status.st_dev, .inode = status.st_ino};
    if (directory >= 0)
        (void)close(directory);
    return good;
}

bool unix_socket_is_there(const char *path, const struct unix_socket_file *file)
{
    struct stat status;
    return lstat(path, &status) == 0 && S_ISSOCK(status.st_mode) && status.st_dev == file->device &&
           status.st_ino == file->inode;
}

void unix_socket_remove(const char *path, const struct unix_socket_file *file)
{
    if (unix_socket_is_there(path, file))
        (void)unlink(path);
}
