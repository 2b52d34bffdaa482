// The processes that can be asked: the one that serves has the control socket, and each one that it has taken over from
// and that still drains has a socket beside it, path.PID.

#ifndef BITFLOW_SRC_CLI_CONTROL_PROCESSES_H
#define BITFLOW_SRC_CLI_CONTROL_PROCESSES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"

// Makes of the control socket's address that of process `pid`, which drains. ERROR_INVALID: there is none beside it.
bool control_process_address(struct address *address, int64_t pid, struct error *error);

// What /process says of each that answers, with its socket: {"processes": [...]}, the one at `address` first, then by
// their pids. `timeout`: of each. A file that is left of a process that has gone is passed over; of one that does not
// answer otherwise, `error` says why. NULL: none is there, and the error says why the one at `address` does not.
json_t *control_list_processes(const struct address *address, int64_t timeout, struct error *error);

#endif
