#include "proxy_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>

#define UNIX_HEADER offsetof(struct sockaddr_un, sun_path)

_Static_assert(sizeof(((struct sockaddr_un *)NULL)->sun_path) == PROXY_HEADER_UNIX_SIZE, "a path fits either way");

void proxy_address_of_endpoint(const struct endpoint *endpoint, struct proxy_header_address *end)
{
    *end = (struct proxy_header_address){.family = PROXY_HEADER_UNKNOWN};
    sa_family_t family = endpoint_family(endpoint);
    if (family == AF_INET) {
        struct sockaddr_in inet;
        memcpy(&inet, &endpoint->address, sizeof inet);
        end->family = PROXY_HEADER_IPV4;
        memcpy(end->address, &inet.sin_addr, sizeof inet.sin_addr);
        end->port = ntohs(inet.sin_port);
    } else if (family == AF_INET6) {
        struct sockaddr_in6 inet;
        memcpy(&inet, &endpoint->address, sizeof inet);
        end->family = PROXY_HEADER_IPV6;
        memcpy(end->address, &inet.sin6_addr, sizeof inet.sin6_addr);
        end->port = ntohs(inet.sin6_port);
    } else if (family == AF_UNIX) {
        // Of a path that takes all of the room, the kernel's length counts a zero that has none (unix(7), BUGS).
        size_t length = endpoint->length - UNIX_HEADER;
        end->family = PROXY_HEADER_UNIX;
        memcpy(end->address, endpoint->address.local.sun_path,
               length < sizeof end->address ? length : sizeof end->address);
    }
}

// A path ends by a zero byte, if it doesn't take all of the room; an abstract name begins with one.
static void set_unix(const struct proxy_header_address *end, struct endpoint *endpoint)
{
    size_t length = PROXY_HEADER_UNIX_SIZE;
    while (length > 0 && end->address[length - 1] == 0)
        length--;
    if (end->address[0] != 0) {
        length = strnlen((const char *)end->address, PROXY_HEADER_UNIX_SIZE);
        if (length < PROXY_HEADER_UNIX_SIZE)
            length++; // its zero
    }
    endpoint->address.local.sun_family = AF_UNIX;
    memcpy(endpoint->address.local.sun_path, end->address, length);
    endpoint->length = (socklen_t)(UNIX_HEADER + length);
}

void endpoint_of_proxy_address(const struct proxy_header_address *end, struct endpoint *endpoint)
{
    *endpoint = (struct endpoint){.length = 0};
    if (end->family == PROXY_HEADER_IPV4) {
        struct sockaddr_in inet = {.sin_family = AF_INET, .sin_port = htons(end->port)};
        memcpy(&inet.sin_addr, end->address, sizeof inet.sin_addr);
        memcpy(&endpoint->address, &inet, sizeof inet);
        endpoint->length = sizeof inet;
    } else if (end->family == PROXY_HEADER_IPV6) {
        struct sockaddr_in6 inet = {.sin6_family = AF_INET6, .sin6_port = htons(end->port)};
        memcpy(&inet.sin6_addr, end->address, sizeof inet.sin6_addr);
        memcpy(&endpoint->address, &inet, sizeof inet);
        endpoint->length = sizeof inet;
    } else if (end->family == PROXY_HEADER_UNIX) {
        set_unix(end, endpoint);
    }
}
