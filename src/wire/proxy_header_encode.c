#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "proxy_header_parts.h"

_Static_assert(PROXY_HEADER_V2_MAX >= V2_FIXED + V2_UNIX_LENGTH + (size_t)2 * (TLV_HEADER + PROXY_HEADER_TEXT_MAX) +
                                          TLV_HEADER + PROXY_HEADER_ID_MAX + TLV_HEADER + TLV_TLS_FIXED +
                                          (size_t)3 * (TLV_HEADER + PROXY_HEADER_TEXT_MAX) + TLV_HEADER + CRC_LENGTH,
               "every header fits");

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool is_ip(const struct proxy_header_end *end)
{
    return end->family == PROXY_HEADER_IPV4 || end->family == PROXY_HEADER_IPV6;
}

static bool is_mapped(const struct proxy_header_end *end)
{
    return end->family == PROXY_HEADER_IPV6 && memcmp(end->address, mapped_prefix, sizeof mapped_prefix) == 0;
}

static void demote(struct proxy_header_end *end)
{
    if (end->family == PROXY_HEADER_IPV6)
        memmove(end->address, end->address + sizeof mapped_prefix, 4);
    end->family = PROXY_HEADER_IPV4;
}

static void promote(struct proxy_header_end *end)
{
    if (end->family == PROXY_HEADER_IPV4) {
        memmove(end->address + sizeof mapped_prefix, end->address, 4);
        memcpy(end->address, mapped_prefix, sizeof mapped_prefix);
    }
    end->family = PROXY_HEADER_IPV6;
}

struct pair {
    enum proxy_header_family family; // of both
    struct proxy_header_end source;
    struct proxy_header_end destination;
};

static struct pair pair_of(const struct proxy_header *header)
{
    struct pair pair = {.source = header->source, .destination = header->destination};
    if (header->is_local) {
        pair.family = PROXY_HEADER_UNKNOWN;
    } else if (is_ip(&pair.source) && is_ip(&pair.destination)) {
        bool is_ipv4 = (pair.source.family == PROXY_HEADER_IPV4 || is_mapped(&pair.source)) &&
                       (pair.destination.family == PROXY_HEADER_IPV4 || is_mapped(&pair.destination));
        void (*convert)(struct proxy_header_end *) = is_ipv4 ? demote : promote;
        convert(&pair.source);
        convert(&pair.destination);
        pair.family = pair.source.family;
    } else if (pair.source.family == pair.destination.family) {
        pair.family = pair.source.family;
    }
    return pair;
}

// Version 1 knows groups of hexadecimal digits only; inet_ntop() writes the end of some addresses as IPv4.
static void format_ipv6(const uint8_t address[16], char out[INET6_ADDRSTRLEN])
{
    (void)inet_ntop(AF_INET6, address, out, INET6_ADDRSTRLEN);
    char *dotted = strchr(out, '.');
    if (dotted == NULL)
        return;
    *dotted = '\0';
    char *last = strrchr(out, ':') + 1;
    (void)snprintf(last, INET6_ADDRSTRLEN - (size_t)(last - out), "%x:%x", address[12] << 8 | address[13],
                   address[14] << 8 | address[15]);
}

size_t proxy_header_encode_v1(const struct proxy_header *header, uint8_t out[PROXY_HEADER_V1_MAX])
{
    struct pair pair = pair_of(header);
    char source[INET6_ADDRSTRLEN];
    char destination[INET6_ADDRSTRLEN];
    char line[PROXY_HEADER_V1_MAX + 1];
    if (pair.family == PROXY_HEADER_IPV4) {
        (void)inet_ntop(AF_INET, pair.source.address, source, sizeof source);
        (void)inet_ntop(AF_INET, pair.destination.address, destination, sizeof destination);
    } else if (pair.family == PROXY_HEADER_IPV6) {
        format_ipv6(pair.source.address, source);
        format_ipv6(pair.destination.address, destination);
    } else {
        static const char unknown[] = V1_BEGINNING "UNKNOWN\r\n";
        memcpy(out, unknown, sizeof unknown - 1);
        return sizeof unknown - 1;
    }
    int length =
        snprintf(line, sizeof line, V1_BEGINNING "TCP%c %s %s %u %u\r\n", pair.family == PROXY_HEADER_IPV4 ? '4' : '6',
                 source, destination, (unsigned)pair.source.port, (unsigned)pair.destination.port);
    memcpy(out, line, (size_t)length);
    return (size_t)length;
}

// Version 2

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

static void put_addresses(struct writer *writer, const struct pair *pair)
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
    struct pair pair = pair_of(header);
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
    put_crc(&writer, length_at);
    return writer.length;
}
