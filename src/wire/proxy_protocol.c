// What both versions share: which of them a header is, and the pair of addresses that is encoded.

#include <string.h>

#include "bitflow/wire/foreign.h"
#include "proxy_protocol_internal.h"

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool is_ip(const struct proxy_header_address *end)
{
    return end->family == PROXY_HEADER_IPV4 || end->family == PROXY_HEADER_IPV6;
}

static bool is_mapped(const struct proxy_header_address *end)
{
    return end->family == PROXY_HEADER_IPV6 && memcmp(end->address, mapped_prefix, sizeof mapped_prefix) == 0;
}

static void demote(struct proxy_header_address *end)
{
    if (end->family == PROXY_HEADER_IPV6)
        memmove(end->address, end->address + sizeof mapped_prefix, 4);
    end->family = PROXY_HEADER_IPV4;
}

static void promote(struct proxy_header_address *end)
{
    if (end->family == PROXY_HEADER_IPV4) {
        memmove(end->address + sizeof mapped_prefix, end->address, 4);
        memcpy(end->address, mapped_prefix, sizeof mapped_prefix);
    }
    end->family = PROXY_HEADER_IPV6;
}

struct proxy_header_pair proxy_header_pair_of(const struct proxy_header *header)
{
    struct proxy_header_pair pair = {.source = header->source, .destination = header->destination};
    if (header->is_local) {
        pair.family = PROXY_HEADER_UNKNOWN;
    } else if (is_ip(&pair.source) && is_ip(&pair.destination)) {
        bool is_ipv4 = (pair.source.family == PROXY_HEADER_IPV4 || is_mapped(&pair.source)) &&
                       (pair.destination.family == PROXY_HEADER_IPV4 || is_mapped(&pair.destination));
        void (*convert)(struct proxy_header_address *) = is_ipv4 ? demote : promote;
        convert(&pair.source);
        convert(&pair.destination);
        pair.family = pair.source.family;
    } else if (pair.source.family == pair.destination.family) {
        pair.family = pair.source.family;
    }
    return pair;
}

enum proxy_header_state proxy_header_invalid(struct proxy_header_decoded *decoded, const char *reason)
{
    decoded->reason = reason;
    return PROXY_HEADER_INVALID;
}

enum proxy_header_state proxy_header_needs(struct proxy_header_decoded *decoded, size_t needed)
{
    decoded->needed = needed;
    return PROXY_HEADER_NEEDS_MORE;
}

static bool begins(const uint8_t *bytes, size_t length, const char *beginning, size_t beginning_length)
{
    return memcmp(bytes, beginning, length < beginning_length ? length : beginning_length) == 0;
}

enum proxy_header_state proxy_header_decode(const uint8_t *bytes, size_t length, struct proxy_header_decoded *decoded)
{
    *decoded = (struct proxy_header_decoded){.version = 0};
    if (length == 0)
        return proxy_header_needs(decoded, V1_SHORTEST);
    if (begins(bytes, length, V1_BEGINNING, V1_BEGINNING_LENGTH))
        return proxy_header_decode_v1(bytes, length, decoded);
    if (begins(bytes, length, V2_SIGNATURE, V2_SIGNATURE_LENGTH))
        return proxy_header_decode_v2(bytes, length, decoded);
    enum foreign_protocol protocol = foreign_protocol_of(bytes, length, NULL);
    return proxy_header_invalid(decoded, foreign_protocol_words(protocol, FOREIGN_NOT_PROXY_HEADER));
}
