// The half of bitflow/net/socks.h that reads the configuration's text.

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "bitflow/net/socks.h"

static bool invalid(struct error *error)
{
    error_set(error, ERROR_INVALID,
              "is not a SOCKS5 address: expected socks5://[USER:PASS@]HOST:PORT, HOST:PORT or "
              "socks5+unix://[USER:PASS@]/path, with USER and PASS of 1 to 255 bytes");
    return false;
}

static unsigned hex_digit(char digit)
{
    return isdigit((unsigned char)digit) ? (unsigned)(digit - '0') : (unsigned)(tolower(digit) - 'a' + 10);
}

// Decodes %XX. False: too long, empty, or a % without its digits.
static bool decode(const char *text, size_t length, uint8_t out[SOCKS_CREDENTIAL_MAX], uint8_t *out_length)
{
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        if (used == SOCKS_CREDENTIAL_MAX)
            return false;
        if (text[i] != '%') {
            out[used++] = (uint8_t)text[i];
            continue;
        }
        if (length - i < 3 || !isxdigit((unsigned char)text[i + 1]) || !isxdigit((unsigned char)text[i + 2]))
            return false;
        out[used++] = (uint8_t)(hex_digit(text[i + 1]) << 4 | hex_digit(text[i + 2]));
        i += 2;
    }
    *out_length = (uint8_t)used;
    return used > 0;
}

// USER:PASS, parted by the first colon.
static bool read_credentials(const char *text, size_t length, struct socks_server *server, struct error *error)
{
    const char *colon = memchr(text, ':', length);
    if (colon == NULL)
        return invalid(error);
    size_t user_length = (size_t)(colon - text);
    if (decode(text, user_length, server->user, &server->user_length) &&
        decode(colon + 1, length - user_length - 1, server->password, &server->password_length))
        return true;
    if (memchr(text, '%', length) != NULL) {
        error_set(
            error, ERROR_INVALID,
            "has a malformed user or password: each is 1 to 255 bytes, %%XX stands for a byte, and %% itself is %%25");
        return false;
    }
    return invalid(error);
}

static bool read_address(const char *text, enum address_kind kind, struct socks_server *server, struct error *error)
{
    // A message of address_parse() may quote what could be a part of the password.
    if (!address_parse(text, ADDRESS_TO_CONNECT, &server->address, NULL) || server->address.kind != kind)
        return invalid(error);
    return true;
}

static bool parse_tcp(const char *text, struct socks_server *server, struct error *error)
{
    // The last one: a password may have an @ in it, a host may not.
    const char *at = strrchr(text, '@');
    if (at != NULL && !read_credentials(text, (size_t)(at - text), server, error))
        return false;
    const char *host = at != NULL ? at + 1 : text;
    if (strstr(host, "://") != NULL)
        return invalid(error);
    return read_address(host, ADDRESS_TCP, server, error);
}

static bool parse_unix(const char *text, struct socks_server *server, struct error *error)
{
    static const char scheme[] = "unix://";
    const char *path = text;
    // Credentials end by an @ before a path, or before an abstract name, which begins with one.
    if (*text != '/' && *text != '@') {
        const char *at = strchr(text, '@');
        while (at != NULL && at[1] != '/' && at[1] != '@')
            at = strchr(at + 1, '@');
        if (at == NULL)
            return invalid(error);
        if (!read_credentials(text, (size_t)(at - text), server, error))
            return false;
        path = at + 1;
    }
    char address[sizeof scheme + sizeof server->address.path + 1];
    if (strlen(path) > sizeof address - sizeof scheme)
        return invalid(error);
    memcpy(address, scheme, sizeof scheme - 1);
    memcpy(address + sizeof scheme - 1, path, strlen(path) + 1);
    return read_address(address, ADDRESS_UNIX, server, error);
}

static bool skip_scheme(const char **text, const char *scheme)
{
    size_t length = strlen(scheme);
    if (strncasecmp(*text, scheme, length) != 0)
        return false;
    *text += length;
    return true;
}

bool socks_server_parse(const char *text, struct socks_server *server, struct error *error)
{
    struct socks_server parsed = {.user_length = 0};
    bool is_good;
    if (skip_scheme(&text, "socks5+unix://"))
        is_good = parse_unix(text, &parsed, error);
    else if (skip_scheme(&text, "socks5://") || skip_scheme(&text, "socks5h://"))
        is_good = parse_tcp(text, &parsed, error);
    else if (strncasecmp(text, "unix://", strlen("unix://")) == 0)
        is_good = read_address(text, ADDRESS_UNIX, &parsed, error);
    else
        is_good = strstr(text, "://") != NULL ? invalid(error) : read_address(text, ADDRESS_TCP, &parsed, error);
    if (is_good)
        *server = parsed;
    socks_server_wipe(&parsed);
    return is_good;
}

void socks_server_wipe(struct socks_server *server)
{
    explicit_bzero(server, sizeof *server);
}
