#include "listener_checks.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "target_checks.h"

#define IP_BYTES 16

// Which addresses of one family an address in the configuration stands for.
enum extent {
    EXTENT_NONE,
    EXTENT_ONE,
    EXTENT_ALL, // of this host
    EXTENT_OWN, // some of this host
    EXTENT_UNKNOWN
};

enum { IPV4, IPV6, FAMILIES };

struct reach {
    enum extent extents[FAMILIES];
    uint8_t bytes[FAMILIES][IP_BYTES]; // EXTENT_ONE: zeros behind an IPv4 address
    const char *zone;                  // of an IPv6 address, with its %; or ""
};

// This host, asked when it is first needed.
struct host {
    char name[HOST_NAME_MAX + 1];
    bool has_addresses;
    struct ifaddrs *addresses; // NULL: none, or they cannot be had
};

static bool is_named(const char *host, const char *name)
{
    size_t length = strlen(name);
    return length > 0 && strncasecmp(host, name, length) == 0 &&
           (host[length] == '\0' || strcmp(host + length, ".") == 0);
}

// RFC 6761 6.3: localhost, and all below it.
static bool is_localhost(const char *host)
{
    static const char name[] = "localhost";
    const size_t length = sizeof name - 1;
    size_t whole = strlen(host);
    whole -= whole > 0 && host[whole - 1] == '.';
    return whole >= length && strncasecmp(host + whole - length, name, length) == 0 &&
           (whole == length || host[whole - length - 1] == '.');
}

// What an IPv4 address in IPv6's form begins with.
static const uint8_t mapped[IP_BYTES - sizeof(struct in_addr)] = {[10] = 0xff, [11] = 0xff};

static void set_one(struct reach *reach, int family, const char *text)
{
    char bare[INET6_ADDRSTRLEN];
    size_t length = strcspn(text, "%");
    if (length >= sizeof bare)
        return;
    memcpy(bare, text, length);
    bare[length] = '\0';
    uint8_t bytes[IP_BYTES] = {0};
    if (inet_pton(family == IPV4 ? AF_INET : AF_INET6, bare, bytes) != 1)
        return;
    if (family == IPV6 && memcmp(bytes, mapped, sizeof mapped) == 0) {
        memmove(bytes, bytes + sizeof mapped, sizeof bytes - sizeof mapped);
        memset(bytes + sizeof bytes - sizeof mapped, 0, sizeof mapped);
        family = IPV4;
    }
    static const uint8_t any[IP_BYTES];
    reach->extents[family] = memcmp(bytes, any, sizeof any) == 0 ? EXTENT_ALL : EXTENT_ONE;
    memcpy(reach->bytes[family], bytes, sizeof bytes);
    reach->zone = text + length;
}

static struct reach reach_of(const struct address *address, const struct host *host)
{
    struct reach reach = {.zone = ""};
    bool may_be[FAMILIES] = {address->family != ADDRESS_IPV6, address->family != ADDRESS_IPV4};
    if (address->kind != ADDRESS_TCP)
        return reach;
    if (address->is_literal && address->host[0] != '\0') {
        set_one(&reach, address->family == ADDRESS_IPV4 ? IPV4 : IPV6, address->host);
        return reach;
    }
    static const char *const loopback[FAMILIES] = {"127.0.0.1", "::1"};
    for (int family = 0; family < FAMILIES; family++) {
        if (!may_be[family])
            continue;
        if (address->host[0] == '\0')
            reach.extents[family] = EXTENT_ALL;
        else if (is_localhost(address->host))
            set_one(&reach, family, loopback[family]);
        else
            reach.extents[family] = is_named(address->host, host->name) ? EXTENT_OWN : EXTENT_UNKNOWN;
    }
    return reach;
}

static bool is_same_one(const struct reach *a, const struct reach *b, int family)
{
    return a->extents[family] == EXTENT_ONE && b->extents[family] == EXTENT_ONE &&
           memcmp(a->bytes[family], b->bytes[family], IP_BYTES) == 0 &&
           (family == IPV4 || strcmp(a->zone, b->zone) == 0);
}

