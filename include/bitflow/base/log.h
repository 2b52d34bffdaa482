// The application log: one line per event on stderr, logfmt or JSON,
//   ts=2026-11-23T15:54:05.123Z level=info msg="..." proxy=web conn=42 key=value
//   {"ts":"2026-11-23T15:54:05.123Z","level":"info","msg":"...","proxy":"web","conn":42,"key":"value"}
// Who speaks is put in by the call: a `struct log_context` names the proxy and the connection (NULL: the process).
// Any thread. A line is one write of at most LOG_LINE_MAX bytes; a mutex keeps lines whole. A reader of stderr that
// does not read never blocks the proxy: what a full pipe does not take is dropped, and counted in the next line.
//
// Of the lines from LOG_WARN up that say the same, LOG_REPEATS_MAX are written in each window of LOG_REPEATS_WINDOW;
// how many more there were is said in one line at its end, as the field `more`. Two lines of connections say the same
// if they agree in level, message, proxy and the fields `target` and `reason`; two others, if all their fields agree.

#ifndef BITFLOW_BASE_LOG_H
#define BITFLOW_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/compiler.h"

#define LOG_LINE_MAX 2048
#define LOG_SENTINEL __attribute__((sentinel))

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };

struct log_context {
    const char *proxy;   // borrowed for the call; NULL: none
    uint64_t connection; // 0: none
};

#define LOG_FIELDS_MAX 24
struct log_field {
    const char *key; // a constant
    const char *value;
};

// One line of the log, before it is rendered. Borrowed for the call.
struct log_event {
    enum log_level level;
    int64_t wall;        // ns, wall clock
    const char *proxy;   // NULL: none
    uint64_t connection; // 0: none
    const char *message;
    const struct log_field *fields;
    size_t field_count; // at most LOG_FIELDS_MAX
};

// LOG_OFF until set. May be changed at any time.
void log_set_level(enum log_level level);

enum log_format { LOG_LOGFMT, LOG_JSON };
// LOG_LOGFMT until set. May be changed at any time.
void log_set_format(enum log_format format);

const char *log_level_name(enum log_level level);

// `observe` sees every line from `level` up, whatever the log's own level is, on the thread that logs, and before
// repeats are left out. It must neither block nor log. NULL: none; a call that is under way then goes on. Set by one
// thread.
void log_set_observer(enum log_level level, void (*observe)(const struct log_event *event));

// Whether the log or its observer wants such lines.
bool log_enabled(enum log_level level);

// Where lines go from now on. Called with stderr before the first line: it sees to it that no write blocks. The
// descriptor stays the caller's, and as it is.
void log_set_descriptor(int fd);

// How many lines it has not taken, since the start.
uint64_t log_dropped(void);

// `message` is a constant as a rule; what varies follows as pairs of strings, key and value, ended by NULL:
//   log_warn(&context, "cannot connect", "target", name, "error", error.text, NULL);
// A pair whose value is NULL is left out, and so is what is beyond LOG_FIELDS_MAX. Values are quoted and escaped where
// they need to be, so that nothing a peer sent can forge a line or a field.
void log_write(enum log_level level, const struct log_context *context, const char *message, ...) LOG_SENTINEL;

#define LOG_REPEATS_MAX 10
#define LOG_REPEATS_WINDOW (INT64_C(1000) * 1000 * 1000) // ns

// Writes what is to be said of windows that are over; of all, with `now`. Returns when it is next worth a call
// (base/clock.h), DEADLINE_NONE: when a line is left out.
int64_t log_flush_repeats(bool now);

// `notice` (NULL: none) is called when the first line is left out after log_flush_repeats() has said that there is
// nothing: somebody is to call it again. On the thread that logs; it must neither block nor log. Set by one thread,
// before there are others.
void log_set_repeats_notice(void (*notice)(void));

#define LOG_NUMBER_SIZE 24
// A number as a value: formats into `out` and returns it.
const char *log_number(char out[LOG_NUMBER_SIZE], int64_t number);

#define log_at(level, context, ...)                 \
    do {                                            \
        if (log_enabled(level))                     \
            log_write(level, context, __VA_ARGS__); \
    } while (0)
#define log_debug(context, ...) log_at(LOG_DEBUG, context, __VA_ARGS__)
#define log_info(context, ...) log_at(LOG_INFO, context, __VA_ARGS__)
#define log_warn(context, ...) log_at(LOG_WARN, context, __VA_ARGS__)
#define log_error(context, ...) log_at(LOG_ERROR, context, __VA_ARGS__)

#endif
