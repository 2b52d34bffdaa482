// Version 2 of the PROXY protocol: 16 fixed bytes, the addresses, type-length-value fields (HAProxy's
// proxy-protocol.txt, 2.2).

#include <string.h>

#include "proxy_protocol_internal.h"

_Static_assert(PROXY_HEADER_V2_MAX >= V2_FIXED + V2_UNIX_LENGTH + (size_t)2 * (TLV_HEADER + PROXY_HEADER_TEXT_MAX) +
                                          TLV_HEADER + PROXY_HEADER_ID_MAX + TLV_HEADER + TLV_TLS_FIXED +
                                          (size_t)3 * (TLV_HEADER + PROXY_HEADER_TEXT_MAX) + PROXY_HEADER_PASSED_MAX +
                                          TLV_HEADER + CRC_LENGTH,
               "every header fits");

uint32_t proxy_header_crc32c(const uint8_t *header, size_t length, size_t crc_at)
{
    // The polynomial 0x1EDC6F41, bits reversed, four bits at a time.
    static const uint32_t table[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < length; i++) {
        bool is_checksum = i >= crc_at && i - crc_at < CRC_LENGTH;
        crc ^= is_checksum ? 0 : header[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

// TLVs, of the header or inside of another one

static uint32_t number_of(const uint8_t *bytes, size_t count)
{
    uint32_t number = 0;
    for (size_t i = 0; i < count; i++)
        number = number << 8 | bytes[i];
    return number;
}

struct fields {
    const uint8_t *at;
    size_t left;
};

struct field {
    uint8_t type;
    struct proxy_header_text value;
};

static bool next_field(struct fields *fields, struct field *field)
{
    if (fields->left < TLV_HEADER)
        return false;
    size_t length = number_of(fields->at + 1, 2);
    if (length > fields->left - TLV_HEADER)
        return false;
    field->type = fields->at[0];
    field->value = (struct proxy_header_text){.bytes = fields->at + TLV_HEADER, .length = length};
    fields->at += TLV_HEADER + length;
    fields->left -= TLV_HEADER + length;
    return true;
}

// Encoding

struct writer {
    uint8_t *start;
    size_t length;
};

static void put(struct writer *writer, const void *bytes, size_t length)
{
    if (length > 0)
        memcpy(writer->start + writer->length, bytes, length);
    writer->length += length;
}

static void put_number(struct writer *writer, size_t bytes, uint32_t number)
{
    while (bytes-- > 0)
        writer->start[writer->length++] = (uint8_t)(number >> (8 * bytes));
}

// Room for a length that will be known later; returns where it is.
static size_t put_length(struct writer *writer)
{
    put_number(writer, 2, 0);
    return writer->length - 2;
}

// What has been written behind it.
static void set_length(struct writer *writer, size_t at)
{
    size_t length = writer->length - at - 2;
    writer->start[at] = (uint8_t)(length >> 8);
    writer->start[at + 1] = (uint8_t)length;
}

static void put_addresses(struct writer *writer, const struct proxy_header_pair *pair)
{
    size_t size = pair->family == PROXY_HEADER_IPV4   ? 4
                  : pair->family == PROXY_HEADER_IPV6 ? 16
                  : pair->family == PROXY_HEADER_UNIX ? PROXY_HEADER_UNIX_SIZE
                                                      : 0;
    put(writer, pair->source.address, size);
    put(writer, pair->destination.address, size);
    if (pair->family == PROXY_HEADER_IPV4 || pair->family == PROXY_HEADER_IPV6) {
        put_number(writer, 2, pair->source.port);
        put_number(writer, 2, pair->destination.port);
    }
}

static void put_text(struct writer *writer, uint8_t type, const struct proxy_header_text *text, size_t max)
{
    if (text->length == 0 || text->length > max)
        return;
    put_number(writer, 1, type);
    put_number(writer, 2, (uint32_t)text->length);
    put(writer, text->bytes, text->length);
}

static void put_tls(struct writer *writer, const struct proxy_header_tls *tls)
{
    if (!tls->is_used)
        return;
    put_number(writer, 1, TLV_TLS);
    size_t length_at = put_length(writer);
    unsigned bits = TLS_IS_USED | (tls->has_certificate ? TLS_CERTIFICATE_CONN : 0) |
                    (tls->is_session_certified ? TLS_CERTIFICATE_SESS : 0);
    put_number(writer, 1, bits);
    put_number(writer, 4, tls->verify_result);
    put_text(writer, TLV_TLS_VERSION, &tls->version, PROXY_HEADER_TEXT_MAX);
    put_text(writer, TLV_TLS_CN, &tls->common_name, PROXY_HEADER_TEXT_MAX);
    put_text(writer, TLV_TLS_CIPHER, &tls->cipher, PROXY_HEADER_TEXT_MAX);
    set_length(writer, length_at);
}

// What every sender tells anew, of what it knows, is not passed on: a receiver would take it for what we know. Nor is
// padding, nor the network namespace, by which receivers choose where to connect to.
static bool is_passed(uint8_t type)
{
    switch (type) {
    case TLV_ALPN:
    case TLV_AUTHORITY:
    case TLV_CRC32C:
    case TLV_NOOP:
    case TLV_UNIQUE_ID:
    case TLV_NETNS:
        return false;
    default:
        return type < TLV_TLS || type > TLV_TLS_LAST;
    }
}

static void put_passed(struct writer *writer, struct fields fields)
{
    struct field field;
    size_t room = PROXY_HEADER_PASSED_MAX;
    while (next_field(&fields, &field)) {
        size_t size = TLV_HEADER + field.value.length;
        if (!is_passed(field.type) || size > room)
            continue;
        put(writer, field.value.bytes - TLV_HEADER, size);
        room -= size;
    }
}

static void put_crc(struct writer *writer, size_t length_at)
{
    put_number(writer, 1, TLV_CRC32C);
    put_number(writer, 2, CRC_LENGTH);
    size_t crc_at = writer->length;
    put_number(writer, CRC_LENGTH, 0);
    set_length(writer, length_at);
    uint32_t crc = proxy_header_crc32c(writer->start, writer->length, crc_at);
    writer->length = crc_at;
    put_number(writer, CRC_LENGTH, crc);
}

size_t proxy_header_encode_v2(const struct proxy_header *header, uint8_t out[PROXY_HEADER_V2_MAX])
{
    static const uint8_t protocols[] = {
        [PROXY_HEADER_UNKNOWN] = V2_UNSPEC,
        [PROXY_HEADER_IPV4] = V2_INET << 4 | V2_STREAM,
        [PROXY_HEADER_IPV6] = V2_INET6 << 4 | V2_STREAM,
        [PROXY_HEADER_UNIX] = V2_UNIX << 4 | V2_STREAM,
    };
    struct proxy_header_pair pair = proxy_header_pair_of(header);
    struct writer writer = {.start = out};
    put(&writer, V2_SIGNATURE, V2_SIGNATURE_LENGTH);
    put_number(&writer, 1, V2_VERSION | (header->is_local ? V2_LOCAL : V2_PROXY));
    put_number(&writer, 1, protocols[pair.family]);
    size_t length_at = put_length(&writer);
    // Nothing is to follow a LOCAL.
    if (header->is_local)
        return writer.length;
    put_addresses(&writer, &pair);
    put_text(&writer, TLV_ALPN, &header->protocol, PROXY_HEADER_TEXT_MAX);
    put_text(&writer, TLV_AUTHORITY, &header->authority, PROXY_HEADER_TEXT_MAX);
    put_text(&writer, TLV_UNIQUE_ID, &header->unique_id, PROXY_HEADER_ID_MAX);
    put_tls(&writer, &header->tls);
    put_passed(&writer, (struct fields){.at = header->fields.bytes, .left = header->fields.length});
    if (header->has_no_checksum)
        set_length(&writer, length_at);
    else
        put_crc(&writer, length_at);
    return writer.length;
}

// Decoding

static const char *read_tls(const struct proxy_header_text *value, struct proxy_header_tls *tls)
{
    if (value->length < TLV_TLS_FIXED)
        return "a PROXY protocol header whose SSL field is malformed";
    uint8_t bits = value->bytes[0];
    *tls = (struct proxy_header_tls){
        .is_used = (bits & TLS_IS_USED) != 0,
        .has_certificate = (bits & TLS_CERTIFICATE_CONN) != 0,
        .is_session_certified = (bits & TLS_CERTIFICATE_SESS) != 0,
        .verify_result = number_of(value->bytes + 1, 4),
    };
    struct fields fields = {.at = value->bytes + TLV_TLS_FIXED, .left = value->length - TLV_TLS_FIXED};
    struct field field;
    while (fields.left > 0) {
        if (!next_field(&fields, &field))
            return "a PROXY protocol header whose SSL field is malformed";
        if (field.type == TLV_TLS_VERSION)
            tls->version = field.value;
        else if (field.type == TLV_TLS_CN)
            tls->common_name = field.value;
        else if (field.type == TLV_TLS_CIPHER)
            tls->cipher = field.value;
    }
    return NULL;
}

static const char *check_crc(const uint8_t *bytes, size_t length, const struct proxy_header_text *value)
{
    if (value->length != CRC_LENGTH)
        return "a PROXY protocol header whose checksum is malformed";
    uint32_t crc = proxy_header_crc32c(bytes, length, (size_t)(value->bytes - bytes));
    return crc == number_of(value->bytes, CRC_LENGTH) ? NULL : "a PROXY protocol header with a wrong checksum";
}

static const char *read_field(const uint8_t *bytes, size_t length, const struct field *field,
                              struct proxy_header *header)
{
    switch (field->type) {
    case TLV_ALPN:
        header->protocol = field->value;
        return NULL;
    case TLV_AUTHORITY:
        header->authority = field->value;
        return NULL;
    case TLV_UNIQUE_ID:
        header->unique_id = field->value;
        return field->value.length <= PROXY_HEADER_ID_MAX
                   ? NULL
                   : "a PROXY protocol header whose unique id is longer than 128 bytes";
    case TLV_CRC32C:
        return check_crc(bytes, length, &field->value);
    case TLV_TLS:
        return read_tls(&field->value, &header->tls);
    default:
        return NULL;
    }
}

// Addresses

static void read_addresses(const uint8_t *at, unsigned family, struct proxy_header *header)
{
    static const size_t sizes[] = {[V2_INET] = 4, [V2_INET6] = 16, [V2_UNIX] = PROXY_HEADER_UNIX_SIZE};
    static const enum proxy_header_family families[] = {
        [V2_INET] = PROXY_HEADER_IPV4, [V2_INET6] = PROXY_HEADER_IPV6, [V2_UNIX] = PROXY_HEADER_UNIX};
    size_t size = sizes[family];
    header->source.family = header->destination.family = families[family];
    memcpy(header->source.address, at, size);
    memcpy(header->destination.address, at + size, size);
    if (family != V2_UNIX) {
        header->source.port = (uint16_t)number_of(at + 2 * size, 2);
        header->destination.port = (uint16_t)number_of(at + 2 * size + 2, 2);
    }
}

static bool are_whole(struct fields fields)
{
    struct field field;
    while (fields.left > 0)
        if (!next_field(&fields, &field))
            return false;
    return true;
}

static const char *read_body(const uint8_t *bytes, size_t length, struct proxy_header *header)
{
    static const size_t lengths[] = {
        [V2_INET] = V2_INET_LENGTH, [V2_INET6] = V2_INET6_LENGTH, [V2_UNIX] = V2_UNIX_LENGTH};
    header->is_local = (bytes[12] & 15) == V2_LOCAL;
    unsigned family = bytes[13] >> 4;
    unsigned transport = bytes[13] & 15;
    // "must accept this connection as valid" and "discard the protocol block": not even the checksum is looked at.
    if (header->is_local)
        return NULL;
    bool has_addresses = family != V2_UNSPEC && transport != 0;
    struct fields fields = {.at = bytes + V2_FIXED, .left = length - V2_FIXED};
    if (fields.left < lengths[family])
        return has_addresses ? "a PROXY protocol header that is too short for its addresses" : NULL;
    // Datagrams do not come by a stream: their addresses are as good as unknown.
    if (has_addresses && transport == V2_STREAM)
        read_addresses(fields.at, family, header);
    fields.at += lengths[family];
    fields.left -= lengths[family];
    // Where no addresses are told of, some put what they like: TLVs are what reads as such from end to end.
    if (!has_addresses && !are_whole(fields))
        return NULL;
    struct field field;
    header->fields = (struct proxy_header_text){.bytes = fields.at, .length = fields.left};
    while (fields.left > 0) {
        if (!next_field(&fields, &field))
            return "a PROXY protocol header whose last field is cut short";
        const char *reason = read_field(bytes, length, &field, header);
        if (reason != NULL)
            return reason;
    }
    return NULL;
}

// What is wrong with the fixed bytes, as far as they have come; NULL: nothing.
static const char *check_fixed(const uint8_t *bytes, size_t length)
{
    if (length > 12 && (bytes[12] & 0xf0) != V2_VERSION)
        return "a PROXY protocol header of an unknown version";
    if (length > 12 && (bytes[12] & 15) > V2_PROXY)
        return "a PROXY protocol header with an unknown command";
    // Of a LOCAL all else is ignored.
    if (length > 13 && (bytes[12] & 15) == V2_PROXY && (bytes[13] >> 4 > V2_UNIX || (bytes[13] & 15) > V2_DGRAM))
        return "a PROXY protocol header of an unknown address family";
    return NULL;
}

enum proxy_header_state proxy_header_decode_v2(const uint8_t *bytes, size_t length,
                                               struct proxy_header_decoded *decoded)
{
    const char *reason = check_fixed(bytes, length);
    if (reason != NULL)
        return proxy_header_invalid(decoded, reason);
    if (length < V2_FIXED)
        return proxy_header_needs(decoded, V2_FIXED);
    size_t whole = V2_FIXED + number_of(bytes + 14, 2);
    if (whole > PROXY_HEADER_DECODED_MAX)
        return proxy_header_invalid(decoded, "a PROXY protocol header longer than 4096 bytes");
    if (length < whole)
        return proxy_header_needs(decoded, whole);
    struct proxy_header header = {.is_local = false};
    reason = read_body(bytes, whole, &header);
    if (reason != NULL)
        return proxy_header_invalid(decoded, reason);
    decoded->header = header;
    decoded->version = 2;
    decoded->length = whole;
    return PROXY_HEADER_COMPLETE;
}
