// Early data (0-RTT) as a server that takes none has to know of it: whether a ClientHello announces some, and what kind
// of hello answers it. RFC 8446 4.2.10, 4.1.2 (ClientHello), 4.1.3 and 4.1.4 (ServerHello, HelloRetryRequest). A pure
// codec: no allocation; any thread, an offer at a time.

#ifndef BITFLOW_WIRE_EARLY_DATA_H
#define BITFLOW_WIRE_EARLY_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A ClientHello as it comes in. All zeros at the beginning.
struct early_data_offer {
    bool is_over;  // the first message has come, or is no ClientHello, or is malformed: what follows is not looked at
    bool is_made;  // with `is_over`: it was a ClientHello, and announces early data
    bool is_whole; // with `is_over`: it was a ClientHello, which has been followed to its end
    bool has_signature_algorithms; // with `is_whole`
    bool is_seen;                  // the extension has come
    uint8_t field;                 // which of the message's is at hand
    uint8_t number_bytes;          // of the number that the field begins with, how many have come
    size_t number;                 // their value so far
    size_t left;                   // of the field, to be passed over, bytes
    size_t message_left;           // bytes; known once the message's header is there
    size_t extension;              // the type of the one at hand
};

// Takes the next bytes of handshake records, without the records' headers, in any pieces.
void early_data_offer_take(struct early_data_offer *offer, const uint8_t *bytes, size_t length);

enum early_data_answer {
    EARLY_DATA_UNANSWERED, // the record begins with no such message
    EARLY_DATA_RETRY,      // a HelloRetryRequest
    EARLY_DATA_HELLO,      // a ServerHello
};

// What a record is that a server sends, its header included, in one piece. `suite`: with EARLY_DATA_HELLO, the cipher
// suite that it chooses.
enum early_data_answer early_data_answer_of(const uint8_t *record, size_t length, uint16_t *suite);

#endif