static bool is_by_name(const struct reach *reach)
{
    for (int family = 0; family < FAMILIES; family++)
        if (reach->extents[family] == EXTENT_OWN || reach->extents[family] == EXTENT_UNKNOWN)
            return true;
    return false;
}

// Whether `all` takes every address that a name may turn out to have.
static bool covers_name(const struct reach *all, const struct reach *name)
{
    for (int family = 0; family < FAMILIES; family++)
        if (name->extents[family] != EXTENT_NONE && all->extents[family] != EXTENT_ALL)
            return false;
    return true;
}

// Whether two listeners want the same address.
static bool reaches_overlap(const struct reach *a, const struct reach *b)
{
    if (is_by_name(a) || is_by_name(b))
        return covers_name(a, b) || covers_name(b, a);
    for (int family = 0; family < FAMILIES; family++) {
        bool is_all = a->extents[family] == EXTENT_ALL || b->extents[family] == EXTENT_ALL;
        bool are_both = a->extents[family] != EXTENT_NONE && b->extents[family] != EXTENT_NONE;
        if ((is_all && are_both) || is_same_one(a, b, family))
            return true;
    }
    return false;
}

static bool is_loopback(const uint8_t *bytes, int family)
{
    static const uint8_t v6[IP_BYTES] = {[IP_BYTES - 1] = 1};
    return family == IPV4 ? bytes[0] == 127 : memcmp(bytes, v6, sizeof v6) == 0;
}

static bool is_address_of(const struct sockaddr *own, const uint8_t *bytes, int family)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    if (own == NULL || own->sa_family != (family == IPV4 ? AF_INET : AF_INET6))
        return false;
    if (family == IPV4) {
        memcpy(&v4, own, sizeof v4);
        return memcmp(&v4.sin_addr, bytes, sizeof v4.sin_addr) == 0;
    }
    memcpy(&v6, own, sizeof v6);
    return memcmp(&v6.sin6_addr, bytes, sizeof v6.sin6_addr) == 0;
}

static bool is_own(const uint8_t *bytes, int family, struct host *host)
{
    if (is_loopback(bytes, family))
        return true;
    if (!host->has_addresses && getifaddrs(&host->addresses) != 0)
        host->addresses = NULL;
    host->has_addresses = true;
    for (const struct ifaddrs *at = host->addresses; at != NULL; at = at->ifa_next)
        if (is_address_of(at->ifa_addr, bytes, family))
            return true;
    return false;
}

static bool family_leads_to(const struct reach *target, const struct reach *listener, int family, struct host *host)
{
    bool is_all = listener->extents[family] == EXTENT_ALL;
    switch (target->extents[family]) {
    case EXTENT_ONE:
        return is_same_one(target, listener, family) || (is_all && is_own(target->bytes[family], family, host));
    case EXTENT_ALL: // as a target: the loopback address
        return is_all || (listener->extents[family] == EXTENT_ONE && is_loopback(listener->bytes[family], family));
    case EXTENT_OWN:
        return is_all;
    case EXTENT_NONE:
    case EXTENT_UNKNOWN:
        break;
    }
    return false;
}

static bool is_same_port(const struct address *a, const struct address *b)
{
    // 0: a free one for each, or the address was refused.
    return a->kind == ADDRESS_TCP && b->kind == ADDRESS_TCP && a->port == b->port && a->port != 0;
}

struct meeting {
    const struct config *config;
    struct reach *listeners; // by the proxy's index
    struct host host;
    struct diagnostics *diagnostics;
};

// Whether connecting to the target reaches the listener of the proxy at `index`.
static bool leads_to(struct meeting *meeting, const struct target_config *target, size_t index)
{
    const struct address *address = &target->address;
    const struct address *listener = &meeting->config->proxies[index].listener.address;
    if (target->socks_proxy != NULL)
        return false; // who knows what its addresses mean there
    if (address->kind == ADDRESS_UNIX)
        return address_equal(address, listener);
    if (!is_same_port(address, listener))
        return false;
    if (!address->is_literal && address_equal(address, listener))
        return true; // whatever the name stands for
    struct reach from = reach_of(address, &meeting->host);
    const struct reach *to = &meeting->listeners[index];
    return family_leads_to(&from, to, IPV4, &meeting->host) || family_leads_to(&from, to, IPV6, &meeting->host);
}

