// What makes the process readable in gdb: the scripts of src/gdb, which are kept in the program, and the place in
// memory from where they find everything. docs/debugging.md shows their commands. The main thread only.

#ifndef BITFLOW_SRC_SERVER_DEBUGGER_H
#define BITFLOW_SRC_SERVER_DEBUGGER_H

#include "bitflow/proxy/proxy.h"
#include "listeners.h"

// Both are borrowed for as long as the process runs.
void debugger_set_process(const struct runtime *runtime, const struct listeners *listeners);

#endif
