#include "bitflow/base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#include "bitflow/base/clock.h"
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
