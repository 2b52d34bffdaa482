// Any bytes as what a TLS server sends first: the answer is the same in whatever pieces they come, and is final.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "hello_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hello_reader whole;
    struct hello_reader parts;
    memset(&whole, 0, sizeof whole); // padding, too
    memset(&parts, 0, sizeof parts);
    bool is_good = hello_reader_take(&whole, data, size);
    bool goes_on = true;
    for (size_t at = 0; at < size; at++) {
        // A block of just this size, so that the sanitizer sees a read beyond it.
        uint8_t *byte = malloc(1);
        if (byte == NULL)
            abort();
        *byte = data[at];
        bool now = hello_reader_take(&parts, byte, 1);
        free(byte);
        if (now && !goes_on)
            abort();
        goes_on = now;
    }
    if (goes_on != is_good || memcmp(&whole, &parts, sizeof whole) != 0 ||
        (whole.hello.is_over && whole.hello.is_refused))
        abort();
    return 0;
}
