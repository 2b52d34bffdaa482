// What a TLS ClientHello says about where it wants to go: server name and ALPN. RFC 8446 4.1.2 and 5.1 (records),
// RFC 6066 3 (server_name), RFC 7301 3.1 (ALPN). A pure codec over the first bytes of a client's stream, as they were
// peeked at: it takes the record layer off itself, so the message may be split over any number of records.
// No allocation, no state between calls; any thread.

#ifndef BITFLOW_WIRE_CLIENT_HELLO_H
#define BITFLOW_WIRE_CLIENT_HELLO_H

#include <stddef.h>
#include <stdint.h>

// The largest ClientHello that is waited for, in bytes of the stream, record headers included. Post-quantum key shares
// take 1-2 KB each; browsers stay below 2 KB, and nothing known comes near this.
#define CLIENT_HELLO_MAX ((size_t)64 * 1024)

// Into how many records it may be cut: one byte each for any that is in use, and few enough that walking over them
// again whenever more has come costs next to nothing.
#define CLIENT_HELLO_RECORDS_MAX 4096

#define CLIENT_HELLO_NAME_MAX 255
#define CLIENT_HELLO_ALPN_MAX 16

enum client_hello_state {
    CLIENT_HELLO_COMPLETE,
    CLIENT_HELLO_NEEDS_MORE, // `needed` bytes of the stream at least
    CLIENT_HELLO_INVALID,    // `reason` says why, in words: "plain HTTP, not TLS", "an SSLv2 hello", ...
};

struct client_hello {
    char server_name[CLIENT_HELLO_NAME_MAX + 1]; // lower case, without a trailing dot; empty: none was sent
    size_t protocol_count;                       // of ALPN; what goes beyond the maximum is left out
    char protocols[CLIENT_HELLO_ALPN_MAX][256];  // zero-terminated; one with a zero byte inside is left out
    uint16_t highest_version;                    // what it offers: 0x0303 TLS 1.2, 0x0304 TLS 1.3
    size_t needed;                               // with CLIENT_HELLO_NEEDS_MORE
    const char *reason;                          // with CLIENT_HELLO_INVALID; a constant
};

enum client_hello_state client_hello_parse(const uint8_t *bytes, size_t length, struct client_hello *hello);

#endif
