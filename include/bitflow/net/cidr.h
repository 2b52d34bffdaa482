// CIDR blocks: 192.0.2.0/24, 2001:db8::/32; a bare address is a /32 or /128. RFC 4632, RFC 4291 2.3.
// Plain values; any thread.

#ifndef BITFLOW_NET_CIDR_H
#define BITFLOW_NET_CIDR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "bitflow/base/error.h"

struct cidr {
    sa_family_t family;  // AF_INET or AF_INET6
    uint8_t bytes[16];   // network byte order; IPv4 uses the first four
    uint8_t prefix_bits; // 0-32 or 0-128
};

// ERROR_INVALID. Bits set beyond the prefix are an error: 10.1.2.3/8 is more likely a slip than a wish.
bool cidr_parse(const char *text, struct cidr *cidr, struct error *error);

// An IPv4-mapped IPv6 address matches IPv4 blocks. An address of another family, or no IP address, matches
// none.
bool cidr_contains(const struct cidr *cidr, const struct sockaddr *address);

#endif
