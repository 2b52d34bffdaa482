// A stream that is followed for what its ClientHello says of early data, for the unit test and the fuzzer of it.

#ifndef BITFLOW_TEST_OFFER_READER_H
#define BITFLOW_TEST_OFFER_READER_H

#include <stddef.h>
#include <stdint.h>

#include "bitflow/wire/record_follower.h"

// All zeros at the beginning.
struct offer_reader {
    struct record_follower records;
    struct early_data_offer offer;
};

static inline void offer_reader_take(struct offer_reader *reader, const uint8_t *bytes, size_t length)
{
    record_follower_take(&reader->records, NULL, &reader->offer, bytes, length);
}

#endif
