// The connection log's files: one JSON object a line. What is in them is made in proxy/connection/connection_record.c;
// docs/connection-log.schema.json describes it.
//
// A record is one write() to a descriptor opened with O_APPEND, so lines never mix, not even those of two proxies that
// share a file, or of another process. Nothing here ever waits: a file that takes nothing loses the record, which is
// counted and said in the application log. Logs are shared by path and reference count; any thread may write, without
// a lock: re-opening replaces the file behind the same descriptor (dup3).

#ifndef BITFLOW_TELEMETRY_CONNECTION_LOG_H
#define BITFLOW_TELEMETRY_CONNECTION_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/telemetry/json_line.h"

struct connection_log;

// The log at `path`, opened or created (mode 0640), or one more reference if it is open already.
struct connection_log *connection_log_open(const char *path, struct error *error);

// Gives a reference back and nulls the pointer. Accepts NULL.
void connection_log_close(struct connection_log **log);

// A line without text is lost, and counted.
void connection_log_write(struct connection_log *log, const struct json_line *line);

// Opens every log's path anew, as after a rotation. Where that fails the old file stays in use and the application log
// says so. Returns false if any failed.
bool connection_log_reopen_all(void);

// How many records no log has taken, of all logs since the start.
uint64_t connection_log_lost(void);

#endif
