// What the two versions of the PROXY protocol share. Pure functions; any thread.

#ifndef BITFLOW_SRC_WIRE_PROXY_PROTOCOL_INTERNAL_H
#define BITFLOW_SRC_WIRE_PROXY_PROTOCOL_INTERNAL_H

#include "bitflow/wire/proxy_protocol.h"

#define V1_BEGINNING "PROXY "
#define V1_BEGINNING_LENGTH (sizeof(V1_BEGINNING) - 1)
#define V1_SHORTEST (sizeof("PROXY UNKNOWN\r\n") - 1)

#define V2_SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define V2_SIGNATURE_LENGTH (sizeof(V2_SIGNATURE) - 1)
#define V2_FIXED 16 // bytes before the addresses
#define V2_VERSION 0x20

enum { V2_LOCAL = 0, V2_PROXY = 1 };
enum { V2_UNSPEC = 0, V2_INET = 1, V2_INET6 = 2, V2_UNIX = 3 }; // the family, the upper four bits
enum { V2_STREAM = 1, V2_DGRAM = 2 };                           // the transport, the lower four

#define V2_INET_LENGTH ((size_t)2 * (4 + 2))
#define V2_INET6_LENGTH ((size_t)2 * (16 + 2))
#define V2_UNIX_LENGTH ((size_t)2 * PROXY_HEADER_UNIX_SIZE)

#define TLV_HEADER 3
#define TLV_TLS_FIXED 5 // the bits and the verify result, before the TLVs inside
#define CRC_LENGTH 4

enum {
    TLV_ALPN = 0x01,
    TLV_AUTHORITY = 0x02,
    TLV_CRC32C = 0x03,
    TLV_NOOP = 0x04,
    TLV_UNIQUE_ID = 0x05,
    TLV_TLS = 0x20,
    TLV_TLS_VERSION = 0x21,
    TLV_TLS_CN = 0x22,
    TLV_TLS_CIPHER = 0x23,
    TLV_TLS_LAST = 0x2f, // so far up to 0x25; what else may come of this kind
    TLV_NETNS = 0x30,
};

enum { TLS_IS_USED = 1, TLS_CERTIFICATE_CONN = 2, TLS_CERTIFICATE_SESS = 4 };

// The addresses that are encoded: of one family, if they can be.
struct proxy_header_pair {
    enum proxy_header_family family; // of both
    struct proxy_header_address source;
    struct proxy_header_address destination;
};

struct proxy_header_pair proxy_header_pair_of(const struct proxy_header *header);

// RFC 4960, Appendix B, over the header with its checksum at `crc_at` taken as zeros.
uint32_t proxy_header_crc32c(const uint8_t *header, size_t length, size_t crc_at);

// The rest of decoding, once the first bytes have told the version.
enum proxy_header_state proxy_header_decode_v1(const uint8_t *bytes, size_t length,
                                               struct proxy_header_decoded *decoded);
enum proxy_header_state proxy_header_decode_v2(const uint8_t *bytes, size_t length,
                                               struct proxy_header_decoded *decoded);

enum proxy_header_state proxy_header_invalid(struct proxy_header_decoded *decoded, const char *reason);
enum proxy_header_state proxy_header_needs(struct proxy_header_decoded *decoded, size_t needed);

#endif