// Where names choose the target, none may come round.
static bool any_leads_to(struct meeting *meeting, const struct proxy_config *proxy, size_t index)
{
    if (proxy->balancer == BALANCER_SNI)
        return false;
    for (size_t i = 0; i < used_targets(proxy); i++)
        if (leads_to(meeting, &proxy->targets[i], index))
            return true;
    return false;
}

static void check_overlaps(struct meeting *meeting, const struct config_path *proxy, size_t index)
{
    const struct proxy_config *proxies = meeting->config->proxies;
    const struct address *own = &proxies[index].listener.address;
    for (size_t i = 0; i < index; i++) {
        const struct address *other = &proxies[i].listener.address;
        if (!is_same_port(other, own) || !reaches_overlap(&meeting->listeners[i], &meeting->listeners[index]) ||
            address_equal(other, own)) // which is an error already
            continue;
        struct config_path listener = path_key(proxy, "listener");
        struct config_path address = path_key(&listener, "address");
        report_warning_at_value(meeting->diagnostics, &address,
                                "overlaps with that of server.proxies[%zu]: only one of them can be opened, and the "
                                "start will fail",
                                i);
        return;
    }
}

static void check_target(struct meeting *meeting, const struct config_path *target, size_t index,
                         const struct target_config *config)
{
    static const char outcome[] = "each connection would open another one, until none can be opened";
    struct config_path address = path_key(target, "address");
    if (leads_to(meeting, config, index)) {
        report_warning_at_value(meeting->diagnostics, &address, "is this proxy's own listener: %s", outcome);
        return;
    }
    for (size_t i = 0; i < meeting->config->proxy_count; i++) {
        if (i == index || !leads_to(meeting, config, i) || !any_leads_to(meeting, &meeting->config->proxies[i], index))
            continue;
        report_warning_at_value(meeting->diagnostics, &address,
                                "is the listener of server.proxies[%zu], which has this proxy's as a target: %s", i,
                                outcome);
        return;
    }
}

static void name_host(struct host *host)
{
    if (gethostname(host->name, sizeof host->name - 1) != 0)
        host->name[0] = '\0';
}

void check_where_listeners_meet(const struct config_path *proxies, const struct config *config,
                                struct diagnostics *diagnostics)
{
    struct meeting meeting = {.config = config,
                              .listeners = calloc(config->proxy_count + 1, sizeof(struct reach)),
                              .diagnostics = diagnostics};
    if (meeting.listeners == NULL) {
        diagnostics_add_general(diagnostics, "out of memory");
        return;
    }
    name_host(&meeting.host);
    for (size_t i = 0; i < config->proxy_count; i++)
        meeting.listeners[i] = reach_of(&config->proxies[i].listener.address, &meeting.host);
    for (size_t i = 0; i < config->proxy_count; i++) {
        struct config_path proxy = path_item(proxies, i);
        struct config_path targets = path_key(&proxy, "targets");
        check_overlaps(&meeting, &proxy, i);
        for (size_t n = 0; n < used_targets(&config->proxies[i]); n++) {
            struct config_path target = path_item(&targets, n);
            check_target(&meeting, &target, i, &config->proxies[i].targets[n]);
        }
    }
    if (meeting.host.addresses != NULL)
        freeifaddrs(meeting.host.addresses);
    free(meeting.listeners);
}

bool listener_addresses_overlap(const struct address *a, const struct address *b)
{
    struct host host = {.addresses = NULL};
    if (!is_same_port(a, b))
        return false;
    name_host(&host);
    struct reach from = reach_of(a, &host), to = reach_of(b, &host);
    return reaches_overlap(&from, &to);
}

bool listener_address_is_loopback(const struct address *address)
{
    const struct host unnamed = {.addresses = NULL};
    struct reach reach = reach_of(address, &unnamed);
    for (int family = 0; family < FAMILIES; family++)
        if (reach.extents[family] != EXTENT_NONE &&
            (reach.extents[family] != EXTENT_ONE || !is_loopback(reach.bytes[family], family)))
            return false;
    return address->kind == ADDRESS_TCP;
}
