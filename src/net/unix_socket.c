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

#include "bitflow/base/descriptor_path.h"

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

static bool fail_listen(const char *path, const char *what, struct error *error)
{
    error_set_errno(error, errno, "cannot listen on unix://%s%s", path, what);
    return false;
}

// Whether a file is a socket with nobody behind it, as ours is before it listens. It was found by its path, where
// somebody may have put another one since bind(), or another directory.
static bool is_silent_socket(int handle, const struct stat *status)
{
    char path[DESCRIPTOR_PATH_SIZE];
    struct sockaddr_un address;
    descriptor_path(handle, path);
    socklen_t length = fill(&address, path);
    if (!S_ISSOCK(status->st_mode))
        return false;
    int reason = probe(&address, length);
    if (reason == EACCES) // its mode may keep ourselves out
        return status->st_uid == geteuid();
    return reason == 0 || reason == ENOENT; // ENOENT: there is no /proc
}

// Before it listens: nobody can connect yet. `file` is set once it is known to be ours.
static bool prepare_file(int handle, const char *path, const struct unix_access *access, struct unix_socket_file *file,
                         struct error *error)
{
    struct stat status;
    if (fstat(handle, &status) != 0)
        return fail_listen(path, "", error);
    if (!is_silent_socket(handle, &status)) {
        error_set(error, ERROR_INVALID, "cannot listen on unix://%s: its file was replaced", path);
        return false;
    }
    *file = (struct unix_socket_file){.device = status.st_dev, .inode = status.st_ino};
    return access == NULL || unix_access_apply(handle, access, NULL) ||
           fail_listen(path, ": giving it the mode, user and group that it is to have", error);
}

static bool listen_at(int fd, const char *path, int backlog, const struct unix_access *access,
                      struct unix_socket_file *file, struct error *error)
{
    int handle = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (handle < 0)
        return fail_listen(path, "", error);
    bool good = prepare_file(handle, path, access, file, error);
    (void)close(handle);
    return good && (listen(fd, backlog) == 0 || fail_listen(path, "", error));
}

bool unix_socket_listen(int fd, const char *path, int backlog, const struct unix_access *access,
                        struct unix_socket_file *file, struct error *error)
{
    int directory = lock_directory(path);
    // The file begins with that mode, less the umask: never with more than it is to have.
    if (access != NULL && access->has_mode)
        (void)fchmod(fd, access->mode);
    struct unix_socket_file made = {.inode = 0};
    bool good = bind_path(fd, path, error);
    if (good && !listen_at(fd, path, backlog, access, &made, error)) {
        if (made.inode != 0)
            unix_socket_remove(path, &made);
        good = false;
    }
    if (good)
        *file = made;
    if (directory >= 0)
        (void)close(directory);
    return good;
}

bool unix_socket_set_access(const char *path, const struct unix_socket_file *file, const struct unix_access *access,
                            struct unix_access *before, struct error *error)
{
    struct stat status;
    int handle = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    bool is_there = handle >= 0 && fstat(handle, &status) == 0 && S_ISSOCK(status.st_mode) &&
                    status.st_dev == file->device && status.st_ino == file->inode;
    bool good = is_there && unix_access_apply(handle, access, before);
    if (!good)
        error_set_errno(error, is_there ? errno : ENOENT,
                        "cannot give unix://%s the mode, user and group that it is to have", path);
    if (handle >= 0)
        (void)close(handle);
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
