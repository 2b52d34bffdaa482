// The connection log's files: one JSON object a line. What is in them is made in proxy/connection/connection_record.c;
// docs/connection-log.schema.json describes it.
//
// A record is one write() to a descriptor opened with O_APPEND, so lines never mix, not even those of two proxies that
// share a file, or of another process. Nothing here ever waits: a file that takes nothing loses the record, which is
// counted and said in the application log. Logs are shared by path and reference count; any thread may write, without
// a lock: re-opening replaces the file behind the same descriptor (dup3).

#ifndef BITFLOW_TELEMETRY_CONNECTION_LOG_H
#define BITFLOW_TELEMETRY_CONNECTION_LOG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"

// A record as a line that is ready to be written. A record is bounded by the lengths of its parts; the buffer holds all
// but those of long certificates' names, which go to the heap.
#define CONNECTION_LINE_SIZE 4096
struct connection_line {
    char *text; // a newline, the object, a newline; NULL: no memory was left for it
    size_t length;
    char buffer[CONNECTION_LINE_SIZE];
};

// Takes over a reference to the record; NULL: there was no memory for it.
void connection_line_init(struct connection_line *line, json_t *record);
void connection_line_release(struct connection_line *line);

struct connection_log;

// The log at `path`, opened or created (mode 0640), or one more reference if it is open already.
struct connection_log *connection_log_open(const char *path, struct error *error);

// Gives a reference back and nulls the pointer. Accepts NULL.
void connection_log_close(struct connection_log **log);

// A line without text is lost, and counted.
void connection_log_write(struct connection_log *log, const struct connection_line *line);

// Opens every log's path anew, as after a rotation. Where that fails the old file stays in use and the application log
// says so. Returns false if any failed.
bool connection_log_reopen_all(void);

// How many records no log has taken, of all logs since the start.
uint64_t connection_log_lost(void);

#endif
