#include "bitflow/telemetry/connection_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/crash.h"
#include "bitflow/base/log.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/output.h"
#include "bitflow/base/shared.h"
#include "line_writer.h"

struct connection_log {
    struct shared shared; // by its path; guarded by logs_lock
    struct line_writer writer;
};

// How long a crashed process waits for the locks.
#define CRASH_TIME (200 * NS_PER_MS)

static struct mutex logs_lock = MUTEX_INIT;
static struct shared_list logs GUARDED_BY(logs_lock) = LIST_HEAD_INITIALIZER(logs);

static int open_file(const char *path, struct error *error)
{
    // O_NONBLOCK: a FIFO without a reader is an error instead of a wait, and a full one loses the record.
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0640);
    if (fd < 0)
        error_set_errno(error, errno, "cannot open the connection log %s", path);
    return fd;
}

// It stays as it is, whatever it is: what a container's engine or a service manager gives us cannot be opened anew.
static bool take_standard(struct output *output, const char *word, struct error *error)
{
    int fd = output_standard(word);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY) {
        error_set_errno(error, EBADF, "cannot write the connection log to %s", word);
        return false;
    }
    output_init(output, fd);
    return true;
}

static bool open_output(struct output *output, const char *path, struct error *error)
{
    if (output_standard(path) >= 0)
        return take_standard(output, path, error);
    int fd = open_file(path, error);
    if (fd >= 0)
        output_init_own(output, fd);
    return fd >= 0;
}

// What is gathered reaches the files of a process that crashes, too.
static void write_through_crashed(void)
{
    int64_t deadline = clock_now() + CRASH_TIME;
    if (!mutex_lock_by(&logs_lock, deadline))
        return;
    struct shared *shared;
    LIST_FOREACH(shared, &logs, link)
        line_writer_write_through_crashed(&((struct connection_log *)shared)->writer, deadline);
    mutex_unlock(&logs_lock);
}

static struct connection_log *hold(const char *path, struct error *error) REQUIRES(logs_lock)
{
    struct connection_log *log = shared_hold(&logs, path, sizeof *log);
    if (log == NULL) {
        error_set_errno(error, ENOMEM, "cannot open the connection log %s", path);
        return NULL;
    }
    if (log->shared.references > 1)
        return log;
    struct output output;
    if (!open_output(&output, path, error)) {
        (void)shared_drop(log);
        shared_free(log);
        return NULL;
    }
    line_writer_init(&log->writer, log->shared.name, &output);
    return log;
}

struct connection_log *connection_log_open(const char *path, struct error *error)
{
    mutex_lock(&logs_lock);
    struct connection_log *log = hold(path, error);
    mutex_unlock(&logs_lock);
    crash_set_last_act(write_through_crashed);
    return log;
}

void connection_log_close(struct connection_log **log)
{
    struct connection_log *closing = *log;
    *log = NULL;
    if (closing == NULL)
        return;
    line_writer_flush(&closing->writer);
    mutex_lock(&logs_lock);
    bool is_last = shared_drop(closing);
    if (is_last)
        shared_unlink(closing);
    mutex_unlock(&logs_lock);
    if (!is_last)
        return;
    // Not under the lock of all: a disk may be slow.
    struct output output = closing->writer.output;
    line_writer_release(&closing->writer);
    free(closing);
    output_release(&output);
}

bool connection_log_reopen_all(void)
{
    bool all = true;
    mutex_lock(&logs_lock);
    struct shared *shared;
    LIST_FOREACH(shared, &logs, link) {
        struct error error = ERROR_INIT;
        if (output_standard(shared->name) >= 0)
            continue;
        int fd = open_file(shared->name, &error);
        if (fd < 0) {
            log_error(NULL, "the old connection log stays in use", "path", shared->name, "error", error.text, NULL);
            all = false;
            continue;
        }
        line_writer_replace(&((struct connection_log *)shared)->writer, fd);
        (void)close(fd);
    }
    mutex_unlock(&logs_lock);
    return all;
}

void connection_log_write_through_all(void)
{
    mutex_lock(&logs_lock);
    struct shared *shared;
    LIST_FOREACH(shared, &logs, link)
        line_writer_write_through(&((struct connection_log *)shared)->writer);
    mutex_unlock(&logs_lock);
}

void connection_log_write(struct connection_log *log, const struct json_line *line)
{
    if (line->text == NULL)
        line_writer_lose(&log->writer, ENOMEM);
    else
        line_writer_write(&log->writer, line->text + 1, line->length - 1); // it has a newline before it
}

uint64_t connection_log_lost(void)
{
    return line_writers_lost();
}
