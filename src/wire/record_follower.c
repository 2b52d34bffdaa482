#include "bitflow/wire/record_follower.h"

#include <string.h>

enum { RECORD_ALERT = 21, RECORD_HANDSHAKE = 22, RECORD_APPLICATION_DATA = 23, ALERT_SIZE = 2 };

bool record_follower_is_amid_record(const struct record_follower *follower)
{
    return follower->length >= RECORD_FOLLOWER_HEADER && follower->left > 0;
}

static void take_header_byte(struct record_follower *follower, uint8_t byte)
{
    uint8_t *header = follower->record;
    if (follower->beginning_length < RECORD_FOLLOWER_HEADER)
        follower->beginning[follower->beginning_length++] = byte;
    header[follower->length++] = byte;
    if (follower->length < RECORD_FOLLOWER_HEADER)
        return;
    follower->left = (size_t)header[3] << 8 | header[4];
    if (header[0] == RECORD_APPLICATION_DATA)
        follower->encrypted++;
}

static void take_body(struct record_follower *follower, struct server_hello *hello, const uint8_t *bytes, size_t length)
{
    const uint8_t *header = follower->record;
    if (follower->length < RECORD_FOLLOWER_KEPT) {
        size_t room = RECORD_FOLLOWER_KEPT - follower->length;
        memcpy(follower->record + follower->length, bytes, length < room ? length : room);
    }
    follower->length += length;
    follower->left -= length;
    if (header[0] == RECORD_HANDSHAKE && hello != NULL)
        server_hello_take(hello, bytes, length);
    // An encrypted one is longer.
    if (header[0] == RECORD_ALERT && follower->length == RECORD_FOLLOWER_HEADER + ALERT_SIZE && follower->left == 0) {
        follower->has_plain_alert = true;
        follower->plain_alert = bytes[length - 1];
    }
}

void record_follower_take(struct record_follower *follower, struct server_hello *hello, const uint8_t *bytes,
                          size_t length)
{
    while (length > 0) {
        size_t taken = 1;
        if (follower->length >= RECORD_FOLLOWER_HEADER && follower->left == 0)
            follower->length = 0; // that one is complete
        if (follower->length < RECORD_FOLLOWER_HEADER) {
            take_header_byte(follower, *bytes);
        } else {
            taken = length < follower->left ? length : follower->left;
            take_body(follower, hello, bytes, taken);
        }
        bytes += taken;
        length -= taken;
    }
}
