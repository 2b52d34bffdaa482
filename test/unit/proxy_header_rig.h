// What the tests of the PROXY protocol's codec share: decoding what ends at the end of its memory, and making headers.

#ifndef BITFLOW_TEST_PROXY_HEADER_RIG_H
#define BITFLOW_TEST_PROXY_HEADER_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/wire/proxy_protocol.h"
#include "hex.h"

// Of a block of just this size: whoever reads beyond it is caught by the sanitizer. Texts point into `kept`.
static inline enum proxy_header_state decode(const uint8_t *bytes, size_t length, struct proxy_header_decoded *decoded)
{
    static uint8_t *kept;
    free(kept);
    kept = malloc(length > 0 ? length : 1);
    assert_non_null(kept);
    if (length > 0)
        memcpy(kept, bytes, length);
    return proxy_header_decode(kept, length, decoded);
}

static inline void assert_invalid(const void *bytes, size_t length, const char *reason)
{
    struct proxy_header_decoded decoded;
    enum proxy_header_state state = decode(bytes, length, &decoded);
    if (state != PROXY_HEADER_INVALID)
        fail_msg("state %d, not \"%s\"", (int)state, reason);
    assert_string_equal(decoded.reason, reason);
}

static inline void assert_needs(const void *bytes, size_t length, size_t needed)
{
    struct proxy_header_decoded decoded;
    enum proxy_header_state state = decode(bytes, length, &decoded);
    if (state != PROXY_HEADER_NEEDS_MORE)
        fail_msg("state %d (%s) after %zu bytes", (int)state,
                 state == PROXY_HEADER_INVALID ? decoded.reason : "complete", length);
    assert_int_equal(decoded.needed, needed);
}

// 192.0.2.1, 2001:db8::1, or a Unix path.
static inline struct proxy_header_address end_of(const char *text, uint16_t port)
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

static inline void assert_end(const struct proxy_header_address *end, const char *text, uint16_t port)
{
    struct proxy_header_address wanted = end_of(text, port);
    assert_int_equal(end->family, wanted.family);
    assert_memory_equal(end->address, wanted.address, sizeof wanted.address);
    assert_int_equal(end->port, wanted.port);
}

static inline struct proxy_header_text text_of(const char *text)
{
    return (struct proxy_header_text){.bytes = (const uint8_t *)text, .length = strlen(text)};
}

static inline void assert_text(const struct proxy_header_text *text, const char *wanted)
{
    assert_int_equal(text->length, strlen(wanted));
    if (text->length > 0)
        assert_memory_equal(text->bytes, wanted, text->length);
}

#endif
