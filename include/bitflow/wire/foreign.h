// Which other protocol a stream speaks, where one was expected that it does not begin as: for messages only, nothing
// else hangs on it. A pure function; any thread.

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

#endif
