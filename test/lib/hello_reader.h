// A stream that is followed for its ServerHello, for the unit test and the fuzzer of it.

#ifndef BITFLOW_TEST_HELLO_READER_H
#define BITFLOW_TEST_HELLO_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/wire/record_follower.h"

// All zeros at the beginning.
struct hello_reader {
    struct record_follower records;
    struct server_hello hello;
};

// Whether it is not refused.
static inline bool hello_reader_take(struct hello_reader *reader, const uint8_t *bytes, size_t length)
{
    record_follower_take(&reader->records, &reader->hello, NULL, bytes, length);
    return !reader->hello.is_refused;
}

#endif
