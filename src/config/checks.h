// The rules that no single key's row can state. `config` is what bind_config() read from the document at `root`,
// perhaps with problems already. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_CHECKS_H
#define BITFLOW_SRC_CONFIG_CHECKS_H

#include "bitflow/config/config.h"
#include "bitflow/config/problem.h"

// What must hold between keys: unique names and addresses, certificates with their keys, and the like.
void check_across_keys(const struct place *root, const struct config *config, struct problem_list *problems);

#endif
