// One line of the log as it is kept for Sentry: its strings packed one behind the other, in a bounded room. It has no
// pointers, so that it can lie in memory that another process reads. Any thread; no locks.

#ifndef BITFLOW_SRC_SENTRY_LINE_H
#define BITFLOW_SRC_SENTRY_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/log.h"

struct sentry_line {
    int64_t wall; // ns
    uint64_t connection;
    uint32_t level;  // enum log_level
    uint32_t length; // of the text: message, proxy (empty: none), then keys and values, each ended by a zero byte
};

// The text goes to `room`, which has `size` bytes. A value that does not fit is cut, what comes behind it left out.
void sentry_line_pack(const struct log_event *event, struct sentry_line *line, char *room, size_t size);

// The string at `*at`, and `*at` moves on to the next; NULL: there is none.
const char *sentry_line_next(const char **at, const char *end);

const char *sentry_line_message(const struct sentry_line *line, const char *text);
const char *sentry_line_proxy(const struct sentry_line *line, const char *text); // NULL: none
// Iterates over the fields: `*at` begins as sentry_line_fields() says. False: no more of them.
const char *sentry_line_fields(const struct sentry_line *line, const char *text);
bool sentry_line_next_field(const struct sentry_line *line, const char *text, const char **at, struct log_field *field);
// NULL: it has no such field.
const char *sentry_line_field(const struct sentry_line *line, const char *text, const char *key);

#endif
