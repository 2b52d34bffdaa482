// Any bytes as what a TLS server sends first: the answer is the same in whatever pieces they come, and is final.

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/wire/server_hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct server_hello whole = {.is_over = false};
    struct server_hello parts = {.is_over = false};
    bool is_good = server_hello_follow(&whole, data, size);
    bool goes_on = true;
    for (size_t at = 0; at < size; at++) {
        // A block of just this size, so that the sanitizer sees a read beyond it.
        uint8_t *byte = malloc(1);
        if (byte == NULL)
            abort();
        *byte = data[at];
        bool now = server_hello_follow(&parts, byte, 1);
        free(byte);
        if (now && !goes_on)
            abort();
        goes_on = now;
    }
    if (goes_on != is_good || whole.is_over != parts.is_over || whole.version != parts.version ||
        (whole.is_over && whole.is_refused))
        abort();
    return 0;
}
