#include "bitflow/net/address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/host_name.h"

#define PATH_MAX_BYTES (sizeof((struct address *)NULL)->path - 1)

// Text being parsed: not terminated, so that pieces of it can be named without copying them.
struct piece {
    const char *at;
    size_t length;
};

// For "%.*s"; what a person typed is quoted at most this far.
#define QUOTED_MAX 64
static int quoted(struct piece piece)
{
    return (int)(piece.length < QUOTED_MAX ? piece.length : QUOTED_MAX);
}

// ERROR_INVALID with the text `before` "piece" `after`; false, to be returned.
static bool invalid(struct error *error, const char *before, struct piece piece, const char *after)
{
    error_set(error, ERROR_INVALID, "%s\"%.*s\"%s", before, quoted(piece), piece.at, after);
    return false;
}

static bool all_digits(struct piece piece)
{
    for (size_t i = 0; i < piece.length; i++)
        if (!isdigit((unsigned char)piece.at[i]))
            return false;
    return piece.length > 0;
}

// The number, or -1 where it is above `max`.
static long number_of(struct piece digits, long max)
{
    long number = 0;
    for (size_t i = 0; i < digits.length; i++) {
        number = number * 10 + (digits.at[i] - '0');
        if (number > max)
            return -1;
    }
    return number;
}

static bool parse_port(struct piece text, enum address_use use, uint16_t *port, struct error *error)
{
    const char *range = use == ADDRESS_TO_LISTEN ? "0-65535" : "1-65535";
    if (text.length == 0) {
        error_set(error, ERROR_INVALID, "the port is missing");
        return false;
    }
    if (!all_digits(text))
        return invalid(error, "port ", text, " is not a number");
    long number = number_of(text, UINT16_MAX);
    if (number < 0 || (number == 0 && use == ADDRESS_TO_CONNECT)) {
        error_set(error, ERROR_INVALID, "port %.*s is not in %s", quoted(text), text.at, range);
        return false;
    }
    *port = (uint16_t)number;
    return true;
}

// No top-level domain is a number, and the resolver would read 127.1 or 0x7f.1 in ways nobody means.
static bool looks_numeric(struct piece name)
{
    size_t start = name.length;
    while (start > 0 && name.at[start - 1] != '.')
        start--;
    struct piece last = {name.at + start, name.length - start};
    if (last.length > 2 && last.at[0] == '0' && (last.at[1] == 'x' || last.at[1] == 'X')) {
        for (size_t i = 2; i < last.length; i++)
            if (!isxdigit((unsigned char)last.at[i]))
                return false;
        return true;
    }
    return all_digits(last);
}

// An IPv6 literal, with a zone or without, in its canonical form.
static bool canonical_ipv6(struct piece text, char out[ADDRESS_HOST_MAX + 2])
{
    const char *percent = memchr(text.at, '%', text.length);
    size_t bare_length = percent == NULL ? text.length : (size_t)(percent - text.at);
    size_t zone_length = text.length - bare_length; // with the %
    if (bare_length >= INET6_ADDRSTRLEN || zone_length == 1 || zone_length > IF_NAMESIZE)
        return false;
    for (size_t i = bare_length + 1; i < text.length; i++)
        if (!isgraph((unsigned char)text.at[i]) || strchr("%/[]", text.at[i]) != NULL)
            return false;
    char bare[INET6_ADDRSTRLEN];
    memcpy(bare, text.at, bare_length);
    bare[bare_length] = '\0';
    struct in6_addr binary;
    if (inet_pton(AF_INET6, bare, &binary) != 1 || inet_ntop(AF_INET6, &binary, out, INET6_ADDRSTRLEN) == NULL)
        return false;
    if (percent != NULL) {
        size_t length = strlen(out);
        memcpy(out + length, percent, zone_length);
        out[length + zone_length] = '\0';
    }
    return true;
}

