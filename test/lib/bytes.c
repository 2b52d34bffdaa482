#include "bytes.h"

#include <string.h>

#include "hex.h"

void put(struct bytes *bytes, const void *from, size_t length)
{
    assert_true(length <= sizeof bytes->at - bytes->length);
    if (length > 0)
        memcpy(bytes->at + bytes->length, from, length);
    bytes->length += length;
}

void put_hex(struct bytes *bytes, const char *hex)
{
    bytes->length += from_hex(hex, bytes->at + bytes->length, sizeof bytes->at - bytes->length);
}
