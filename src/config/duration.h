// Durations as the configuration writes them: numbers with units, 1h2m3.5s or 250ms, from ns us ms s m h; a bare number
// is seconds. In ns, never negative here. Plain values; any thread.

#ifndef BITFLOW_SRC_CONFIG_DURATION_H
#define BITFLOW_SRC_CONFIG_DURATION_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"

// ERROR_INVALID. Digits below 1 ns are cut, but what is more than nothing never becomes 0, which would mean "none".
bool duration_parse(const char *text, int64_t *duration, struct error *error);

#define DURATION_TEXT_SIZE 48
// In the form that duration_parse() reads: 1h2m3.5s, 250ms, 0. Not for negative ones.
void duration_format(int64_t duration, char out[DURATION_TEXT_SIZE]);

#endif
