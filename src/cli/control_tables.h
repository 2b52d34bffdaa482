// Answers of the control socket as people read them, on stdout. What peers may have chosen has no control characters
// when it is printed.

#ifndef BITFLOW_SRC_CLI_CONTROL_TABLES_H
#define BITFLOW_SRC_CLI_CONTROL_TABLES_H

#include <jansson.h>
#include <stdbool.h>

// `list`: the array of connections, of proxies, of processes. False: no memory, or not what was expected.
bool control_print_connections(const json_t *list);
bool control_print_proxies(const json_t *list);
bool control_print_processes(const json_t *list);

// Any value, as YAML.
bool control_print_yaml(const json_t *value);

#endif
