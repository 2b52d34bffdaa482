#include "bitflow/base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/output.h"
#include "log_internal.h"

static _Atomic(enum log_level) threshold = LOG_OFF;
static _Atomic(enum log_level) observed = LOG_OFF;
static _Atomic(void (*)(const struct log_event *)) observer;

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&threshold, level, memory_order_relaxed);
}

bool log_is_written(enum log_level level)
{
    return level >= atomic_load_explicit(&threshold, memory_order_relaxed);
}

static bool is_observed(enum log_level level)
{
    return level >= atomic_load_explicit(&observed, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return log_is_written(level) || is_observed(level);
}

void log_set_observer(enum log_level level, void (*observe)(const struct log_event *event))
{
    atomic_store_explicit(&observer, observe, memory_order_release);
    atomic_store_explicit(&observed, observe == NULL ? LOG_OFF : level, memory_order_relaxed);
}

const char *log_level_name(enum log_level level)
{
    static const char *const names[] = {"debug", "info", "warn", "error", "off"};
    return names[level];
}

const char *log_number(char out[LOG_NUMBER_SIZE], int64_t number)
{
    (void)snprintf(out, LOG_NUMBER_SIZE, "%" PRId64, number);
    return out;
}

// ---- the output: one write() a line, which never waits

static struct mutex output_lock = MUTEX_INIT;
static struct output output GUARDED_BY(output_lock) = {.fd = STDERR_FILENO, .may_wait = true};
static bool is_torn GUARDED_BY(output_lock); // the last line was cut short: the next one begins on a line of its own
static uint64_t dropped GUARDED_BY(output_lock); // since it was last reported
static _Atomic uint64_t dropped_ever;

void log_set_descriptor(int fd)
{
    struct output next;
    output_init(&next, fd);
    mutex_lock(&output_lock);
    output_release(&output);
    output = next;
    is_torn = false;
    mutex_unlock(&output_lock);
}

static bool write_out(const struct log_line *line) REQUIRES(output_lock)
{
    if (is_torn && output_write(&output, "\n", 1) != 1)
        return false;
    is_torn = false;
    ssize_t written = output_write(&output, line->text, line->length);
    is_torn = written > 0 && (size_t)written < line->length;
    return written >= 0 && !is_torn;
}

// One that has taken all so far, and would not wait, need not be asked.
static bool takes_something(void) REQUIRES(output_lock)
{
    return (!output.may_wait && dropped == 0) || output_is_ready(&output);
}

static void report_dropped(int64_t wall) REQUIRES(output_lock)
{
    struct log_line line;
    char number[LOG_NUMBER_SIZE];
    const struct log_field count = {.key = "count", .value = log_number(number, (int64_t)dropped)};
    const struct log_event event = {
        .level = LOG_WARN, .wall = wall, .message = "log lines dropped", .fields = &count, .field_count = 1};
    log_render(&line, &event);
    if (write_out(&line))
        dropped = 0;
}

static void count_dropped(void) REQUIRES(output_lock)
{
    dropped++;
    atomic_fetch_add_explicit(&dropped_ever, 1, memory_order_relaxed);
}

uint64_t log_dropped(void)
{
    return atomic_load_explicit(&dropped_ever, memory_order_relaxed);
}

void log_output(const struct log_event *event)
{
    struct log_line line;
    log_render(&line, event);
    mutex_lock(&output_lock);
    if (takes_something()) {
        if (dropped > 0)
            report_dropped(event->wall);
        if (!write_out(&line))
            count_dropped();
    } else {
        count_dropped();
    }
    mutex_unlock(&output_lock);
}

// ---- the lines that come in

static size_t gather_fields(struct log_field fields[LOG_FIELDS_MAX], va_list pairs)
{
    size_t count = 0;
    for (const char *key; count < LOG_FIELDS_MAX && (key = va_arg(pairs, const char *)) != NULL;) {
        const char *value = va_arg(pairs, const char *);
        if (value != NULL)
            fields[count++] = (struct log_field){.key = key, .value = value};
    }
    return count;
}

void log_write(enum log_level level, const struct log_context *context, const char *message, ...)
{
    struct log_field fields[LOG_FIELDS_MAX];
    va_list pairs;
    va_start(pairs, message);
    size_t field_count = gather_fields(fields, pairs);
    va_end(pairs);
    const struct log_event event = {
        .level = level,
        .wall = clock_wall(),
        .proxy = context == NULL ? NULL : context->proxy,
        .connection = context == NULL ? 0 : context->connection,
        .message = message,
        .fields = fields,
        .field_count = field_count,
    };
    void (*observe)(const struct log_event *event) = atomic_load_explicit(&observer, memory_order_acquire);
    if (is_observed(level) && observe != NULL)
        observe(&event);
    if (log_is_written(level) && log_repeats_admit(&event))
        log_output(&event);
}
