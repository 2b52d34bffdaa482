// The PROXY protocol's header, which tells a server whom a connection is proxied for: version 1, a line of text, and
// version 2, binary (HAProxy's proxy-protocol.txt, 2.1 and 2.2). A pure codec. What is decoded is the beginning of a
// stream; nothing beyond the header is looked at. No allocation, no state between calls; any thread.

#ifndef BITFLOW_WIRE_PROXY_PROTOCOL_H
#define BITFLOW_WIRE_PROXY_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROXY_HEADER_UNIX_SIZE 108 // a Unix address on the wire, whatever the system's is
#define PROXY_HEADER_ID_MAX 128
#define PROXY_HEADER_TEXT_MAX 255 // of every other text that is encoded

enum proxy_header_family { PROXY_HEADER_UNKNOWN, PROXY_HEADER_IPV4, PROXY_HEADER_IPV6, PROXY_HEADER_UNIX };

// One end of the connection.
struct proxy_header_address {
    enum proxy_header_family family;
    // In network byte order: 4 or 16 bytes, or a Unix address as in sun_path, zeros behind it (an abstract one begins
    // with a zero byte; all zeros: unnamed).
    uint8_t address[PROXY_HEADER_UNIX_SIZE];
    uint16_t port; // host byte order; 0 for a Unix address
};

// Bytes that are borrowed: from the caller when encoding, from the decoded bytes when decoding. Length 0: none.
struct proxy_header_text {
    const uint8_t *bytes;
    size_t length;
};

// The client's TLS (PP2_TYPE_SSL).
struct proxy_header_tls {
    bool is_used;         // else all else means nothing
    bool has_certificate; // sent on this connection
    // In this TLS session: a connection that resumes one has its certificate without having sent it.
    bool is_session_certified;
    uint32_t verify_result; // 0: the certificate verified
    struct proxy_header_text version;
    struct proxy_header_text cipher;
    struct proxy_header_text common_name;
};

struct proxy_header {
    // Version 2's LOCAL: the sender speaks for itself, a health check; there are no addresses.
    bool is_local;
    struct proxy_header_address source;
    struct proxy_header_address destination;
    // Version 2 only
    struct proxy_header_text protocol;  // ALPN
    struct proxy_header_text authority; // server name
    struct proxy_header_text unique_id;
    struct proxy_header_tls tls;
    // All fields as they came, known ones included; they are whole. Encoding takes those from here that have no place
    // above and no meaning that is the sender's own to tell.
    struct proxy_header_text fields;
    bool has_no_checksum; // encoding leaves it out
};

#define PROXY_HEADER_V1_MAX 107
#define PROXY_HEADER_PASSED_MAX 1024 // bytes of `fields` that are encoded
#define PROXY_HEADER_V2_MAX 2720     // of what is encoded

// Returns how many bytes it wrote; they are to be sent at once. IPv4-mapped pairs become IPv4; of a pair of both
// families, the IPv4 one is mapped. What has no place in version 1 is UNKNOWN there, and so is LOCAL. In version 2,
// texts that are too long are left out, and so are fields beyond PROXY_HEADER_PASSED_MAX.
size_t proxy_header_encode_v1(const struct proxy_header *header, uint8_t out[PROXY_HEADER_V1_MAX]);
size_t proxy_header_encode_v2(const struct proxy_header *header, uint8_t out[PROXY_HEADER_V2_MAX]);

// The longest header that is decoded, in bytes. By its format version 2 could have 64 KiB; addresses and everything
// that senders are known to add are below 1 KiB, but for a client's whole certificate, which may take 2 or 3.
#define PROXY_HEADER_DECODED_MAX 4096

enum proxy_header_state {
    PROXY_HEADER_COMPLETE,
    PROXY_HEADER_NEEDS_MORE, // every byte so far belongs to the header, which has `needed` bytes at least
    PROXY_HEADER_INVALID,    // `reason` says why, in words
};

struct proxy_header_decoded {
    struct proxy_header
        header;         // with PROXY_HEADER_COMPLETE; its families are UNKNOWN where the socket's own ends count
    unsigned version;   // 1 or 2, likewise
    size_t length;      // of the header, likewise
    size_t needed;      // with PROXY_HEADER_NEEDS_MORE; at most PROXY_HEADER_DECODED_MAX
    const char *reason; // with PROXY_HEADER_INVALID; a constant
};

// Which version it is shows in the first bytes. CRC32C is checked where it is there, but for LOCAL, of which nothing
// counts; TLVs that are not in struct proxy_header are skipped; of two of a kind the last counts.
enum proxy_header_state proxy_header_decode(const uint8_t *bytes, size_t length, struct proxy_header_decoded *decoded);

#endif
