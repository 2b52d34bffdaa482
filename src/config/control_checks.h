// What must hold for the control socket besides each key's row. One thread at a time.

#ifndef BITFLOW_SRC_CONFIG_CONTROL_CHECKS_H
#define BITFLOW_SRC_CONFIG_CONTROL_CHECKS_H

#include "bitflow/config/config.h"
#include "config_path.h"

// `config` is what has been read from the document at `root`, perhaps with errors already.
void check_control(const struct config_path *root, const struct config *config, struct diagnostics *diagnostics);

#endif
