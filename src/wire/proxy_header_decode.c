#include <string.h>

#include "bitflow/wire/foreign.h"
#include "proxy_header_parts.h"

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

// Whoever comes without a header: who is it likely to be?
static const char *judge_foreign(const uint8_t *bytes, size_t length)
{
    switch (foreign_protocol_of(bytes, length, NULL)) {
    case FOREIGN_TLS:
        return "no PROXY protocol header, but TLS";
    case FOREIGN_HTTP:
    case FOREIGN_HTTP2:
        return "no PROXY protocol header, but HTTP";
    case FOREIGN_SSH:
        return "no PROXY protocol header, but SSH";
    default:
        return "no PROXY protocol header";
    }
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
    return proxy_header_invalid(decoded, judge_foreign(bytes, length));
}
