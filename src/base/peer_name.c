#include "bitflow/base/peer_name.h"

#include <string.h>
#include <strings.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/host_name.h"
#include "bitflow/base/text.h"

#define CN_MAX 256    // bytes: 64 characters (RFC 5280, ub-common-name) of up to four
#define PIN_LENGTH 44 // of 32 bytes in base64
#define SPIFFE "spiffe"
#define AUTHORITY "//"

static const char digits[] = "0123456789";
static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static const char *const prefixes[] = {
    [PEER_NAME_CN] = "cn:", [PEER_NAME_DNS] = "dns:", [PEER_NAME_URI] = "uri:", [PEER_NAME_SPKI] = "spki:"};

static bool invalid(struct error *error, const char *text)
{
    error_set(error, ERROR_INVALID, "%s", text);
    return false;
}

static bool is_one_of(char c, const char *set)
{
    return c != '\0' && strchr(set, c) != NULL;
}

static bool is_alphanumeric(char c)
{
    return is_one_of(c, letters) || is_one_of(c, digits);
}

static bool has_control_characters(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (text_is_control(text, i, length))
            return true;
    return false;
}

const char *peer_name_prefix(enum peer_name_kind kind)
{
    return prefixes[kind];
}

enum peer_name_kind peer_name_kind_of(const char *text)
{
    enum peer_name_kind kind = PEER_NAME_CN;
    while (kind < PEER_NAME_SPKI && strncmp(text, prefixes[kind], strlen(prefixes[kind])) != 0)
        kind++;
    return kind;
}

const char *peer_name_value(const char *text)
{
    return text + strlen(prefixes[peer_name_kind_of(text)]);
}

// ---- URIs

// "spiffe://example.org/ns/prod" is scheme 6, authority from 9 to 20. Without an authority it has no length.
struct uri {
    const char *bytes;
    size_t length;
    size_t scheme;
    size_t host, end; // of the authority: where the host begins, behind "USER@", and where it all ends
};

// The characters that RFC 3986 knows, as far as they need no order.
static bool is_uri_character(char c)
{
    return is_alphanumeric(c) || is_one_of(c, "-._~:/?#[]@!$&'()*+,;=%");
}

static bool is_uri_text(const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        bool is_cut = bytes[i] == '%' && (length - i < 3 || !is_one_of(bytes[i + 1], "0123456789ABCDEFabcdef") ||
                                          !is_one_of(bytes[i + 2], "0123456789ABCDEFabcdef"));
        if (is_cut || !is_uri_character(bytes[i]))
            return false;
    }
    return true;
}

// False: it has no scheme, or nothing behind it, or what no URI has.
static bool uri_split(const char *bytes, size_t length, struct uri *uri)
{
    size_t scheme = 0;
    while (scheme < length && (is_alphanumeric(bytes[scheme]) || (scheme > 0 && is_one_of(bytes[scheme], "+-."))))
        scheme++;
    if (scheme == 0 || !is_one_of(bytes[0], letters) || scheme + 1 >= length || bytes[scheme] != ':' ||
        length > PEER_NAME_URI_MAX || !is_uri_text(bytes, length))
        return false;
    size_t begin = scheme + 1;
    *uri = (struct uri){.bytes = bytes, .length = length, .scheme = scheme, .host = begin, .end = begin};
    if (length - begin < sizeof AUTHORITY - 1 || memcmp(bytes + begin, AUTHORITY, sizeof AUTHORITY - 1) != 0)
        return true;
    uri->host = uri->end = begin + sizeof AUTHORITY - 1;
    while (uri->end < length && !is_one_of(bytes[uri->end], "/?#")) {
        if (bytes[uri->end++] == '@')
            uri->host = uri->end;
    }
    return true;
}

static bool has_authority(const struct uri *uri)
{
    return uri->end > uri->scheme + 1;
}

static bool is_spiffe(const struct uri *uri)
{
    return uri->scheme == sizeof SPIFFE - 1 && strncasecmp(uri->bytes, SPIFFE, uri->scheme) == 0;
}

// "." and "..", also with its dots as %2e, which stands for the same.
static bool is_dots(const char *segment, size_t length)
{
    size_t dots = 0;
    for (size_t i = 0; i < length; dots++) {
        if (segment[i] == '.')
            i++;
        else if (length - i >= 3 && strncasecmp(segment + i, "%2e", 3) == 0)
            i += 3;
        else
            return false;
    }
    return dots == 1 || dots == 2;
}

// Whether these are segments of a path and nothing else, none of them empty or one that leads elsewhere. Of SPIFFE's
// fewer characters (SPIFFE ID 2.2).
static bool are_segments(const char *path, size_t length, bool is_of_spiffe)
{
    size_t begin = 0;
    for (size_t i = 0; i <= length; i++) {
        if (i < length && path[i] != '/') {
            if (is_one_of(path[i], "?#") || (is_of_spiffe && !is_alphanumeric(path[i]) && !is_one_of(path[i], "-._")))
                return false;
            continue;
        }
        if (i == begin || is_dots(path + begin, i - begin))
            return false;
        begin = i + 1;
    }
    return true;
}