static bool canonical_ipv4(struct piece text, char out[ADDRESS_HOST_MAX + 2])
{
    char copy[INET_ADDRSTRLEN];
    if (text.length >= sizeof copy)
        return false;
    memcpy(copy, text.at, text.length);
    copy[text.length] = '\0';
    struct in_addr binary;
    return inet_pton(AF_INET, copy, &binary) == 1 && inet_ntop(AF_INET, &binary, out, INET_ADDRSTRLEN) != NULL;
}

static bool set_literal(struct address *address, enum address_family family, struct error *error)
{
    if (address->family != ADDRESS_ANY && address->family != family) {
        error_set(error, ERROR_INVALID, "%s does not take an IPv%c address",
                  address->family == ADDRESS_IPV4 ? "tcp4" : "tcp6", family == ADDRESS_IPV4 ? '4' : '6');
        return false;
    }
    address->family = family;
    address->is_literal = true;
    return true;
}

static bool parse_host(struct piece host, enum address_use use, struct address *address, struct error *error)
{
    if (host.length == 0) {
        if (use == ADDRESS_TO_CONNECT) {
            error_set(error, ERROR_INVALID, "a target needs a host");
            return false;
        }
        address->is_literal = true;
        return true;
    }
    if (canonical_ipv4(host, address->host))
        return set_literal(address, ADDRESS_IPV4, error);
    if (host.length == 1 && host.at[0] == '*') {
        error_set(error, ERROR_INVALID, "\"*\" is not a host; to listen on every address write :PORT");
        return false;
    }
    if (memchr(host.at, ':', host.length) != NULL) {
        if (canonical_ipv6(host, address->host))
            error_set(error, ERROR_INVALID, "an IPv6 address needs brackets: [%s]:PORT", address->host);
        else
            return invalid(error, "host ", host, " has a colon; an IPv6 address is written [ADDRESS]:PORT");
        return false;
    }
    if (looks_numeric(host))
        return invalid(error, "", host, " is not an IPv4 address");
    bool has_dot = host.at[host.length - 1] == '.';
    if (!host_name_is_valid(host.at, host.length - has_dot, false))
        return invalid(error, "", host, " is not a host name");
    memcpy(address->host, host.at, host.length);
    address->host[host.length] = '\0';
    return true;
}

// What follows an IPv6 literal's opening bracket.
static bool parse_bracketed(struct piece text, enum address_use use, struct address *address, struct error *error)
{
    const char *end = memchr(text.at, ']', text.length);
    if (end == NULL) {
        error_set(error, ERROR_INVALID, "[%.*s lacks the closing bracket", quoted(text), text.at);
        return false;
    }
    struct piece host = {text.at, (size_t)(end - text.at)};
    struct piece rest = {end + 1, text.length - host.length - 1};
    if (!canonical_ipv6(host, address->host))
        return invalid(error, "", host, " is not an IPv6 address");
    if (!set_literal(address, ADDRESS_IPV6, error))
        return false;
    if (rest.length > 0 && rest.at[0] != ':')
        return invalid(error, "", rest, " follows the closing bracket, where :PORT is expected");
    struct piece port = {rest.at + (rest.length > 0), rest.length - (rest.length > 0)};
    return parse_port(port, use, &address->port, error);
}

