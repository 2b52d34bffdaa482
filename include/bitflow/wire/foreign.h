// Which other protocol a stream speaks, where one was expected that it does not begin as, and the words for that: for
// messages only, nothing else hangs on it. Pure functions; any thread.

#ifndef BITFLOW_WIRE_FOREIGN_H
#define BITFLOW_WIRE_FOREIGN_H

#include <stddef.h>
#include <stdint.h>

enum foreign_protocol {
    FOREIGN_UNKNOWN,
    FOREIGN_HTTP,
    FOREIGN_HTTP2,
    FOREIGN_SSH,
    FOREIGN_SMTP,
    FOREIGN_PROXY_V1,
    FOREIGN_PROXY_V2,
    FOREIGN_POSTGRESQL,
    FOREIGN_SSLV2,
    FOREIGN_TLS, // a record, of whichever type
    FOREIGN_PROTOCOL_COUNT
};

// The best guess from the stream's first bytes, one at least. `*needed` (NULL: not wanted) is 0 if more bytes would not
// change it, else how many of the stream would tell more.
enum foreign_protocol foreign_protocol_of(const uint8_t *bytes, size_t length, size_t *needed);

enum foreign_expected { FOREIGN_NOT_TLS, FOREIGN_NOT_PROXY_HEADER, FOREIGN_NOT_SOCKS5, FOREIGN_EXPECTED_COUNT };

// What to say of it: a constant, to follow "the client sent", or "the SOCKS5 server" where that was expected to answer.
const char *foreign_protocol_words(enum foreign_protocol protocol, enum foreign_expected expected);

#endif
