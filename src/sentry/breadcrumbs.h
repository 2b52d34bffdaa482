// The last lines of the log, kept for the report of an error that may follow. Two rings, so that the ends of busy
// proxies' connections, which are most lines, do not drive out the few others.
//
// Any thread adds, any thread collects; nobody waits: a slot that another thread is at is passed over, and that line is
// not kept. It may lie in memory that is shared with the process that reports a crash.

#ifndef BITFLOW_SRC_SENTRY_BREADCRUMBS_H
#define BITFLOW_SRC_SENTRY_BREADCRUMBS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/log.h"

// One line as it is kept: its strings packed one behind the other, in a bounded room. Without pointers, so that it can
// lie in memory that another process reads.
struct sentry_line {
    int64_t wall; // ns
    uint64_t connection;
    uint32_t level;  // enum log_level
    uint32_t length; // of the text: message, proxy (empty: none), then keys and values, each ended by a zero byte
};

// The text goes to `room`, which has `size` bytes. A value that does not fit is cut, what comes behind it left out.
void sentry_line_pack(const struct log_event *event, struct sentry_line *line, char *room, size_t size);

const char *sentry_line_message(const struct sentry_line *line, const char *text);
const char *sentry_line_proxy(const struct sentry_line *line, const char *text); // NULL: none
// Iterates over the fields: `*at` begins as sentry_line_fields() says. False: no more of them.
const char *sentry_line_fields(const struct sentry_line *line, const char *text);
bool sentry_line_next_field(const struct sentry_line *line, const char *text, const char **at, struct log_field *field);
// NULL: it has no such field.
const char *sentry_line_field(const struct sentry_line *line, const char *text, const char *key);

#define SENTRY_BREADCRUMB_TEXT 424     // bytes
#define SENTRY_BREADCRUMBS_MAX 50      // that a report has
#define SENTRY_BREADCRUMB_RING_SIZE 64 // lines, a power of two

struct sentry_breadcrumb {
    struct sentry_line line; // its length is 0: empty
    char text[SENTRY_BREADCRUMB_TEXT];
};

struct sentry_breadcrumb_slot {
    _Atomic bool is_taken;
    struct sentry_breadcrumb breadcrumb; // of who has taken it
};

struct sentry_breadcrumb_ring {
    _Atomic unsigned next;
    struct sentry_breadcrumb_slot slots[SENTRY_BREADCRUMB_RING_SIZE];
};

// All zero: empty.
struct sentry_breadcrumbs {
    struct sentry_breadcrumb_ring ends; // lines of connections at level info
    struct sentry_breadcrumb_ring rest;
};

void sentry_breadcrumbs_add(struct sentry_breadcrumbs *breadcrumbs, const struct log_event *event);

// At most SENTRY_BREADCRUMBS_MAX, oldest first: those of the connection (0: none) and of the process are chosen before
// those of others, new ones before old ones. Returns their number.
size_t sentry_breadcrumbs_collect(struct sentry_breadcrumbs *breadcrumbs, uint64_t connection,
                                  struct sentry_breadcrumb out[SENTRY_BREADCRUMBS_MAX]);

#endif
