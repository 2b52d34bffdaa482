// The version in a TLS server's ServerHello, found in the handshake records (record_follower.h) that a client receives
// before it reads them: however the message is cut, and whatever comes before it. Also the second one, after a
// HelloRetryRequest. RFC 8446 4.1.3 (legacy_version, random). A pure codec: a few bytes of state, no allocation; any
// thread, one at a time.

#ifndef BITFLOW_WIRE_SERVER_HELLO_H
#define BITFLOW_WIRE_SERVER_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

// Takes the next bytes of handshake records, without the records' headers.
void server_hello_take(struct server_hello *hello, const uint8_t *bytes, size_t length);

#endif
