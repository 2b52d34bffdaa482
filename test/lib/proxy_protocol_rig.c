#include "proxy_protocol_rig.h"

enum proxy_header_state decode(const uint8_t *bytes, size_t length, struct proxy_header_decoded *decoded)
{
    static uint8_t *kept;
    free(kept);
    kept = malloc(length > 0 ? length : 1);
    assert_non_null(kept);
    if (length > 0)
        memcpy(kept, bytes, length);
    return proxy_header_decode(kept, length, decoded);
}

void assert_invalid(const void *bytes, size_t length, const char *reason)
{
    struct proxy_header_decoded decoded;
    enum proxy_header_state state = decode(bytes, length, &decoded);
    if (state != PROXY_HEADER_INVALID)
        fail_msg("state %d, not \"%s\"", (int)state, reason);
    assert_string_equal(decoded.reason, reason);
}

void assert_needs(const void *bytes, size_t length, size_t needed)
{
    struct proxy_header_decoded decoded;
    enum proxy_header_state state = decode(bytes, length, &decoded);
    if (state != PROXY_HEADER_NEEDS_MORE)
        fail_msg("state %d (%s) after %zu bytes", (int)state,
                 state == PROXY_HEADER_INVALID ? decoded.reason : "complete", length);
    assert_int_equal(decoded.needed, needed);
}

struct proxy_header_address end_of(const char *text, uint16_t port)
{
    struct proxy_header_address end = {.port = port};
    if (inet_pton(AF_INET, text, end.address) == 1) {
        end.family = PROXY_HEADER_IPV4;
    } else if (inet_pton(AF_INET6, text, end.address) == 1) {
        end.family = PROXY_HEADER_IPV6;
    } else {
        end.family = PROXY_HEADER_UNIX;
        assert_true(strlen(text) <= sizeof end.address);
        memcpy(end.address, text, strlen(text));
    }
    return end;
}

void assert_end(const struct proxy_header_address *end, const char *text, uint16_t port)
{
    struct proxy_header_address wanted = end_of(text, port);
    assert_int_equal(end->family, wanted.family);
    assert_memory_equal(end->address, wanted.address, sizeof wanted.address);
    assert_int_equal(end->port, wanted.port);
}

struct proxy_header_text text_of(const char *text)
{
    return (struct proxy_header_text){.bytes = (const uint8_t *)text, .length = strlen(text)};
}

void assert_text(const struct proxy_header_text *text, const char *wanted)
{
    assert_int_equal(text->length, strlen(wanted));
    if (text->length > 0)
        assert_memory_equal(text->bytes, wanted, text->length);
}
