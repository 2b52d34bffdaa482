#include "bitflow/base/output.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bitflow/base/descriptor_path.h"

// poll() says that a terminal or a pipe takes something, not that it takes a whole line, and a write that waits for the
// rest would hold up everyone who logs: so the same file is opened once more, with O_NONBLOCK. -1: that cannot be done,
// or is not needed (a regular file has its own place in there).
static int open_once_more(int fd, mode_t mode)
{
    if (!S_ISFIFO(mode) && !S_ISCHR(mode))
        return -1;
    char path[DESCRIPTOR_PATH_SIZE];
    descriptor_path(fd, path);
    return open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

void output_init(struct output *output, int fd)
{
    struct stat status = {.st_mode = 0};
    (void)fstat(fd, &status);
    int own = open_once_more(fd, status.st_mode);
    *output = (struct output){
        .fd = own >= 0 ? own : fd,
        .is_own = own >= 0,
        .is_socket = S_ISSOCK(status.st_mode),
        .may_wait = own < 0 && !S_ISSOCK(status.st_mode) && !S_ISREG(status.st_mode),
    };
}

void output_init_own(struct output *output, int fd)
{
    *output = (struct output){.fd = fd, .is_own = true};
}

void output_release(struct output *output)
{
    if (output->is_own)
        (void)close(output->fd);
    *output = (struct output){.fd = -1};
}

bool output_is_ready(const struct output *output)
{
    struct pollfd poller = {.fd = output->fd, .events = POLLOUT};
    return poll(&poller, 1, 0) == 1 && (poller.revents & POLLOUT) != 0;
}

// Pipes know RWF_NOWAIT since Linux 6.4. Before, and for a terminal, what takes something is believed to take a line:
// of a pipe that is so, up to PIPE_BUF, if nobody else writes in between.
static ssize_t write_at_once(const struct output *output, const char *bytes, size_t count)
{
    // NOLINTNEXTLINE(performance-no-int-to-ptr): it is only read
    const struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = count};
    ssize_t written = pwritev2(output->fd, &part, 1, -1, RWF_NOWAIT);
    if (written >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS))
        return written;
    if (output_is_ready(output))
        return write(output->fd, bytes, count);
    errno = EAGAIN;
    return -1;
}

ssize_t output_write(const struct output *output, const char *bytes, size_t count)
{
    ssize_t written;
    do
        if (output->is_socket)
            written = send(output->fd, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);
        else if (output->may_wait)
            written = write_at_once(output, bytes, count);
        else
            written = write(output->fd, bytes, count);
    while (written < 0 && errno == EINTR);
    return written;
}

int output_standard(const char *word)
{
    if (strcmp(word, "stdout") == 0)
        return STDOUT_FILENO;
    return strcmp(word, "stderr") == 0 ? STDERR_FILENO : -1;
}
