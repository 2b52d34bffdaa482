// Reads a YAML tree into structs, as the schema says. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_BIND_H
#define BITFLOW_SRC_CONFIG_BIND_H

#include "arena.h"
#include "bitflow/config/config.h"
#include "config_path.h"

// Fills `config` from the document, with the defaults for what it leaves out. What the structs point to is taken from
// `arena`. Problems are added to the list, the values that have one keep their default. Out of memory shows in the
// arena.
void bind_config(const struct config_path *root, struct config *config, struct arena *arena,
                 struct diagnostics *diagnostics);

#endif
