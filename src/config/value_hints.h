// Values that are right as they stand, and hardly what their author meant: a number of seconds that looks like
// milliseconds, a variable that nothing expands, white space at the end of a path. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_VALUE_HINTS_H
#define BITFLOW_SRC_CONFIG_VALUE_HINTS_H

#include <stdbool.h>

#include "config_path.h"
#include "schema.h"

// Warns of the value at `path`, a scalar or a list of them, which is the row's. It may have been refused. What is in a
// secret is not repeated.
void hint_at_value(const struct schema_row *row, const struct config_path *path, struct diagnostics *diagnostics);

// Whether a path or an address has something in it that a shell would have expanded.
bool hint_has_variable(const char *place);

#endif
