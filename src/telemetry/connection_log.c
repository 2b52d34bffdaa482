#include "bitflow/telemetry/connection_log.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/log.h"
#include "bitflow/base/mutex.h"

struct connection_log {
    struct connection_log *next; // guarded by logs_lock, like `references`
    unsigned references;
    int fd; // the number never changes; re-opening replaces what is behind it
    // The last write was cut short (a full disk): the next record begins on a line of its own.
    _Atomic bool is_torn;
    _Atomic uint64_t lost; // records since the last one that was written
    char path[];
};

// A record is bounded by the lengths of its parts; this holds all but those of long certificates' names.
#define RECORD_BUFFER_SIZE 4096

static struct mutex logs_lock = MUTEX_INIT;
static struct connection_log *logs GUARDED_BY(logs_lock);

static int open_file(const char *path, struct error *error)
{
    // O_NONBLOCK: a FIFO without a reader is an error instead of a wait, and a full one loses the record.
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0640);
    if (fd < 0)
        error_set_errno(error, errno, "cannot open the connection log %s", path);
    return fd;
}

static struct connection_log *create(const char *path, struct error *error)
{
    size_t size = strlen(path) + 1;
    struct connection_log *log = calloc(1, sizeof *log + size);
    if (log == NULL) {
        error_set_errno(error, ENOMEM, "cannot open the connection log %s", path);
        return NULL;
    }
    memcpy(log->path, path, size);
    log->references = 1;
    log->fd = open_file(path, error);
    if (log->fd < 0) {
        free(log);
        return NULL;
    }
    return log;
}

struct connection_log *connection_log_open(const char *path, struct error *error)
{
    mutex_lock(&logs_lock);
    struct connection_log *log = logs;
    while (log != NULL && strcmp(log->path, path) != 0)
        log = log->next;
    if (log != NULL) {
        log->references++;
    } else {
        log = create(path, error);
        if (log != NULL) {
            log->next = logs;
            logs = log;
        }
    }
    mutex_unlock(&logs_lock);
    return log;
}

struct connection_log *connection_log_hold(struct connection_log *log)
{
    if (log == NULL)
        return NULL;
    mutex_lock(&logs_lock);
    log->references++;
    mutex_unlock(&logs_lock);
    return log;
}

