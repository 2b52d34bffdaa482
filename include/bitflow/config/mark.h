// A position in a configuration file. A plain value.

#ifndef BITFLOW_CONFIG_MARK_H
#define BITFLOW_CONFIG_MARK_H

#include <stddef.h>

struct yaml_mark {
    size_t line;   // from 1; 0: none
    size_t column; // from 1, in characters
};

#endif
