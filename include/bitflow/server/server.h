// The process from its start to its end: opens what the configuration names, waits for signals (base/signals.h),
// reloads on SIGHUP, re-opens logs on SIGUSR1, drains on SIGTERM, SIGINT and SIGQUIT. The main thread's, after
// signals_init().

#ifndef BITFLOW_SERVER_SERVER_H
#define BITFLOW_SERVER_SERVER_H

#include "bitflow/base/error.h"
#include "bitflow/server/loaded_config.h"

// Runs until the process is told to end, or has nothing left to do; `path` is what `loaded` came from, and is read
// again on SIGHUP. Logs the warnings and takes the configuration; `loaded` is still the caller's to release. False: the
// start failed and nothing was served, or every listener has failed since.
bool server_run(const char *path, struct loaded_config *loaded, struct error *error);

#endif