static bool parse_tcp(struct piece text, enum address_use use, struct address *address, struct error *error)
{
    address->kind = ADDRESS_TCP;
    if (text.length > 0 && text.at[0] == '[')
        return parse_bracketed((struct piece){text.at + 1, text.length - 1}, use, address, error);
    if (text.length > 0 && text.at[0] == '/')
        return invalid(error, "", text, " has no host; a Unix socket is written unix:///path");
    const char *colon = memrchr(text.at, ':', text.length);
    if (colon == NULL && all_digits(text)) {
        error_set(error, ERROR_INVALID, "that is only a port; %s%.*s",
                  use == ADDRESS_TO_LISTEN ? "to listen on every address write :" : "a target is written HOST:",
                  quoted(text), text.at);
        return false;
    }
    if (colon == NULL) {
        error_set(error, ERROR_INVALID, "the port is missing");
        return false;
    }
    struct piece host = {text.at, (size_t)(colon - text.at)};
    struct piece port = {colon + 1, text.length - host.length - 1};
    // ::1 without a port would otherwise be the host ":" with port 1.
    if (host.length > 0 && memchr(host.at, ':', host.length) != NULL && canonical_ipv6(text, address->host) &&
        !canonical_ipv6(host, address->host)) {
        error_set(error, ERROR_INVALID, "an IPv6 address needs brackets and a port: [%.*s]:PORT", quoted(text),
                  text.at);
        return false;
    }
    return parse_host(host, use, address, error) && parse_port(port, use, &address->port, error);
}

static bool parse_unix(struct piece text, struct address *address, struct error *error)
{
    address->kind = ADDRESS_UNIX;
    address->is_abstract = text.length > 0 && text.at[0] == '@';
    if (address->is_abstract)
        text = (struct piece){text.at + 1, text.length - 1};
    if (text.length == 0) {
        error_set(error, ERROR_INVALID, "the %s is missing", address->is_abstract ? "abstract socket's name" : "path");
        return false;
    }
    if (!address->is_abstract && text.at[0] != '/')
        return invalid(error, "unix path ", text, " is not absolute; it is written unix:///path");
    if (text.length > PATH_MAX_BYTES) {
        error_set(error, ERROR_INVALID, "unix path is %zu bytes long, the limit is %zu", text.length, PATH_MAX_BYTES);
        return false;
    }
    if (!address->is_abstract && text.at[text.length - 1] == '/')
        return invalid(error, "unix path ", text, " names a directory");
    memcpy(address->path, text.at, text.length);
    address->path[text.length] = '\0';
    return true;
}

static bool parse_fd(struct piece text, struct address *address, struct error *error)
{
    address->kind = ADDRESS_FD;
    address->fd = -1;
    if (text.length == 0) {
        error_set(error, ERROR_INVALID, "the descriptor's number or name is missing");
        return false;
    }
    if (all_digits(text)) {
        long number = number_of(text, INT_MAX);
        if (number < 0)
            return invalid(error, "", text, " is too large for a descriptor");
        address->fd = (int)number;
        return true;
    }
    if (text.at[0] == '-')
        return invalid(error, "", text, " is neither a descriptor's number nor a name");
    if (text.length > ADDRESS_FD_NAME_MAX) {
        error_set(error, ERROR_INVALID, "descriptor name is %zu bytes long, the limit is %d", text.length,
                  ADDRESS_FD_NAME_MAX);
        return false;
    }
    for (size_t i = 0; i < text.length; i++)
        if (!isgraph((unsigned char)text.at[i]) || text.at[i] == ':') {
            error_set(error, ERROR_INVALID, "a descriptor's name is printable ASCII without spaces or colons");
            return false;
        }
    memcpy(address->fd_name, text.at, text.length);
    address->fd_name[text.length] = '\0';
    return true;
}

static bool piece_is(struct piece piece, const char *word)
{
    return piece.length == strlen(word) && strncasecmp(piece.at, word, piece.length) == 0;
}

// As nginx, HAProxy and ghostunnel write what is written otherwise here. Some could be HOST:PORT as well, so they are
// looked at only where that has failed.
static const struct {
    const char *prefix;
    const char *written;
} foreign_forms[] = {
    {"unix:", "a Unix socket is written unix:///path"},
    {"unix@", "a Unix socket is written unix:///path"},
    {"abns@", "an abstract socket is written unix://@name"},
    {"fd@", "an inherited descriptor is written fd://N"},
    {"fd:", "an inherited descriptor is written fd://N"},
    {"systemd:", "a socket from systemd is written fd://NAME"},
    {"tcp:", "a TCP address is written tcp://HOST:PORT"},
    {"ipv4@", "an address that is IPv4 only is written tcp4://HOST:PORT"},
    {"ipv6@", "an address that is IPv6 only is written tcp6://HOST:PORT"},
};

