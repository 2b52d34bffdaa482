// What to say beside libyaml's words, which are about YAML's grammar and not about what somebody wrote. Pure functions;
// any thread.

#ifndef BITFLOW_SRC_CONFIG_YAML_HINTS_H
#define BITFLOW_SRC_CONFIG_YAML_HINTS_H

#include <stddef.h>

#include "bitflow/config/diagnostics.h"

// Of a text that is not valid YAML at `mark`: what is likely to be wrong, to be put behind the message. "" if nothing
// is known. Nothing of the text is repeated.
const char *yaml_hint(const char *bytes, size_t length, struct yaml_mark mark);

#endif
