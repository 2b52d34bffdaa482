#include "bitflow/wire/record_follower.h"

#include <string.h>

enum { RECORD_ALERT = 21, RECORD_HANDSHAKE = 22, RECORD_APPLICATION_DATA = 23, ALERT_SIZE = 2 };
enum { MESSAGE_SERVER_HELLO = 2, MESSAGE_HEADER = 4, MESSAGE_VERSION_END = 6 };

// ---- the messages inside

bool server_hello_is_retry_request(const uint8_t message[SERVER_HELLO_BEGINNING])
{
    // RFC 8446 4.1.3: SHA-256 of "HelloRetryRequest".
    static const uint8_t random[32] = {0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c,
                                       0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb,
                                       0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c};
    return memcmp(message + MESSAGE_VERSION_END, random, sizeof random) == 0;
}

// The message at hand has one byte more of its beginning.
static void look_at_message(struct server_hello *hello)
{
    const uint8_t *message = hello->message;
    if (hello->message_length == MESSAGE_HEADER)
        hello->message_left = (size_t)message[1] << 16 | (size_t)message[2] << 8 | message[3];
    if (hello->message_length == MESSAGE_VERSION_END && message[0] == MESSAGE_SERVER_HELLO) {
        hello->version = (uint16_t)(message[4] << 8 | message[5]);
        hello->is_refused = hello->version != SERVER_HELLO_VERSION;
    }
}

// Takes bytes of one message; how many.
static size_t take_message(struct server_hello *hello, const uint8_t *bytes, size_t length)
{
    size_t taken = 1;
    if (hello->message_length < MESSAGE_HEADER) {
        hello->message[hello->message_length++] = *bytes;
        look_at_message(hello);
    } else if (hello->message_length < SERVER_HELLO_BEGINNING) {
        hello->message[hello->message_length++] = *bytes;
        hello->message_left--;
        look_at_message(hello);
    } else {
        taken = length < hello->message_left ? length : hello->message_left;
        hello->message_left -= taken;
    }
    if (hello->message_length >= MESSAGE_HEADER && hello->message_left == 0) {
        hello->is_over =
            !hello->is_refused && hello->message[0] == MESSAGE_SERVER_HELLO &&
            hello->message_length >= MESSAGE_VERSION_END &&
            !(hello->message_length == SERVER_HELLO_BEGINNING && server_hello_is_retry_request(hello->message));
        hello->message_length = 0;
    }
    return taken;
}

// Takes the next bytes of handshake records, without the records' headers.
static void take_messages(struct server_hello *hello, const uint8_t *bytes, size_t length)
{
    while (length > 0 && !hello->is_over && !hello->is_refused) {
        size_t taken = take_message(hello, bytes, length);
        bytes += taken;
        length -= taken;
    }
}

// ---- the records

bool record_follower_is_amid_record(const struct record_follower *follower)
{
    return follower->length >= RECORD_FOLLOWER_HEADER && follower->left > 0;
}

bool record_follower_is_between_records(const struct record_follower *follower)
{
    return follower->length == 0 || (follower->length >= RECORD_FOLLOWER_HEADER && follower->left == 0);
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

static void take_body(struct record_follower *follower, struct server_hello *hello, struct early_data_offer *offer,
                      const uint8_t *bytes, size_t length)
{
    const uint8_t *header = follower->record;
    if (follower->length < RECORD_FOLLOWER_KEPT) {
        size_t room = RECORD_FOLLOWER_KEPT - follower->length;
        memcpy(follower->record + follower->length, bytes, length < room ? length : room);
    }
    follower->length += length;
    follower->left -= length;
    if (header[0] == RECORD_HANDSHAKE && hello != NULL)
        take_messages(hello, bytes, length);
    if (header[0] == RECORD_HANDSHAKE && offer != NULL)
        early_data_offer_take(offer, bytes, length);
    // An encrypted one is longer.
    if (header[0] == RECORD_ALERT && follower->length == RECORD_FOLLOWER_HEADER + ALERT_SIZE && follower->left == 0) {
        follower->has_plain_alert = true;
        follower->plain_alert = bytes[length - 1];
    }
}

void record_follower_take(struct record_follower *follower, struct server_hello *hello, struct early_data_offer *offer,
                          const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        size_t taken = 1;
        if (follower->length >= RECORD_FOLLOWER_HEADER && follower->left == 0)
            follower->length = 0; // that one is complete
        if (follower->length < RECORD_FOLLOWER_HEADER) {
            take_header_byte(follower, *bytes);
        } else {
            taken = length < follower->left ? length : follower->left;
            take_body(follower, hello, offer, bytes, taken);
        }
        bytes += taken;
        length -= taken;
    }
}
