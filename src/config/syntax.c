#include "syntax.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "bitflow/base/host_name.h"
#include "bitflow/base/text.h"
#include "bitflow/net/address.h"
#include "bitflow/net/socks.h"
#include "bitflow/net/unix_access.h"

static bool invalid(struct error *error, const char *text)
{
    error_set(error, ERROR_INVALID, "%s", text);
    return false;
}

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool has_control_characters(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (text_is_control(text, i, length))
            return true;
    return false;
}

static bool is_visible_ascii(const char *text)
{
    for (; *text != '\0'; text++)
        if (!text_is_visible_ascii(*text))
            return false;
    return true;
}

static bool is_host_and_port(const char *text)
{
    struct address address;
    return strstr(text, "://") == NULL && address_parse(text, ADDRESS_TO_CONNECT, &address, NULL) &&
           address.kind == ADDRESS_TCP;
}

static bool is_name(const char *text, size_t most, struct error *error)
{
    size_t length = strlen(text);
    if (length == 0)
        return invalid(error, "must not be empty");
    if (length > most) {
        error_set(error, ERROR_INVALID, "is too long: %zu bytes, at most %zu", length, most);
        return false;
    }
    if (has_control_characters(text, length))
        return invalid(error, "must not contain control characters");
    return true;
}

bool syntax_name(const char *text, struct error *error)
{
    return is_name(text, SYNTAX_NAME_MAX, error);
}

bool syntax_target_name(const char *text, struct error *error)
{
    return is_name(text, SYNTAX_TARGET_NAME_MAX, error);
}

bool syntax_metric_prefix(const char *text, struct error *error)
{
    if (strlen(text) > 128)
        return invalid(error, "is too long: at most 128 bytes");
    if (!is_visible_ascii(text) || strpbrk(text, ":|@#,;=") != NULL)
        return invalid(error, "must be printable ASCII without spaces and without any of :|@#,;=");
    return true;
}

bool syntax_metrics_address(const char *text, struct error *error)
{
    if (starts_with(text, "unix:")) {
        struct address address;
        return address_parse(text, ADDRESS_TO_CONNECT, &address, error);
    }
    if (!is_host_and_port(starts_with(text, "udp://") ? text + strlen("udp://") : text))
        return invalid(error, "is not a statsd address: expected HOST:PORT, udp://HOST:PORT or unix:///path");
    return true;
}

// HOST or HOST:PORT, `length` bytes of it.
static bool is_host_with_optional_port(const char *text, size_t length)
{
    char host[ADDRESS_HOST_MAX + sizeof "[]:65535"];
    if (length == 0 || length >= sizeof host - strlen(":443"))
        return false;
    bool has_port = text[length - 1] != ']' && memchr(text, ':', length) != NULL;
    (void)snprintf(host, sizeof host, "%.*s%s", (int)length, text, has_port ? "" : ":443");
    return is_host_and_port(host);
}

bool syntax_sentry_dsn(const char *text, struct error *error)
{
    static const char expected[] = "is not a Sentry DSN: expected https://KEY@HOST[:PORT]/[PATH/]PROJECT";
    const char *rest;
    if (strlen(text) > SYNTAX_DSN_MAX)
        return invalid(error, "is too long for a Sentry DSN");
    if (starts_with(text, "https://"))
        rest = text + strlen("https://");
    else if (starts_with(text, "http://"))
        rest = text + strlen("http://");
    else
        return invalid(error, expected);
    const char *at = strchr(rest, '@');
    if (!is_visible_ascii(rest) || at == NULL || at == rest || strpbrk(rest, "?#") != NULL)
        return invalid(error, expected);
    const char *host = at + 1;
    size_t host_length = strcspn(host, "/");
    if (memchr(rest, '/', (size_t)(at - rest)) != NULL || strchr(host, '@') != NULL ||
        !is_host_with_optional_port(host, host_length))
        return invalid(error, expected);
    const char *project = strrchr(host + host_length, '/');
    if (project == NULL || project[1] == '\0')
        return invalid(error, expected);
    return true;
}

bool syntax_sentry_environment(const char *text, struct error *error)
{
    size_t length = strlen(text);
    if (length < 1 || length > 64 || !is_visible_ascii(text) || strchr(text, '/') != NULL || strcmp(text, "None") == 0)
        return invalid(error, "is not an environment name: expected 1 to 64 visible ASCII characters without '/', "
                              "and not None");
    return true;
}

bool syntax_socks_proxy(const char *text, struct error *error)
{
    struct socks_server server = {.user_length = 0};
    bool is_good = socks_server_parse(text, &server, error);
    socks_server_wipe(&server);
    return is_good;
}

bool syntax_alpn_protocol(const char *text, struct error *error)
{
    size_t length = strlen(text);
    if (length < 1 || length > 255)
        return invalid(error, "must be 1 to 255 bytes long");
    return true;
}

bool syntax_is_ip_address(const char *text)
{
    struct in6_addr address;
    return inet_pton(AF_INET, text, &address) == 1 || inet_pton(AF_INET6, text, &address) == 1;
}

bool syntax_server_name(const char *text, struct error *error)
{
    if (syntax_is_ip_address(text))
        return true;
    size_t length = strlen(text);
    if (length > 0 && text[length - 1] == '.') // the name written as absolute: the same one
        length--;
    if (!host_name_is_valid(text, length, true))
        return invalid(error, "is not a server name: expected a host name in ASCII or an IP address, without a port");
    return true;
}

bool syntax_unix_mode(const char *text, struct error *error)
{
    mode_t mode;
    return unix_access_mode(text, &mode, error);
}

bool syntax_unix_user(const char *text, struct error *error)
{
    uid_t user;
    return unix_access_user(text, &user, error);
}

bool syntax_unix_group(const char *text, struct error *error)
{
    gid_t group;
    return unix_access_group(text, &group, error);
}

bool syntax_path(const char *text, struct error *error)
{
    if (*text == '\0')
        return invalid(error, "must not be empty");
    if (strlen(text) >= PATH_MAX)
        return invalid(error, "is too long for a path");
    return true;
}
