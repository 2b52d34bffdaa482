// Version 2 of the PROXY protocol: 16 fixed bytes, the addresses, type-length-value fields.

#include <string.h>

#include "proxy_header_parts.h"

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

static uint32_t number_of(const uint8_t *bytes, size_t count)
{
    uint32_t number = 0;
    for (size_t i = 0; i < count; i++)
        number = number << 8 | bytes[i];
    return number;
}

// TLVs, of the header or inside of another one

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
    while (fields.left > 0) {
        if (!next_field(&fields, &field))
            return "a PROXY protocol header whose last field is cut";
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
