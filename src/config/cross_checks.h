// The rules that no single key's row can state: what must hold between keys, which is an error, and keys that mean
// nothing without another, which is a warning. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_CROSS_CHECKS_H
#define BITFLOW_SRC_CONFIG_CROSS_CHECKS_H

#include "bitflow/config/config.h"
#include "config_path.h"

// `config` is what bind_config() read from the document at `root`, perhaps with errors already.
void check_across_keys(const struct config_path *root, const struct config *config, struct diagnostics *diagnostics);

#endif
