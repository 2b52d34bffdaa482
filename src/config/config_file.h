// Reads the configuration's bytes: from a regular file, or from a pipe that another program writes
// (`--config <(generate)`, /dev/stdin, a named pipe). Bounded, since it also happens on the thread that answers
// signals. Any thread.

#ifndef BITFLOW_SRC_CONFIG_CONFIG_FILE_H
#define BITFLOW_SRC_CONFIG_CONFIG_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "bitflow/base/error.h"

#define CONFIG_FILE_TIMEOUT_S 5 // for all that comes through a pipe

// Reads to the end, or until `buffer` is full. On failure the buffer may hold what came so far. ERROR_TIMEOUT,
// ERROR_INVALID (a device), ERROR_NO_*, ERROR_SYSTEM.
bool config_file_read(const char *path, char *buffer, size_t size, size_t *length, struct error *error);

#endif
