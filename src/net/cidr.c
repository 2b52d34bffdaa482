#include "bitflow/net/cidr.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <string.h>

#define MAPPED_BITS 96 // ::ffff:0:0/96 holds the IPv4-mapped addresses, RFC 4291 2.5.5.2

// Clears the bits beyond the prefix; true if one was set.
static bool mask(uint8_t *bytes, size_t count, unsigned prefix_bits)
{
    bool was_set = false;
    for (size_t i = 0; i < count; i++) {
        unsigned kept = prefix_bits >= 8 * (i + 1) ? 8 : prefix_bits <= 8 * i ? 0 : prefix_bits - 8 * (unsigned)i;
        uint8_t kept_mask = (uint8_t)(0xff00U >> kept);
        was_set = was_set || (bytes[i] & ~kept_mask) != 0;
        bytes[i] &= kept_mask;
    }
    return was_set;
}

static bool parse_prefix(const char *text, unsigned max, uint8_t *bits, struct error *error)
{
    unsigned number = 0;
    size_t length = strlen(text);
    bool good = length > 0 && length <= 3;
    for (size_t i = 0; good && i < length; i++) {
        good = isdigit((unsigned char)text[i]);
        number = number * 10 + (unsigned)(text[i] - '0');
    }
    if (!good || number > max) {
        error_set(error, ERROR_INVALID, "prefix length \"%.16s\" is not in 0-%u", text, max);
        return false;
    }
    *bits = (uint8_t)number;
    return true;
}

// A block of IPv4-mapped addresses is the IPv4 block: that is how such peers are matched.
static void unmap(struct cidr *cidr)
{
    struct in6_addr inet;
    memcpy(&inet, cidr->bytes, sizeof inet);
    if (cidr->family != AF_INET6 || cidr->prefix_bits < MAPPED_BITS || !IN6_IS_ADDR_V4MAPPED(&inet))
        return;
    cidr->family = AF_INET;
    cidr->prefix_bits = (uint8_t)(cidr->prefix_bits - MAPPED_BITS);
    memmove(cidr->bytes, cidr->bytes + 12, 4);
    memset(cidr->bytes + 4, 0, sizeof cidr->bytes - 4);
}

bool cidr_parse(const char *text, struct cidr *cidr, struct error *error)
{
    const char *slash = strchrnul(text, '/');
    char host[INET6_ADDRSTRLEN];
    size_t host_length = (size_t)(slash - text);
    struct cidr parsed = {.family = AF_UNSPEC};
    if (host_length < sizeof host) {
        memcpy(host, text, host_length);
        host[host_length] = '\0';
        if (inet_pton(AF_INET, host, parsed.bytes) == 1)
            parsed.family = AF_INET;
        else if (inet_pton(AF_INET6, host, parsed.bytes) == 1)
            parsed.family = AF_INET6;
    }
    if (parsed.family == AF_UNSPEC) {
        error_set(error, ERROR_INVALID, "\"%.*s\" is not an IP address", host_length < 64 ? (int)host_length : 64,
                  text);
        return false;
    }
    size_t bytes = parsed.family == AF_INET ? 4 : 16;
    parsed.prefix_bits = (uint8_t)(8 * bytes);
    if (*slash == '/' && !parse_prefix(slash + 1, (unsigned)(8 * bytes), &parsed.prefix_bits, error))
        return false;
    if (mask(parsed.bytes, bytes, parsed.prefix_bits)) {
        char network[INET6_ADDRSTRLEN] = "?";
        (void)inet_ntop(parsed.family, parsed.bytes, network, sizeof network);
        error_set(error, ERROR_INVALID,
                  "%s has bits set beyond its prefix of %u; the block is %s/%u, the address %s/%zu", host,
                  (unsigned)parsed.prefix_bits, network, (unsigned)parsed.prefix_bits, host, 8 * bytes);
        return false;
    }
    unmap(&parsed);
    *cidr = parsed;
    return true;
}

bool cidr_contains(const struct cidr *cidr, const struct sockaddr *address)
{
    uint8_t bytes[16];
    sa_family_t family = address->sa_family;
    if (family == AF_INET) {
        struct sockaddr_in inet;
        memcpy(&inet, address, sizeof inet);
        memcpy(bytes, &inet.sin_addr, 4);
    } else if (family == AF_INET6) {
        struct sockaddr_in6 inet;
        memcpy(&inet, address, sizeof inet);
        bool is_mapped = IN6_IS_ADDR_V4MAPPED(&inet.sin6_addr);
        family = is_mapped ? AF_INET : AF_INET6;
        if (is_mapped)
            memcpy(bytes, inet.sin6_addr.s6_addr + 12, 4);
        else
            memcpy(bytes, &inet.sin6_addr, 16);
    } else {
        return false;
    }
    if (family != cidr->family)
        return false;
    size_t count = family == AF_INET ? 4 : 16;
    (void)mask(bytes, count, cidr->prefix_bits);
    return memcmp(bytes, cidr->bytes, count) == 0;
}
