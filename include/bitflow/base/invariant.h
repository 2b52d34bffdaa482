// Assertions that releases keep: a session or a connection that has lost track of itself stops the process, with a line
// on stderr that says where, rather than go on. Any thread.

#ifndef BITFLOW_BASE_INVARIANT_H
#define BITFLOW_BASE_INVARIANT_H

#include <stdnoreturn.h>

#define INVARIANT(condition) ((condition) ? (void)0 : invariant_broken(#condition, __FILE__, __LINE__))

noreturn void invariant_broken(const char *condition, const char *file, int line) __attribute__((cold));

#endif
