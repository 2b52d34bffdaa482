#include "config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/signals.h"

enum read_result { READ_END, READ_FULL, READ_NOTHING_YET, READ_FAILED /* errno says why */ };

// Reads as much as there is now.
static enum read_result read_available(int fd, char *buffer, size_t size, size_t *used)
{
    while (*used < size) {
        ssize_t got = read(fd, buffer + *used, size - *used);
        if (got == 0)
            return READ_END;
        if (got > 0)
            *used += (size_t)got;
        else if (errno == EAGAIN)
            return READ_NOTHING_YET;
        else if (errno != EINTR)
            return READ_FAILED;
    }
    return READ_FULL;
}

// Waits until a pipe has bytes, or its end.
static bool await_pipe(int fd, int64_t deadline, struct error *error)
{
    struct pollfd pollers[] = {{.fd = fd, .events = POLLIN}, {.fd = signals_end_descriptor(), .events = POLLIN}};
    int ready = deadline_poll(pollers, ARRAY_LENGTH(pollers), deadline);
    if (ready > 0 && pollers[1].revents != 0) {
        error_set(error, ERROR_CANCELLED, "cannot read: the process is told to end");
        return false;
    }
    if (ready == 0)
        error_set(error, ERROR_TIMEOUT, "cannot read: nothing more came within %d s", CONFIG_FILE_TIMEOUT_S);
    else if (ready < 0)
        error_set_errno(error, errno, "cannot read");
    return ready > 0;
}

// A named pipe that nobody has opened for writing yet reads as ended at once, while poll() waits for a writer: so
// nothing is read before poll() has seen something. After that an end is an end.
static bool read_open(int fd, bool is_pipe, char *buffer, size_t size, size_t *used, struct error *error)
{
    int64_t deadline = deadline_after(CONFIG_FILE_TIMEOUT_S * NS_PER_S);
    enum read_result result;
    do {
        if (is_pipe && !await_pipe(fd, deadline, error))
            return false;
        result = read_available(fd, buffer, size, used);
    } while (is_pipe && result == READ_NOTHING_YET);
    if (result == READ_END || result == READ_FULL)
        return true;
    error_set_errno(error, errno, "cannot read");
    return false;
}

static bool can_be_read(const struct stat *status, struct error *error)
{
    if (S_ISREG(status->st_mode) || S_ISFIFO(status->st_mode))
        return true;
    if (S_ISDIR(status->st_mode))
        error_set_errno(error, EISDIR, "cannot read");
    else
        error_set(error, ERROR_INVALID, "cannot read: it is a device, not a file or a pipe");
    return false;
}

bool config_file_read(const char *path, char *buffer, size_t size, size_t *length, struct error *error)
{
    // Non-blocking: a named pipe's open() would wait for a writer.
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) {
        error_set_errno(error, errno, "cannot read");
        return false;
    }
    struct stat status;
    size_t used = 0;
    bool good = fstat(fd, &status) == 0;
    if (!good)
        error_set_errno(error, errno, "cannot read");
    good = good && can_be_read(&status, error) && read_open(fd, S_ISFIFO(status.st_mode), buffer, size, &used, error);
    (void)close(fd);
    if (good)
        *length = used;
    return good;
}
