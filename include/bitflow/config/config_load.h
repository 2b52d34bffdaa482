// Reads a YAML file (libyaml) into a snapshot. All validation is here; nothing is bound, resolved or connected.
// Every problem found is reported, not only the first.

#ifndef BITFLOW_CONFIG_CONFIG_LOAD_H
#define BITFLOW_CONFIG_CONFIG_LOAD_H

#include <stdbool.h>
#include <stddef.h>

#include "bitflow/config/config.h"

// What is wrong with a configuration: lines "FILE:LINE:COL: key.path: what is wrong" in the file's order; without the
// position where it is about the whole file, without the key path where it is about YAML. Line and column count from 1.
// Passwords and keys are never in it. At most CONFIG_PROBLEMS_MAX are kept; `count` counts all of them.
#define CONFIG_PROBLEMS_MAX 100

struct config_problems {
    size_t count;
    size_t kept;
    char *lines[CONFIG_PROBLEMS_MAX]; // owned
};

void config_problems_init(struct config_problems *problems);
void config_problems_release(struct config_problems *problems);

// A snapshot with one reference, the caller's; or NULL with at least one problem. `problems` is initialized and empty.
const struct config *config_load(const char *path, struct config_problems *problems);

// The same from memory; `name` stands for the file in the problems. The text is only read.
const struct config *config_load_text(const char *name, const char *bytes, size_t length,
                                      struct config_problems *problems);

#endif
