// The connection log's files: one JSON object a line. What is in them is made in proxy/connection/connection_record.c;
// docs/connection-log.schema.json describes it.
//
// Records that are rare are written as they come; of many that come together, a few dozen go into one write(), 50 ms
// after they came at the latest (telemetry/line_writer.h). Their order is that of the calls, also where two proxies
// share a file. A write() has whole lines only and goes to a descriptor opened with O_APPEND, so they do not mix with
// another process's either. A file that takes nothing loses the record, which is counted and said in the application
// log; nothing waits for it. A crash of the process writes what is gathered; only what ends it without a word, SIGKILL
// for one, loses that.
//
// The paths `stdout` and `stderr` are the descriptors of these names, as they are: nothing is opened, nor re-opened.
//
// Logs are shared by path and reference count; any thread may write. Re-opening replaces the file behind the same
// descriptor (dup3), once what was gathered has gone to the old one.

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

// Writes what is gathered, gives a reference back and nulls the pointer. Accepts NULL.
void connection_log_close(struct connection_log **log);

// A line without text is lost, and counted.
void connection_log_write(struct connection_log *log, const struct json_line *line);

// Opens the path of every log that is a file anew, as after a rotation.
// Where that fails the old file stays in use and the application log
// says so. Returns false if any failed.
bool connection_log_reopen_all(void);

// Writes what is gathered, of all logs that are open, and every later record as it comes: before the process ends.
void connection_log_write_through_all(void);

// How many records no log has taken, of all logs since the start.
uint64_t connection_log_lost(void);

#endif
