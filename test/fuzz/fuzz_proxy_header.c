// Any bytes as the beginning of a stream with a PROXY protocol header. However much of them has come, the answer is the
// same in the end; what is understood can be sent on, in either version, and is then understood as the same.

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/wire/proxy_protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool holds)
{
    if (!holds)
        abort();
}

// Of a block of just this size, so that the sanitizer sees a read beyond it. The texts point into it: to be freed.
static uint8_t *decode(const uint8_t *data, size_t size, struct proxy_header_decoded *decoded,
                       enum proxy_header_state *state)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    check(copy != NULL);
    if (size > 0)
        memcpy(copy, data, size);
    *state = proxy_header_decode(copy, size, decoded);
    check((*state == PROXY_HEADER_INVALID) == (decoded->reason != NULL));
    check(*state != PROXY_HEADER_NEEDS_MORE || (decoded->needed > size && decoded->needed <= PROXY_HEADER_DECODED_MAX));
    check(*state != PROXY_HEADER_COMPLETE || (decoded->length <= size && decoded->length >= 15));
    return copy;
}

static bool same_text(const struct proxy_header_text *a, const struct proxy_header_text *b, size_t max)
{
    if (a->length > max)
        return b->length == 0;
    return a->length == b->length && (a->length == 0 || memcmp(a->bytes, b->bytes, a->length) == 0);
}

static const uint8_t mapped_prefix[12] = {[10] = 0xff, [11] = 0xff};

static bool is_mapped(const struct proxy_header_address *end)
{
    return end->family == PROXY_HEADER_IPV6 && memcmp(end->address, mapped_prefix, sizeof mapped_prefix) == 0;
}

static bool is_ipv4(const struct proxy_header_address *end)
{
    return end->family == PROXY_HEADER_IPV4 || is_mapped(end);
}

// As the end is sent in a pair of that family.
static void check_end(const struct proxy_header_address *end, const struct proxy_header_address *sent,
                      enum proxy_header_family family)
{
    uint8_t expected[PROXY_HEADER_UNIX_SIZE] = {0};
    memcpy(expected, end->address, sizeof expected);
    if (family == PROXY_HEADER_IPV4 && end->family == PROXY_HEADER_IPV6) {
        memset(expected, 0, sizeof expected);
        memcpy(expected, end->address + sizeof mapped_prefix, 4);
    } else if (family == PROXY_HEADER_IPV6 && end->family == PROXY_HEADER_IPV4) {
        memcpy(expected, mapped_prefix, sizeof mapped_prefix);
        memcpy(expected + sizeof mapped_prefix, end->address, 4);
    }
    check(sent->family == family && sent->port == end->port);
    check(memcmp(sent->address, expected, sizeof expected) == 0);
}

static void check_ends(const struct proxy_header *a, const struct proxy_header *b)
{
    enum proxy_header_family family = a->source.family;
    if (is_ipv4(&a->source) && is_ipv4(&a->destination))
        family = PROXY_HEADER_IPV4;
    else if (a->source.family != a->destination.family)
        family = PROXY_HEADER_IPV6;
    check_end(&a->source, &b->source, family);
    check_end(&a->destination, &b->destination, family);
}

static void check_sent_on(const struct proxy_header *header)
{
    uint8_t out[PROXY_HEADER_V2_MAX];
    struct proxy_header_decoded again;
    enum proxy_header_state state;
    size_t length = proxy_header_encode_v2(header, out);
    check(length <= sizeof out);
    uint8_t *copy = decode(out, length, &again, &state);
    check(state == PROXY_HEADER_COMPLETE && again.version == 2 && again.length == length);
    check(again.header.is_local == header->is_local);
    check_ends(header, &again.header);
    if (!header->is_local) {
        check(same_text(&header->protocol, &again.header.protocol, PROXY_HEADER_TEXT_MAX));
        check(same_text(&header->authority, &again.header.authority, PROXY_HEADER_TEXT_MAX));
        check(same_text(&header->unique_id, &again.header.unique_id, PROXY_HEADER_ID_MAX));
        check(header->tls.is_used == again.header.tls.is_used);
    }
    if (!header->is_local && header->tls.is_used) {
        check(header->tls.has_certificate == again.header.tls.has_certificate);
        check(header->tls.is_session_certified == again.header.tls.is_session_certified);
        check(header->tls.verify_result == again.header.tls.verify_result);
        check(same_text(&header->tls.version, &again.header.tls.version, PROXY_HEADER_TEXT_MAX));
        check(same_text(&header->tls.cipher, &again.header.tls.cipher, PROXY_HEADER_TEXT_MAX));
        check(same_text(&header->tls.common_name, &again.header.tls.common_name, PROXY_HEADER_TEXT_MAX));
    }
    free(copy);

    length = proxy_header_encode_v1(header, out);
    check(length <= PROXY_HEADER_V1_MAX);
    copy = decode(out, length, &again, &state);
    check(state == PROXY_HEADER_COMPLETE && again.version == 1 && again.length == length);
    if (header->source.family == PROXY_HEADER_IPV4 || header->source.family == PROXY_HEADER_IPV6)
        check_ends(header, &again.header);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy_header_decoded whole;
    struct proxy_header_decoded part;
    enum proxy_header_state state;
    enum proxy_header_state now;
    uint8_t *copy = decode(data, size, &whole, &state);
    if (state == PROXY_HEADER_COMPLETE) {
        check_sent_on(&whole.header);
        // What follows does not matter, and without its last byte it is not whole.
        free(decode(data, whole.length, &part, &now));
        check(now == PROXY_HEADER_COMPLETE && part.length == whole.length);
        free(decode(data, whole.length - 1, &part, &now));
        check(now == PROXY_HEADER_NEEDS_MORE);
    }
    // As a reader does it that waits for what is asked for.
    size_t length = 0;
    free(decode(data, 0, &part, &now));
    while (now == PROXY_HEADER_NEEDS_MORE && part.needed <= size) {
        length = part.needed;
        free(decode(data, length, &part, &now));
    }
    if (now == PROXY_HEADER_COMPLETE)
        check(part.length == length); // nothing beyond it was waited for
    // Something wrong may show before all that was asked for has come.
    check(now == state || (now == PROXY_HEADER_NEEDS_MORE && state == PROXY_HEADER_INVALID));
    free(copy);
    return 0;
}
