// Any bytes as what a TLS client sends first: whether early data is announced is the same in whatever pieces they come,
// and is final; where the whole ClientHello is well-formed to the one parser, the other one has found its end. And any
// bytes as a record of the server's.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/wire/client_hello.h"
#include "offer_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct offer_reader whole;
    struct offer_reader parts;
    memset(&whole, 0, sizeof whole); // padding, too
    memset(&parts, 0, sizeof parts);
    offer_reader_take(&whole, data, size);
    bool was_over = false;
    bool was_made = false;
    for (size_t at = 0; at < size; at++) {
        // A block of just this size, so that the sanitizer sees a read beyond it.
        uint8_t *byte = malloc(1);
        if (byte == NULL)
            abort();
        *byte = data[at];
        offer_reader_take(&parts, byte, 1);
        free(byte);
        if (was_over && (!parts.offer.is_over || parts.offer.is_made != was_made))
            abort();
        was_over = parts.offer.is_over;
        was_made = parts.offer.is_made;
    }
    if (memcmp(&whole.offer, &parts.offer, sizeof whole.offer) != 0 || (whole.offer.is_made && !whole.offer.is_over))
        abort();
    static struct client_hello hello;
    if (client_hello_parse(data, size, &hello) == CLIENT_HELLO_COMPLETE && !whole.offer.is_over)
        abort();
    uint16_t suite = 0;
    if (early_data_answer_of(data, size, &suite) != EARLY_DATA_HELLO && suite != 0)
        abort();
    return 0;
}
