#include <string.h>

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
    if (bytes[0] == 22)
        return "no PROXY protocol header, but TLS";
    static const char *const methods[] = {"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "PRI "};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (begins(bytes, length, methods[i], strlen(methods[i])))
            return "no PROXY protocol header, but HTTP";
    if (begins(bytes, length, "SSH-", 4))
        return "no PROXY protocol header, but SSH";
    return "no PROXY protocol header";
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
