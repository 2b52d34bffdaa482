// The last lines of the log, kept for the report of an error that may follow. Two rings, so that the ends of busy
// proxies' connections, which are most lines, do not drive out the few others.
//
// Any thread adds, any thread collects; nobody waits: a slot that another thread is at is passed over, and that line is
// not kept. It may lie in memory that is shared with the process that reports a crash.

#ifndef BITFLOW_SENTRY_SENTRY_CRUMBS_H
#define BITFLOW_SENTRY_SENTRY_CRUMBS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "bitflow/sentry/sentry_line.h"

#define SENTRY_CRUMB_TEXT 424     // bytes
#define SENTRY_CRUMBS_MAX 50      // that a report has
#define SENTRY_CRUMB_RING_SIZE 64 // lines, a power of two

struct sentry_crumb {
    struct sentry_line line; // its length is 0: empty
    char text[SENTRY_CRUMB_TEXT];
};

struct sentry_crumb_slot {
    _Atomic bool is_taken;
    struct sentry_crumb crumb; // of who has taken it
};

struct sentry_crumb_ring {
    _Atomic unsigned next;
    struct sentry_crumb_slot slots[SENTRY_CRUMB_RING_SIZE];
};

// All zero: empty.
struct sentry_crumbs {
    struct sentry_crumb_ring ends; // lines of connections at level info
    struct sentry_crumb_ring rest;
};

void sentry_crumbs_add(struct sentry_crumbs *crumbs, const struct log_event *event);

// At most SENTRY_CRUMBS_MAX, oldest first: those of the connection (0: none) and of the process before those of others,
// new ones before old ones. Returns their number.
size_t sentry_crumbs_collect(struct sentry_crumbs *crumbs, uint64_t connection,
                             struct sentry_crumb out[SENTRY_CRUMBS_MAX]);

#endif