// A trust domain, and what is below it; the path may be missing.
static bool is_spiffe_id(const struct uri *uri)
{
    if (!has_authority(uri) || uri->end == uri->host || uri->host != uri->scheme + sizeof ":" AUTHORITY - 1)
        return false;
    for (size_t i = uri->host; i < uri->end; i++)
        if (!is_alphanumeric(uri->bytes[i]) && !is_one_of(uri->bytes[i], "-._"))
            return false;
    return uri->end == uri->length ||
           (uri->bytes[uri->end] == '/' && are_segments(uri->bytes + uri->end + 1, uri->length - uri->end - 1, true));
}

static bool is_same_text(const struct uri *a, const struct uri *b, size_t from, size_t until, bool is_in_any_case)
{
    return is_in_any_case ? strncasecmp(a->bytes + from, b->bytes + from, until - from) == 0
                          : memcmp(a->bytes + from, b->bytes + from, until - from) == 0;
}

// Whether both are the same up to `length`, where the authority is over.
static bool is_same_up_to(const struct uri *a, const struct uri *b, size_t length)
{
    return a->scheme == b->scheme && a->host == b->host && a->end == b->end && a->length >= length &&
           b->length >= length && is_same_text(a, b, 0, a->scheme, true) &&
           is_same_text(a, b, a->scheme, a->host, false) && is_same_text(a, b, a->host, a->end, true) &&
           is_same_text(a, b, a->end, length, false);
}

static bool ends_with_wildcard(const struct uri *uri)
{
    return uri->bytes[uri->length - 1] == '*';
}

static bool matches_uri(const char *pattern, const char *name, size_t length)
{
    struct uri wanted, found;
    if (!uri_split(pattern, strlen(pattern), &wanted) || !uri_split(name, length, &found) ||
        (is_spiffe(&wanted) && !is_spiffe_id(&found)))
        return false;
    if (!ends_with_wildcard(&wanted))
        return found.length == wanted.length && is_same_up_to(&wanted, &found, wanted.length);
    size_t fixed = wanted.length - 1;
    return is_same_up_to(&wanted, &found, fixed) && are_segments(name + fixed, length - fixed, is_spiffe(&wanted));
}

// ---- what may be configured

// What somebody writes who has seen such names elsewhere.
static void suggest(const char *text, struct error *error)
{
    static const char expected[] = "does not begin with cn:, dns:, uri: or spki:";
    size_t length = strlen(text);
    for (enum peer_name_kind kind = PEER_NAME_CN; kind <= PEER_NAME_SPKI; kind++)
        if (strncasecmp(text, prefixes[kind], strlen(prefixes[kind])) == 0) {
            error_set(error, ERROR_INVALID, "%s; did you mean %s?", expected, prefixes[kind]);
            return;
        }
    if (strstr(text, "://") != NULL)
        error_set(error, ERROR_INVALID, "%s; did you mean uri:%.64s?", expected, text);
    else if (strncmp(text, PEER_NAME_PIN, sizeof PEER_NAME_PIN - 1) == 0)
        error_set(error, ERROR_INVALID, "%s; did you mean spki:%.64s?", expected, text);
    else if (host_name_is_valid(strncmp(text, "*.", 2) == 0 ? text + 2 : text,
                                strncmp(text, "*.", 2) == 0 ? length - 2 : length, false))
        error_set(error, ERROR_INVALID, "%s; did you mean dns:%.64s?", expected, text);
    else
        error_set(error, ERROR_INVALID, "%s", expected);
}

static bool check_cn(const char *value, struct error *error)
{
    size_t length = strlen(value);
    if (length == 0 || length > CN_MAX || has_control_characters(value, length))
        return invalid(error, "has no common name behind cn: (1 to 256 bytes without control characters)");
    if (strchr(value, '*') != NULL)
        return invalid(error, "has a *, but common names are compared as they are: wildcards are for dns: and uri:");
    return true;
}

static bool check_dns(const char *value, struct error *error)
{
    const char *name = strncmp(value, "*.", 2) == 0 ? value + 2 : value;
    if (strchr(name, '*') != NULL)
        return invalid(error, "has a * that is not the whole leftmost label, as in dns:*.example.com");
    if (!host_name_is_valid(name, strlen(name), false))
        return invalid(error, "has no host name behind dns: (in ASCII, without a port or a dot at its end)");
    return true;
}