void connection_log_close(struct connection_log **log)
{
    struct connection_log *closing = *log;
    *log = NULL;
    if (closing == NULL)
        return;
    mutex_lock(&logs_lock);
    bool last = --closing->references == 0;
    if (last) {
        struct connection_log **link = &logs;
        while (*link != closing)
            link = &(*link)->next;
        *link = closing->next;
    }
    mutex_unlock(&logs_lock);
    if (last) {
        (void)close(closing->fd);
        free(closing);
    }
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
    for (struct connection_log *log = logs; log != NULL; log = log->next) {
        struct error error = ERROR_INIT;
        int fd = open_file(log->path, &error);
        if (fd < 0) {
            log_error(NULL, "the old connection log stays in use", "path", log->path, "error", error.text, NULL);
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

// The object under construction, and whether all of it could be built: half a record is none.
struct builder {
    json_t *object;
    bool is_complete;
};

static void set(struct builder *builder, const char *key, json_t *value)
{
    if (json_object_set_new(builder->object, key, value) != 0) // also if either is NULL
        builder->is_complete = false;
}

static void set_text(struct builder *builder, const char *key, const char *value)
{
    json_t *text = value == NULL ? json_null() : json_string(value);
    set(builder, key, text != NULL ? text : json_string("(not UTF-8)"));
}

static void set_count(struct builder *builder, const char *key, uint64_t value)
{
    set(builder, key, json_integer((json_int_t)value));
}

static void set_time(struct builder *builder, const char *key, int64_t wall)
{
    char text[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(wall, text);
    set_text(builder, key, text);
}

static void set_milliseconds(struct builder *builder, const char *key, int64_t ns)
{
    // Whole microseconds, so that the number is as short as it is exact.
    int64_t us = ns / NS_PER_US;
    set(builder, key, json_real((double)us / 1000.0));
}

// NULL: out of memory.
static json_t *finish(struct builder *builder)
{
    if (builder->is_complete)
        return builder->object;
    json_decref(builder->object);
    return NULL;
}

static json_t *json_of_header(const struct connection_header *header)
{
    if (header == NULL)
        return json_null();
    struct builder builder = {.object = json_object(), .is_complete = true};
    set_count(&builder, "version", header->version);
    set(&builder, "local", json_boolean(header->is_local));
    set_text(&builder, "peer", header->peer);
    set_text(&builder, "authority", header->authority);
    set_text(&builder, "unique_id", header->unique_id);
    return finish(&builder);
}

static json_t *target_of_record(const struct connection_record *record)
{
    if (record->target_name == NULL)
        return json_null();
    struct builder target = {.object = json_object(), .is_complete = true};
    set_text(&target, "name", record->target_name);
    set_text(&target, "address", record->target_address);
    set_text(&target, "via", record->via);
    return finish(&target);
}

static json_t *json_of_tls(const struct connection_tls *tls)
{
    if (tls == NULL)
        return json_null();
    struct builder builder = {.object = json_object(), .is_complete = true};
    set_text(&builder, "version", tls->version);
    set_text(&builder, "cipher", tls->cipher);
    set_text(&builder, "server_name", tls->server_name);
    set_text(&builder, "protocol", tls->protocol);
    set_milliseconds(&builder, "handshake_ms", tls->handshake_time);
    set_text(&builder, "peer_subject", tls->peer_subject);
    set_text(&builder, "peer_names", tls->peer_names);
    set_text(&builder, "peer_fingerprint", tls->peer_fingerprint);
    return finish(&builder);
}

// NULL: out of memory.
static json_t *json_of_record(const struct connection_record *record)
{
    struct builder builder = {.object = json_object(), .is_complete = true};
    set_text(&builder, "event", record->is_rejected ? "rejected" : "connection");
    set_count(&builder, "id", record->id);
    set_text(&builder, "proxy", record->proxy);
    set_time(&builder, "start", record->start);
    set_time(&builder, "end", record->end);
    set_text(&builder, "client", record->client);
    set_text(&builder, "local", record->local);
    set(&builder, "proxy_header", json_of_header(record->proxy_header));
    set_text(&builder, "sni", record->sni);
    set(&builder, "client_tls", json_of_tls(record->client_tls));
    set(&builder, "target", target_of_record(record));
    set(&builder, "target_tls", json_of_tls(record->target_tls));
    set_count(&builder, "attempts", record->attempts);
    set_milliseconds(&builder, "resolve_ms", record->resolve_time);
    set_milliseconds(&builder, "connect_ms", record->connect_time);
    set_milliseconds(&builder, "total_ms", record->total_time);
    set_count(&builder, "bytes_from_client", record->bytes_from_client);
    set_count(&builder, "bytes_from_target", record->bytes_from_target);
    set_text(&builder, "reason", record->reason);
    set_text(&builder, "ended_by", record->ended_by);
    set_text(&builder, "error", record->error);
    return finish(&builder);
}

// Returns whether the whole line was written.
static bool write_line(struct connection_log *log, const char *line, size_t length)
{
    ssize_t written;
    do
        written = write(log->fd, line, length);
    while (written < 0 && errno == EINTR);
    if (written > 0 && (size_t)written < length) {
        atomic_store_explicit(&log->is_torn, true, memory_order_relaxed);
        errno = ENOSPC;
    }
    return written == (ssize_t)length;
}

static void count_loss(struct connection_log *log, int os_errno)
{
    if (atomic_fetch_add_explicit(&log->lost, 1, memory_order_relaxed) > 0)
        return; // said already
    log_error(NULL, "connection log records are being lost", "path", log->path, "error", strerrordesc_np(os_errno),
              NULL);
}

static void report_recovery(struct connection_log *log)
{
    uint64_t lost = atomic_exchange_explicit(&log->lost, 0, memory_order_relaxed);
    char number[LOG_NUMBER_SIZE];
    if (lost > 0)
        log_warn(NULL, "the connection log is written again", "path", log->path, "lost",
                 log_number(number, (int64_t)lost), NULL);
}

// Room for one byte before the line, the newline that ends a torn one, and for its own behind it. Returns the line's
// length, 0 on failure; `*line` is `room`, or a longer one of the heap.
static size_t render(const json_t *object, char room[RECORD_BUFFER_SIZE], char **line)
{
    const size_t flags = JSON_COMPACT | JSON_REAL_PRECISION(15) | JSON_ENSURE_ASCII;
    size_t length = json_dumpb(object, room + 1, RECORD_BUFFER_SIZE - 2, flags);
    *line = room;
    if (length > RECORD_BUFFER_SIZE - 2) {
        *line = malloc(length + 2);
        if (*line == NULL)
            return 0;
        length = json_dumpb(object, *line + 1, length, flags);
    }
    (*line)[0] = '\n';
    (*line)[1 + length] = '\n';
    return length;
}

static void write_rendered(struct connection_log *log, const char *line, size_t length)
{
    bool was_torn = atomic_exchange_explicit(&log->is_torn, false, memory_order_relaxed);
    bool written = was_torn ? write_line(log, line, length + 2) : write_line(log, line + 1, length + 1);
    if (!written) {
        int os_errno = errno;
        if (was_torn)
            atomic_store_explicit(&log->is_torn, true, memory_order_relaxed);
        count_loss(log, os_errno);
    } else if (atomic_load_explicit(&log->lost, memory_order_relaxed) > 0) {
        report_recovery(log);
    }
}

void connection_log_write(struct connection_log *log, const struct connection_record *record)
{
    json_t *object = json_of_record(record);
    char room[RECORD_BUFFER_SIZE];
    char *line = room;
    size_t length = object == NULL ? 0 : render(object, room, &line);
    json_decref(object);
    if (length == 0)
        count_loss(log, ENOMEM);
    else
        write_rendered(log, line, length);
    if (line != room)
        free(line);
}
