// Any bytes as the beginning of a client's stream. However much of them has come, the answer is the same in the end,
// and waiting for what is asked for comes to an end.

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/wire/client_hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Of a block of just this size, so that the sanitizer sees a read beyond it.
static enum client_hello_state parse(const uint8_t *data, size_t size, struct client_hello *hello)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL)
        abort();
    if (size > 0)
        memcpy(copy, data, size);
    enum client_hello_state state = client_hello_parse(copy, size, hello);
    free(copy);
    if ((state == CLIENT_HELLO_INVALID) != (hello->reason != NULL) ||
        (state == CLIENT_HELLO_NEEDS_MORE && (hello->needed <= size || hello->needed > CLIENT_HELLO_MAX)))
        abort();
    return state;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct client_hello whole;
    static struct client_hello hello;
    enum client_hello_state state = parse(data, size, &whole);
    if (strlen(whole.server_name) > CLIENT_HELLO_NAME_MAX || whole.protocol_count > CLIENT_HELLO_ALPN_MAX)
        abort();

    // As a reader does it that waits for what is asked for.
    size_t length = 0;
    enum client_hello_state now = parse(data, 0, &hello);
    while (now == CLIENT_HELLO_NEEDS_MORE && hello.needed <= size) {
        // With a byte less, it asks for just that, unless it has seen something wrong. (What is not TLS may be known
        // for that by its first byte.)
        size_t needed = hello.needed;
        if (data[0] == 22 && needed - 1 > length) {
            enum client_hello_state before = parse(data, needed - 1, &hello);
            if (before == CLIENT_HELLO_COMPLETE || (before == CLIENT_HELLO_NEEDS_MORE && hello.needed != needed) ||
                (before == CLIENT_HELLO_INVALID && state != CLIENT_HELLO_INVALID))
                abort();
        }
        length = needed;
        now = parse(data, length, &hello);
    }
    // Something wrong may show before all that was asked for has come.
    if (now == CLIENT_HELLO_NEEDS_MORE && state == CLIENT_HELLO_INVALID)
        return 0;
    if (now != state || strcmp(hello.server_name, whole.server_name) != 0)
        abort();
    return 0;
}
