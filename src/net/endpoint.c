// Endpoints: the half of bitflow/net/address.h that speaks the kernel's language.

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/text.h"
#include "bitflow/net/address.h"

static bool ipv4_endpoint(const struct address *address, struct endpoint *endpoint)
{
    struct sockaddr_in inet = {.sin_family = AF_INET, .sin_port = htons(address->port)};
    if (address->host[0] != '\0' && inet_pton(AF_INET, address->host, &inet.sin_addr) != 1)
        return false;
    *endpoint = (struct endpoint){.length = sizeof inet};
    memcpy(&endpoint->address, &inet, sizeof inet);
    return true;
}

// The zone of a link-local address: an interface's name or number.
static bool find_zone(const char *zone, uint32_t *index)
{
    *index = if_nametoindex(zone);
    if (*index != 0)
        return true;
    char *end;
    errno = 0;
    unsigned long number = strtoul(zone, &end, 10);
    if (errno != 0 || *zone < '0' || *zone > '9' || *end != '\0' || number == 0 || number > UINT32_MAX)
        return false;
    *index = (uint32_t)number;
    return true;
}

static bool ipv6_endpoint(const struct address *address, struct endpoint *endpoint)
{
    struct sockaddr_in6 inet = {.sin6_family = AF_INET6, .sin6_port = htons(address->port)};
    if (address->host[0] != '\0') {
        char bare[INET6_ADDRSTRLEN];
        const char *percent = strchrnul(address->host, '%');
        size_t length = (size_t)(percent - address->host);
        if (length >= sizeof bare)
            return false;
        memcpy(bare, address->host, length);
        bare[length] = '\0';
        if (inet_pton(AF_INET6, bare, &inet.sin6_addr) != 1)
            return false;
        if (*percent == '%' && !find_zone(percent + 1, &inet.sin6_scope_id))
            return false;
    }
    *endpoint = (struct endpoint){.length = sizeof inet};
    memcpy(&endpoint->address, &inet, sizeof inet);
    return true;
}

static bool unix_endpoint(const struct address *address, struct endpoint *endpoint)
{
    *endpoint = (struct endpoint){.address.local.sun_family = AF_UNIX};
    size_t length = strlen(address->path);
    size_t header = offsetof(struct sockaddr_un, sun_path);
    // An abstract name begins with a zero byte and has no end but the length's; a path's end is a zero byte.
    memcpy(endpoint->address.local.sun_path + (address->is_abstract ? 1 : 0), address->path, length);
    endpoint->length = (socklen_t)(header + length + 1);
    return true;
}

bool endpoint_of_address(const struct address *address, struct endpoint *endpoint)
{
    switch (address->kind) {
    case ADDRESS_TCP:
        if (!address->is_literal)
            return false;
        return address->family == ADDRESS_IPV4 ? ipv4_endpoint(address, endpoint) : ipv6_endpoint(address, endpoint);
    case ADDRESS_UNIX:
        return unix_endpoint(address, endpoint);
    case ADDRESS_FD:
        return false;
    }
    return false;
}

sa_family_t endpoint_family(const struct endpoint *endpoint)
{
    return endpoint->length > 0 ? endpoint->address.any.sa_family : AF_UNSPEC;
}

bool endpoint_is_tcp(const struct endpoint *endpoint)
{
    return endpoint_family(endpoint) == AF_INET || endpoint_family(endpoint) == AF_INET6;
}

bool endpoint_is_wildcard(const struct endpoint *endpoint)
{
    struct sockaddr_in inet;
    struct sockaddr_in6 inet6;
    if (endpoint_family(endpoint) == AF_INET) {
        memcpy(&inet, &endpoint->address, sizeof inet);
        return inet.sin_addr.s_addr == htonl(INADDR_ANY);
    }
    if (endpoint_family(endpoint) != AF_INET6)
        return false;
    memcpy(&inet6, &endpoint->address, sizeof inet6);
    return IN6_IS_ADDR_UNSPECIFIED(&inet6.sin6_addr);
}

