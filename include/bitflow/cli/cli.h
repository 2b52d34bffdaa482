// The commands that talk to a running bitflow, through its control socket: `bitflow control ...`, `bitflow health`.
// docs/control.md has them.

#ifndef BITFLOW_CLI_CLI_H
#define BITFLOW_CLI_CLI_H

#include <stdbool.h>

// Whether the program's first argument names one.
bool cli_is_command(const char *word);

// Returns the exit status: 0 done, 1 refused, failed, or nobody answers, 2 wrong usage.
int cli_run(int argc, char **argv);

#endif
