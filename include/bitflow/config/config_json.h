// A configuration as it is in force, as JSON with the keys of the file: defaults are filled in, keys without one that
// were left out are left out, and of what is secret there is only that it is there. Any thread.

#ifndef BITFLOW_CONFIG_CONFIG_JSON_H
#define BITFLOW_CONFIG_CONFIG_JSON_H

#include <jansson.h>

#include "bitflow/config/config.h"

// NULL: no memory.
json_t *config_json(const struct config *config);

#endif
