// Periodic records of connections that live long. A thread of its own renders and writes them, one connection after the
// other, so the threads that move bytes do nothing for it.
//
// Connections of one configuration have the same interval, so each configuration has a queue (struct periodic_queue, in
// its struct generation), in the order in which its connections are due; adding, taking and removing take no search.
// The lock is not held while a record is rendered or written. Instead the entry says what is done with it:
//   - rendering: the connection's memory and sockets are looked at. periodic_records_remove() waits for that,
//     microseconds.
//   - writing: only the line is used, and the log. periodic_records_settle() waits for that, so that the record of the
//     end comes after all others. It is called when the sockets are closed: a slow disk delays nobody's end of stream.
// What is rendered must have been set before periodic_records_add(), or be atomic. Any thread; one lock inside.

#ifndef BITFLOW_PROXY_PERIODIC_RECORDS_H
#define BITFLOW_PROXY_PERIODIC_RECORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/telemetry/connection_log.h"

enum periodic_state { PERIODIC_WAITS, PERIODIC_IS_RENDERED, PERIODIC_IS_WRITTEN };

struct periodic_queue;

// Embedded in a connection; zero until periodic_records_add(). The fields belong to the records.
struct periodic_record {
    struct periodic_record *previous, *next;
    struct periodic_queue *queue; // NULL: not added
    int64_t due;                  // CLOCK_MONOTONIC
    enum periodic_state state;
};

// Of the connections with one configuration. Outlives them; the fields but `interval` belong to the records.
struct periodic_queue {
    struct periodic_queue *next;
    struct periodic_record *first, *last;
    int64_t interval; // ns, above 0
};

// What is done with an entry that is due, without the lock, by the thread of the records.
struct periodic_actions {
    void (*render)(struct periodic_record *entry, struct json_line *line);
    void (*write)(struct periodic_record *entry, const struct json_line *line);
};

struct periodic_records;

struct periodic_records *periodic_records_create(const struct periodic_actions *actions, struct error *error);

// Stops the thread. There must be no entries any more. Accepts NULL.
void periodic_records_destroy(struct periodic_records **records);

// Starts the thread, if it isn't running yet. ERROR_NO_THREADS. Called where an interval is configured, so that a
// process without any has no such thread.
bool periodic_records_start(struct periodic_records *records, struct error *error);

// From now on it is reported every `queue->interval`, for the first time when one has passed.
void periodic_records_add(struct periodic_records *records, struct periodic_queue *queue,
                          struct periodic_record *entry);

// No report is begun from now on, and none looks at the connection any more. An entry that was not added costs nothing.
void periodic_records_remove(struct periodic_records *records, struct periodic_record *entry);

// After periodic_records_remove(): all that was reported is written.
void periodic_records_settle(struct periodic_records *records, struct periodic_record *entry);

#endif
