#include "bitflow/telemetry/connection_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/log.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/shared.h"

struct connection_log {
    struct shared shared; // by its path; guarded by logs_lock
    int fd;               // the number never changes; re-opening replaces what is behind it
    // The last write was cut short (a full disk): the next record begins on a line of its own.
    _Atomic bool is_torn;
    _Atomic uint64_t lost; // records since the last one that was written
};

static struct mutex logs_lock = MUTEX_INIT;
static struct shared_list logs GUARDED_BY(logs_lock) = LIST_HEAD_INITIALIZER(logs);
static _Atomic uint64_t lost_ever;

static int open_file(const char *path, struct error *error)
{
    // O_NONBLOCK: a FIFO without a reader is an error instead of a wait, and a full one loses the record.
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0640);
    if (fd < 0)
        error_set_errno(error, errno, "cannot open the connection log %s", path);
    return fd;
}

struct connection_log *connection_log_open(const char *path, struct error *error)
{
    mutex_lock(&logs_lock);
    struct connection_log *log = shared_hold(&logs, path, sizeof *log);
    if (log == NULL)
        error_set_errno(error, ENOMEM, "cannot open the connection log %s", path);
    else if (log->shared.references == 1)
        log->fd = open_file(path, error);
    if (log != NULL && log->fd < 0) {
        (void)shared_drop(log);
        shared_free(log);
        log = NULL;
    }
    mutex_unlock(&logs_lock);
    return log;
}

void connection_log_close(struct connection_log **log)
{
    struct connection_log *closing = *log;
    *log = NULL;
    if (closing == NULL)
        return;
    int fd = closing->fd;
    mutex_lock(&logs_lock);
    bool is_last = shared_drop(closing);
    if (is_last)
        shared_free(closing);
    mutex_unlock(&logs_lock);
    if (is_last)
        (void)close(fd);
}

static bool is_same_file(int a, int b)
{
    struct stat first, second;
    return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

bool connection_log_reopen_all(void)
{
    bool all = true;
    mutex_lock(&logs_lock);
    struct shared *shared;
    LIST_FOREACH(shared, &logs, link) {
        struct connection_log *log = (struct connection_log *)shared;
        struct error error = ERROR_INIT;
        int fd = open_file(shared->name, &error);
        if (fd < 0) {
            log_error(NULL, "the old connection log stays in use", "path", log->shared.name, "error", error.text, NULL);
            all = false;
            continue;
        }
        if (!is_same_file(fd, log->fd))
            atomic_store_explicit(&log->is_torn, false, memory_order_relaxed);
        (void)dup3(fd, log->fd, O_CLOEXEC); // both are open, so it cannot fail
        (void)close(fd);
    }
    mutex_unlock(&logs_lock);
    return all;
}

// Returns whether all of it was written.
static bool write_text(struct connection_log *log, const char *text, size_t length)
{
    ssize_t written;
    do
        written = write(log->fd, text, length);
    while (written < 0 && errno == EINTR);
    if (written > 0 && (size_t)written < length) {
        atomic_store_explicit(&log->is_torn, true, memory_order_relaxed);
        errno = ENOSPC;
    }
    return written == (ssize_t)length;
}

uint64_t connection_log_lost(void)
{
    return atomic_load_explicit(&lost_ever, memory_order_relaxed);
}

static void count_loss(struct connection_log *log, int os_errno)
{
    atomic_fetch_add_explicit(&lost_ever, 1, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&log->lost, 1, memory_order_relaxed) > 0)
        return; // said already
    log_error(NULL, "connection log records are being lost", "path", log->shared.name, "error",
              strerrordesc_np(os_errno), NULL);
}

static void report_recovery(struct connection_log *log)
{
    uint64_t lost = atomic_exchange_explicit(&log->lost, 0, memory_order_relaxed);
    char number[LOG_NUMBER_SIZE];
    if (lost > 0)
        log_warn(NULL, "the connection log is written again", "path", log->shared.name, "lost",
                 log_number(number, (int64_t)lost), NULL);
}

void connection_log_write(struct connection_log *log, const struct json_line *line)
{
    if (line->text == NULL) {
        count_loss(log, ENOMEM);
        return;
    }
    // The newline before the object ends a torn line.
    bool was_torn = atomic_exchange_explicit(&log->is_torn, false, memory_order_relaxed);
    bool written =
        was_torn ? write_text(log, line->text, line->length) : write_text(log, line->text + 1, line->length - 1);
    if (!written) {
        int os_errno = errno;
        if (was_torn)
            atomic_store_explicit(&log->is_torn, true, memory_order_relaxed);
        count_loss(log, os_errno);
    } else if (atomic_load_explicit(&log->lost, memory_order_relaxed) > 0) {
        report_recovery(log);
    }
}
