// Bytes written as hexadecimal text, blanks allowed.

#ifndef BITFLOW_TEST_HEX_H
#define BITFLOW_TEST_HEX_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Returns how many bytes; those beyond `size` are cut.
size_t from_hex(const char *hex, uint8_t *out, size_t size);

#endif