bool endpoint_equal(const struct endpoint *a, const struct endpoint *b)
{
    if (a->length == 0 || b->length == 0)
        return a->length == b->length;
    if (a->address.any.sa_family != b->address.any.sa_family)
        return false;
    // Field by field: the paddings need not agree.
    if (a->address.any.sa_family == AF_INET) {
        struct sockaddr_in left, right;
        memcpy(&left, &a->address, sizeof left);
        memcpy(&right, &b->address, sizeof right);
        return left.sin_port == right.sin_port && left.sin_addr.s_addr == right.sin_addr.s_addr;
    }
    if (a->address.any.sa_family == AF_INET6) {
        struct sockaddr_in6 left, right;
        memcpy(&left, &a->address, sizeof left);
        memcpy(&right, &b->address, sizeof right);
        return left.sin6_port == right.sin6_port && left.sin6_scope_id == right.sin6_scope_id &&
               memcmp(&left.sin6_addr, &right.sin6_addr, sizeof left.sin6_addr) == 0;
    }
    return a->length == b->length && memcmp(&a->address, &b->address, a->length) == 0;
}

static void format_ipv6(const struct sockaddr_in6 *inet, char out[ENDPOINT_TEXT_SIZE])
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (IN6_IS_ADDR_V4MAPPED(&inet->sin6_addr)) {
        (void)inet_ntop(AF_INET, &inet->sin6_addr.s6_addr[12], host, sizeof host);
        (void)snprintf(out, ENDPOINT_TEXT_SIZE, "%s:%u", host, (unsigned)ntohs(inet->sin6_port));
        return;
    }
    (void)inet_ntop(AF_INET6, &inet->sin6_addr, host, sizeof host);
    char zone[IF_NAMESIZE] = "";
    if (inet->sin6_scope_id != 0 && if_indextoname(inet->sin6_scope_id, zone) == NULL)
        (void)snprintf(zone, sizeof zone, "%u", (unsigned)inet->sin6_scope_id);
    (void)snprintf(out, ENDPOINT_TEXT_SIZE, "[%s%s%s]:%u", host, zone[0] != '\0' ? "%" : "", zone,
                   (unsigned)ntohs(inet->sin6_port));
}

static void format_unix(const struct endpoint *endpoint, char out[ENDPOINT_TEXT_SIZE])
{
    const char *name = endpoint->address.local.sun_path;
    size_t header = offsetof(struct sockaddr_un, sun_path);
    size_t length = endpoint->length > header ? endpoint->length - header : 0;
    const char *prefix = "unix://";
    if (length == 0) {
        prefix = "unix:";
    } else if (name[0] == '\0') {
        prefix = "unix://@";
        name++;
        length--;
    } else {
        length = strnlen(name, length);
    }
    size_t used = strlen(prefix);
    memcpy(out, prefix, used);
    for (size_t i = 0; i < length; i++) {
        bool plain = text_is_visible_ascii(name[i]) && name[i] != '\\';
        if (used + (plain ? 1 : 4) >= ENDPOINT_TEXT_SIZE)
            break;
        if (plain)
            out[used++] = name[i];
        else
            used += (size_t)snprintf(out + used, ENDPOINT_TEXT_SIZE - used, "\\x%02x", (unsigned char)name[i]);
    }
    out[used] = '\0';
}

static char *put_number(char *at, unsigned number)
{
    char digits[TEXT_DECIMAL_MAX], *end = digits + sizeof digits;
    const char *begin = text_decimal(end, number, 1);
    return mempcpy(at, begin, (size_t)(end - begin));
}

// By hand: each record of the connection log has three of them.
static void format_ipv4(const struct sockaddr_in *inet, char *at)
{
    unsigned char bytes[4];
    memcpy(bytes, &inet->sin_addr, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        at = put_number(at, bytes[i]);
        *at++ = i + 1 < sizeof bytes ? '.' : ':';
    }
    *put_number(at, ntohs(inet->sin_port)) = '\0';
}

void endpoint_format(const struct endpoint *endpoint, char out[ENDPOINT_TEXT_SIZE])
{
    sa_family_t family = endpoint_family(endpoint);
    if (family == AF_INET) {
        struct sockaddr_in inet;
        memcpy(&inet, &endpoint->address, sizeof inet);
        format_ipv4(&inet, out);
    } else if (family == AF_INET6) {
        struct sockaddr_in6 inet;
        memcpy(&inet, &endpoint->address, sizeof inet);
        format_ipv6(&inet, out);
    } else if (family == AF_UNIX) {
        format_unix(endpoint, out);
    } else {
        (void)snprintf(out, ENDPOINT_TEXT_SIZE, family == AF_UNSPEC ? "none" : "family %u", (unsigned)family);
    }
}
