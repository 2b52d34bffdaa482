// Follows the records of a TLS handshake as they come in, before whoever reads them sees them, however they are cut
// into segments: where each begins and ends, the alerts that come in clear, and how many were encrypted. As a client's,
// it also finds the version in the server's ServerHello, however that is cut into records, and whatever comes before
// it; and in the second one, after a HelloRetryRequest. As a server's, it finds whether the ClientHello announces early
// data. RFC 8446 5.1 (records), 6 (alerts), 4.1.3 (legacy_version, random). A pure codec: no allocation; any thread, a
// follower at a time.

#ifndef BITFLOW_WIRE_RECORD_FOLLOWER_H
#define BITFLOW_WIRE_RECORD_FOLLOWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/wire/early_data.h"

#define RECORD_FOLLOWER_HEADER 5 // bytes: type, version, length
#define RECORD_FOLLOWER_KEPT 288 // bytes: an encrypted alert with much padding

// All zeros at the beginning.
struct record_follower {
    uint8_t beginning[RECORD_FOLLOWER_HEADER]; // of the stream
    size_t beginning_length;
    uint8_t record[RECORD_FOLLOWER_KEPT]; // the beginning of the record at hand, or of the last one; header included
    size_t length;                        // of it, as far as it has come, bytes
    size_t left;                          // of it, still to come; known once the header is there
    uint64_t encrypted;                   // records of application data's type that have begun, as are TLS 1.3's
    bool has_plain_alert;                 // an alert came that was not encrypted
    uint8_t plain_alert;                  // the last one of them
};

#define SERVER_HELLO_VERSION 0x0303 // TLS 1.2, which 1.3 says, too

// The message's header, the version, and the random, which says whether it is a HelloRetryRequest.
#define SERVER_HELLO_BEGINNING (4 + 2 + 32)

// All zeros at the beginning.
struct server_hello {
    bool is_over;     // the ServerHello, and no HelloRetryRequest, has come: what follows is not looked at
    bool is_refused;  // one came whose version is another; now, and from then on
    uint16_t version; // of the last one that came; 0: none has
    uint8_t message[SERVER_HELLO_BEGINNING]; // of the handshake message at hand
    size_t message_length;
    size_t message_left; // of it, behind its header
};

// Whether a message that begins so, a ServerHello, is a HelloRetryRequest.
bool server_hello_is_retry_request(const uint8_t message[SERVER_HELLO_BEGINNING]);

// Takes the next bytes of the stream. `hello`, `offer`: get what handshake records that are not encrypted have in them;
// NULL: not wanted.
void record_follower_take(struct record_follower *follower, struct server_hello *hello, struct early_data_offer *offer,
                          const uint8_t *bytes, size_t length);

// Whether a record's header has come, but not all of the record.
bool record_follower_is_amid_record(const struct record_follower *follower);

// Whether the next byte begins a record.
bool record_follower_is_between_records(const struct record_follower *follower);

#endif
