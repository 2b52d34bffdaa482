// Reads a YAML tree into structs, as the schema says. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_BIND_H
#define BITFLOW_SRC_CONFIG_BIND_H

#include "bitflow/config/config.h"
#include "bitflow/config/problem.h"
#include "bitflow/config/region.h"

// Fills `config` from the document, with the defaults for what it leaves out. What the structs point to is taken from
// `region`. Problems are added to the list, the values that have one keep their default. Out of memory shows in the
// region.
void bind_config(const struct place *root, struct config *config, struct region *region, struct problem_list *problems);

#endif
