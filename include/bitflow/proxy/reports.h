// Periodic records of connections that live long. A thread of its own renders and writes them, one connection after the
// other, so the threads that move bytes do nothing for it.
//
// Connections of one configuration have the same interval, so each configuration has a queue (struct report_queue, in
// its struct generation), in the order in which its connections are due; adding, taking and removing take no search.
// The lock is not held while a record is rendered or written. Instead the entry says what is done with it:
//   - rendering: the connection's memory and sockets are looked at. reports_remove() waits for that, microseconds.
//   - writing: only the line is used, and the log. reports_settle() waits for that, so that the record of the end comes
//     after all others. It is called when the sockets are closed: a slow disk delays nobody's end of stream.
// What is rendered must have been set before reports_add(), or be atomic. Any thread; one lock inside.

#ifndef BITFLOW_PROXY_REPORTS_H
#define BITFLOW_PROXY_REPORTS_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/telemetry/connection_log.h"

enum report_state { REPORT_WAITS, REPORT_IS_RENDERED, REPORT_IS_WRITTEN };

struct report_queue;

// Embedded in a connection; zero until reports_add(). The fields belong to the reports.
struct report_entry {
    struct report_entry *previous, *next;
    struct report_queue *queue; // NULL: not added
    int64_t due;                // CLOCK_MONOTONIC
    enum report_state state;
};

// Of the connections with one configuration. Outlives them; the fields but `interval` belong to the reports.
struct report_queue {
    struct report_queue *next;
    struct report_entry *first, *last;
    int64_t interval; // ns, above 0
};

// What is done with an entry that is due, without the lock, by the thread of the reports.
struct report_actions {
    void (*render)(struct report_entry *entry, struct connection_line *line);
    void (*write)(struct report_entry *entry, const struct connection_line *line);
};

struct reports;

struct reports *reports_create(const struct report_actions *actions, struct error *error);

// Stops the thread. There must be no entries any more. Accepts NULL.
void reports_destroy(struct reports **reports);

// Starts the thread, if it isn't running yet. ERROR_NO_THREADS. Called where an interval is configured, so that a
// process without any has no such thread.
bool reports_start(struct reports *reports, struct error *error);

// From now on it is reported every `queue->interval`, for the first time when one has passed.
void reports_add(struct reports *reports, struct report_queue *queue, struct report_entry *entry);

// No report is begun from now on, and none looks at the connection any more. An entry that was not added costs nothing.
void reports_remove(struct reports *reports, struct report_entry *entry);

// After reports_remove(): all that was reported is written.
void reports_settle(struct reports *reports, struct report_entry *entry);

#endif
