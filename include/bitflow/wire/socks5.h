// SOCKS5 as its client speaks it: RFC 1928, CONNECT only, without authentication or by user and password (RFC 1929). A
// pure codec: what we say is encoded, what the server says is parsed from the beginning of a stream, and nothing beyond
// its answer is looked at. No allocation, no state between calls; any thread.

#ifndef BITFLOW_WIRE_SOCKS5_H
#define BITFLOW_WIRE_SOCKS5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SOCKS5_TEXT_MAX 255 // of a user, a password, a host name

// What we say. Each returns how many bytes it wrote.

#define SOCKS5_GREETING_SIZE 4
// Offers to go without authentication, and with credentials to send them as well.
size_t socks5_encode_greeting(bool has_credentials, uint8_t out[SOCKS5_GREETING_SIZE]);

struct socks5_text {
    const void *bytes; // 1 to SOCKS5_TEXT_MAX
    uint8_t length;
};

#define SOCKS5_CREDENTIALS_SIZE (3 + 2 * SOCKS5_TEXT_MAX)
size_t socks5_encode_credentials(struct socks5_text user, struct socks5_text password,
                                 uint8_t out[SOCKS5_CREDENTIALS_SIZE]);

enum socks5_kind { SOCKS5_IPV4 = 1, SOCKS5_NAME = 3, SOCKS5_IPV6 = 4 }; // RFC 1928, 5

#define SOCKS5_CONNECT_SIZE (4 + 1 + SOCKS5_TEXT_MAX + 2)
// `host`: 4 or 16 bytes in network byte order, or a name's 1 to SOCKS5_TEXT_MAX. `port` in host byte order.
size_t socks5_encode_connect(enum socks5_kind kind, struct socks5_text host, uint16_t port,
                             uint8_t out[SOCKS5_CONNECT_SIZE]);

// What the server says.

enum socks5_state {
    SOCKS5_COMPLETE,   // `length` bytes, and the answer is yes
    SOCKS5_NEEDS_MORE, // `needed` bytes; the answer is never shorter
    SOCKS5_REFUSED,    // the answer is no; `reason` says why, in words
    SOCKS5_DENIED,     // likewise, for want of the right credentials
    SOCKS5_INVALID,    // it is not an answer; `reason` says what it is
};

#define SOCKS5_ANSWER_MAX (4 + 1 + SOCKS5_TEXT_MAX + 2)

#define SOCKS5_REASON_SIZE 80

// Not to be copied: `reason` may point into it.
struct socks5_answer {
    size_t length;
    size_t needed;      // at most SOCKS5_ANSWER_MAX
    const char *reason; // goes on from "the SOCKS5 server "; a constant, or `text`
    char text[SOCKS5_REASON_SIZE];
    bool wants_credentials;
};

// To the greeting: which method is chosen of those that were offered.
enum socks5_state socks5_parse_choice(const uint8_t *bytes, size_t length, bool has_credentials,
                                      struct socks5_answer *answer);

// To the credentials.
enum socks5_state socks5_parse_verdict(const uint8_t *bytes, size_t length, struct socks5_answer *answer);

// To CONNECT. The address in it, the server's own, is of no use to us.
enum socks5_state socks5_parse_reply(const uint8_t *bytes, size_t length, struct socks5_answer *answer);

#endif
