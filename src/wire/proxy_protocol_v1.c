// Version 1 of the PROXY protocol: one line of text (HAProxy's proxy-protocol.txt, 2.1).

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "proxy_protocol_internal.h"

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
    struct proxy_header_pair pair = proxy_header_pair_of(header);
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

// Decoding

struct cursor {
    const uint8_t *at;
    const uint8_t *end; // where the CRLF is
};

// The line's end, if it has come: a CRLF, and neither of the two alone.
static enum proxy_header_state find_end(const uint8_t *bytes, size_t length, struct proxy_header_decoded *decoded,
                                        size_t *end)
{
    static const char too_long[] = "a PROXY protocol line longer than 107 bytes";
    size_t within = length < PROXY_HEADER_V1_MAX ? length : PROXY_HEADER_V1_MAX;
    for (size_t i = 0; i < within; i++) {
        if (bytes[i] == '\n')
            return proxy_header_invalid(decoded, "a PROXY protocol line with an LF without a CR before it");
        if (bytes[i] != '\r')
            continue;
        if (i + 1 == PROXY_HEADER_V1_MAX)
            return proxy_header_invalid(decoded, too_long);
        if (i + 1 == length)
            return proxy_header_needs(decoded, length + 1);
        if (bytes[i + 1] != '\n')
            return proxy_header_invalid(decoded, "a PROXY protocol line with a CR without an LF after it");
        *end = i;
        return PROXY_HEADER_COMPLETE;
    }
    size_t needed = length + 2 > V1_SHORTEST ? length + 2 : V1_SHORTEST;
    return needed > PROXY_HEADER_V1_MAX ? proxy_header_invalid(decoded, too_long) : proxy_header_needs(decoded, needed);
}

static bool take(struct cursor *cursor, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(cursor->end - cursor->at) < length || memcmp(cursor->at, word, length) != 0)
        return false;
    cursor->at += length;
    return true;
}

// Decimal, without a zero before other digits.
static bool take_number(struct cursor *cursor, unsigned max, unsigned *number)
{
    const uint8_t *start = cursor->at;
    unsigned value = 0;
    while (cursor->at < cursor->end && isdigit(*cursor->at) && value <= max)
        value = value * 10 + (unsigned)(*cursor->at++ - '0');
    size_t digits = (size_t)(cursor->at - start);
    if (digits == 0 || value > max || (digits > 1 && *start == '0'))
        return false;
    *number = value;
    return true;
}

static bool take_ipv4(struct cursor *cursor, struct proxy_header_address *end)
{
    end->family = PROXY_HEADER_IPV4;
    for (size_t i = 0; i < 4; i++) {
        unsigned number;
        if ((i > 0 && !take(cursor, ".")) || !take_number(cursor, 255, &number))
            return false;
        end->address[i] = (uint8_t)number;
    }
    return true;
}

// An address that ends as IPv4 does (::ffff:192.0.2.1) is beyond the specification, but is what nginx sends.
static bool take_ipv6(struct cursor *cursor, struct proxy_header_address *end)
{
    char text[INET6_ADDRSTRLEN];
    size_t length = 0;
    while (cursor->at < cursor->end && *cursor->at != ' ' && *cursor->at != '\0' && length < sizeof text - 1)
        text[length++] = (char)*cursor->at++;
    text[length] = '\0';
    end->family = PROXY_HEADER_IPV6;
    return inet_pton(AF_INET6, text, end->address) == 1;
}

// Each address is of the family that it is written in. A line that names the family of one end only is beyond the
// specification, too: nginx names the source's, and writes what it knows of both, which are of two families where a
// client of one was declared to it over the other.
static bool take_address(struct cursor *cursor, struct proxy_header_address *end)
{
    const uint8_t *at = cursor->at;
    while (at < cursor->end && *at != ' ' && *at != ':')
        at++;
    return at < cursor->end && *at == ':' ? take_ipv6(cursor, end) : take_ipv4(cursor, end);
}

static bool take_port(struct cursor *cursor, struct proxy_header_address *end)
{
    unsigned number;
    if (!take_number(cursor, UINT16_MAX, &number))
        return false;
    end->port = (uint16_t)number;
    return true;
}

static const char *read_line(struct cursor *cursor, struct proxy_header *header)
{
    if (take(cursor, "UNKNOWN")) {
        // The rest of the line means nothing.
        return cursor->at == cursor->end || *cursor->at == ' ' ? NULL : "a PROXY protocol line of an unknown protocol";
    }
    bool is_ipv4 = take(cursor, "TCP4 ");
    if (!is_ipv4 && !take(cursor, "TCP6 "))
        return "a PROXY protocol line of an unknown protocol";
    if (!take_address(cursor, &header->source) || !take(cursor, " "))
        return "a PROXY protocol line whose source address is malformed";
    if (!take_address(cursor, &header->destination) || !take(cursor, " "))
        return "a PROXY protocol line whose destination address is malformed";
    enum proxy_header_family named = is_ipv4 ? PROXY_HEADER_IPV4 : PROXY_HEADER_IPV6;
    if (header->source.family != named && header->destination.family != named)
        return "a PROXY protocol line whose addresses are not of the family that it names";
    if (!take_port(cursor, &header->source) || !take(cursor, " "))
        return "a PROXY protocol line whose source port is malformed";
    if (!take_port(cursor, &header->destination))
        return "a PROXY protocol line whose destination port is malformed";
    return cursor->at == cursor->end ? NULL : "a PROXY protocol line with something after its ports";
}

enum proxy_header_state proxy_header_decode_v1(const uint8_t *bytes, size_t length,
                                               struct proxy_header_decoded *decoded)
{
    size_t end = 0;
    if (length < V1_BEGINNING_LENGTH)
        return proxy_header_needs(decoded, V1_SHORTEST);
    enum proxy_header_state state = find_end(bytes, length, decoded, &end);
    if (state != PROXY_HEADER_COMPLETE)
        return state;
    struct cursor cursor = {.at = bytes + V1_BEGINNING_LENGTH, .end = bytes + end};
    struct proxy_header header = {.is_local = false};
    const char *reason =
        end < V1_BEGINNING_LENGTH ? "a PROXY protocol line that is cut short" : read_line(&cursor, &header);
    if (reason != NULL)
        return proxy_header_invalid(decoded, reason);
    decoded->header = header;
    decoded->version = 1;
    decoded->length = end + 2;
    return PROXY_HEADER_COMPLETE;
}
