// The program as this process was started: where it is, and with which arguments; and how it is started again. The main
// thread's.

#ifndef BITFLOW_SRC_SERVER_PROGRAM_H
#define BITFLOW_SRC_SERVER_PROGRAM_H

#include <sys/types.h>

#include "bitflow/base/error.h"
#include "bitflow/net/inherited.h"

// By main(), before the working directory could change; `arguments` are kept. The path is that by which the program was
// found, a symbolic link unresolved: whoever replaces it means what is there next time.
void program_remember(char *const *arguments);

const char *program_path(void);

// What the next one is given beside what every child inherits.
struct program_gifts {
    char *variable; // NAME=VALUE, for its environment
    int channel;
    struct inherited_sockets sockets; // by their numbers
};

// Starts it as a child, with the calling thread's signal mask.
bool program_start(const struct program_gifts *gifts, pid_t *child, struct error *error);

// Becomes it: the same process. Returns only if that fails, with all as it was.
void program_become(const struct program_gifts *gifts, struct error *error);

#endif
