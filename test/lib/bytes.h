// Bytes that a test puts one behind the other.

#ifndef BITFLOW_TEST_BYTES_H
#define BITFLOW_TEST_BYTES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct bytes {
    uint8_t at[80 * 1024];
    size_t length;
};

void put(struct bytes *bytes, const void *from, size_t length);

void put_hex(struct bytes *bytes, const char *hex);

#endif
