// What a configuration says without any effect: no mistake that would keep it from being used, but hardly what its
// author meant. Any thread.

#ifndef BITFLOW_CONFIG_WARNINGS_H
#define BITFLOW_CONFIG_WARNINGS_H

#include "bitflow/config/config.h"

// Calls `warn` for each, in no particular order, with a line "FILE:LINE:COL: warning: key.path: what is odd", which is
// valid during the call. `file` is the name that the configuration was loaded by.
void config_warn(const char *file, const struct config *config, void (*warn)(void *argument, const char *line),
                 void *argument);

#endif