static bool check_uri(const char *value, struct error *error)
{
    struct uri uri;
    size_t length = strlen(value);
    if (length > PEER_NAME_URI_MAX)
        return invalid(error, "is too long: URIs have at most 2048 bytes here");
    if (!uri_split(value, length, &uri))
        return invalid(error, "has no URI behind uri:, such as spiffe://example.org/web: a scheme, a colon, and "
                              "characters that RFC 3986 knows");
    bool is_wild = length > uri.end && uri.end > uri.host && strcmp(value + length - 2, "/*") == 0;
    if (strcspn(value, "*") != length - (is_wild ? 1 : 0))
        return invalid(error, "has a * that is not the whole last segment of a path behind a host, as in "
                              "uri:spiffe://example.org/ns/prod/*");
    size_t fixed = length - (is_wild ? 2 : 0);
    if (is_wild && fixed > uri.end &&
        (value[uri.end] != '/' || !are_segments(value + uri.end + 1, fixed - uri.end - 1, false)))
        return invalid(error, "has an empty segment, dots, a query or a fragment before its *");
    const struct uri plain = {.bytes = value, .length = fixed, .scheme = uri.scheme, .host = uri.host, .end = uri.end};
    if (is_spiffe(&uri) && !is_spiffe_id(&plain))
        return invalid(error, "is no SPIFFE ID: a trust domain and segments of letters, digits and -._, without a "
                              "port, a query or a slash at its end");
    return true;
}

// One value has one text: the bits of the last digit that stand for nothing are 0.
static bool check_spki(const char *value, struct error *error)
{
    const char *pin = value + sizeof PEER_NAME_PIN - 1;
    if (strncmp(value, PEER_NAME_PIN, sizeof PEER_NAME_PIN - 1) == 0 && strlen(pin) == PIN_LENGTH &&
        pin[PIN_LENGTH - 1] == '=' && is_one_of(pin[PIN_LENGTH - 2], "AEIMQUYcgkosw048")) {
        size_t good = 0;
        while (is_alphanumeric(pin[good]) || is_one_of(pin[good], "+/"))
            good++;
        if (good == PIN_LENGTH - 1)
            return true;
    }
    return invalid(error, "has no pin behind spki:, which is sha256/ and the 44 characters that are SHA-256 of the "
                          "SubjectPublicKeyInfo in base64");
}

bool peer_name_check(const char *text, struct error *error)
{
    static bool (*const checks[])(const char *value, struct error *error) = {[PEER_NAME_CN] = check_cn,
                                                                             [PEER_NAME_DNS] = check_dns,
                                                                             [PEER_NAME_URI] = check_uri,
                                                                             [PEER_NAME_SPKI] = check_spki};
    for (enum peer_name_kind kind = PEER_NAME_CN; kind <= PEER_NAME_SPKI; kind++)
        if (strncmp(text, prefixes[kind], strlen(prefixes[kind])) == 0)
            return checks[kind](text + strlen(prefixes[kind]), error);
    suggest(text, error);
    return false;
}

bool peer_name_is_spiffe(const char *text)
{
    struct uri uri;
    const char *value = peer_name_value(text);
    return peer_name_kind_of(text) == PEER_NAME_URI && uri_split(value, strlen(value), &uri) && is_spiffe(&uri);
}

// ---- what a certificate has

// *.example.com, with two labels at least, as libcrypto has it for hosts.
static bool is_wildcard(const char *name, size_t length)
{
    return length > 2 && memcmp(name, "*.", 2) == 0 && host_name_is_valid(name + 2, length - 2, true) &&
           memchr(name + 2, '.', length - 2) != NULL;
}

static bool matches_dns(const char *pattern, const char *name, size_t length, bool is_host)
{
    char text[HOST_NAME_MAX_LENGTH + 1];
    if (is_host && is_wildcard(name, length)) {
        bool is_same = strlen(pattern) == length && strncasecmp(pattern, name, length) == 0;
        return is_same || (pattern[0] != '*' && host_name_match(name, length, pattern) == NAME_WILDCARD);
    }
    if (!host_name_is_valid(name, length, true))
        return false;
    memcpy(text, name, length);
    text[length] = '\0';
    return host_name_match(pattern, strlen(pattern), text) != NAME_DIFFERS;
}

bool peer_name_matches(const char *text, const char *name, size_t length, bool is_host)
{
    const char *value = peer_name_value(text);
    switch (peer_name_kind_of(text)) {
    case PEER_NAME_DNS:
        return matches_dns(value, name, length, is_host);
    case PEER_NAME_URI:
        return matches_uri(value, name, length);
    case PEER_NAME_CN:
    case PEER_NAME_SPKI:
        break;
    }
    return strlen(value) == length && memcmp(value, name, length) == 0;
}

bool peer_name_is_plain(enum peer_name_kind kind, const char *name, size_t length)
{
    struct uri uri;
    switch (kind) {
    case PEER_NAME_CN:
        return length > 0 && length <= CN_MAX && !has_control_characters(name, length);
    case PEER_NAME_DNS:
        return host_name_is_valid(name, length, true) || is_wildcard(name, length);
    case PEER_NAME_URI:
        return uri_split(name, length, &uri);
    case PEER_NAME_SPKI:
        break;
    }
    return false;
}