// Says why this is not a TCP address; false, to be returned.
static bool explain(struct piece text, enum address_use use, struct error *error)
{
    for (size_t i = 0; i < ARRAY_LENGTH(foreign_forms); i++)
        if (strncasecmp(text.at, foreign_forms[i].prefix, strlen(foreign_forms[i].prefix)) == 0) {
            error_set(error, ERROR_INVALID, "%s", foreign_forms[i].written);
            return false;
        }
    struct address ignored = {.fd = -1};
    return parse_tcp(text, use, &ignored, error);
}

bool address_parse(const char *text, enum address_use use, struct address *address, struct error *error)
{
    struct address parsed = {.fd = -1};
    struct piece rest = {text, strlen(text)};
    if (rest.length == 0) {
        error_set(error, ERROR_INVALID, "the address is empty");
        return false;
    }
    const char *separator = strstr(text, "://");
    bool good;
    if (separator == NULL) {
        good = parse_tcp(rest, use, &parsed, NULL) || explain(rest, use, error);
    } else {
        struct piece scheme = {text, (size_t)(separator - text)};
        rest = (struct piece){separator + 3, rest.length - scheme.length - 3};
        parsed.family = piece_is(scheme, "tcp4") ? ADDRESS_IPV4 : piece_is(scheme, "tcp6") ? ADDRESS_IPV6 : ADDRESS_ANY;
        if (parsed.family != ADDRESS_ANY || piece_is(scheme, "tcp"))
            good = parse_tcp(rest, use, &parsed, error);
        else if (piece_is(scheme, "unix"))
            good = parse_unix(rest, &parsed, error);
        else if (piece_is(scheme, "fd"))
            good = parse_fd(rest, &parsed, error);
        else
            good = invalid(error, "unknown scheme ", scheme, "; expected tcp, tcp4, tcp6, unix or fd");
    }
    if (good)
        *address = parsed;
    return good;
}

bool address_equal(const struct address *a, const struct address *b)
{
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case ADDRESS_TCP:
        return a->family == b->family && a->port == b->port && strcasecmp(a->host, b->host) == 0;
    case ADDRESS_UNIX:
        return a->is_abstract == b->is_abstract && strcmp(a->path, b->path) == 0;
    case ADDRESS_FD:
        return a->fd == b->fd && (a->fd >= 0 || strcmp(a->fd_name, b->fd_name) == 0);
    }
    return false;
}

void address_format(const struct address *address, char out[ADDRESS_TEXT_SIZE])
{
    const char *scheme = "tcp";
    switch (address->kind) {
    case ADDRESS_TCP:
        // A literal tells its family by itself.
        if (!address->is_literal || address->host[0] == '\0')
            scheme = address->family == ADDRESS_IPV4 ? "tcp4" : address->family == ADDRESS_IPV6 ? "tcp6" : "tcp";
        (void)snprintf(out, ADDRESS_TEXT_SIZE, strchr(address->host, ':') != NULL ? "%s://[%s]:%u" : "%s://%s:%u",
                       scheme, address->host, (unsigned)address->port);
        return;
    case ADDRESS_UNIX:
        (void)snprintf(out, ADDRESS_TEXT_SIZE, "unix://%s%s", address->is_abstract ? "@" : "", address->path);
        return;
    case ADDRESS_FD:
        if (address->fd >= 0)
            (void)snprintf(out, ADDRESS_TEXT_SIZE, "fd://%d", address->fd);
        else
            (void)snprintf(out, ADDRESS_TEXT_SIZE, "fd://%s", address->fd_name);
        return;
    }
}
