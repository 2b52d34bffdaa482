#include "bitflow/net/socks.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "bitflow/wire/socks5.h"

// ---- the server, as the configuration writes it

static bool invalid(struct error *error)
{
    error_set(error, ERROR_INVALID,
              "is not a SOCKS5 address: expected socks5://[USER[:PASS]@]HOST:PORT, HOST:PORT or "
              "socks5+unix://[USER[:PASS]@]/path, with USER of 1 to 255 bytes, PASS of up to 255");
    return false;
}

static unsigned hex_digit(char digit)
{
    return isdigit((unsigned char)digit) ? (unsigned)(digit - '0') : (unsigned)(tolower(digit) - 'a' + 10);
}

// Decodes %XX. False: too long, or a % without its digits.
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
    return true;
}

// USER or USER:PASS, parted by the first colon. Some servers know users by a token alone, which has no password: an
// empty one is sent then, though RFC 1929 has none so short, as other clients do.
static bool read_credentials(const char *text, size_t length, struct socks_server *server, struct error *error)
{
    const char *colon = memchr(text, ':', length);
    size_t user_length = colon != NULL ? (size_t)(colon - text) : length;
    size_t password_length = colon != NULL ? length - user_length - 1 : 0;
    if (decode(text, user_length, server->user, &server->user_length) && server->user_length > 0 &&
        decode(text + length - password_length, password_length, server->password, &server->password_length))
        return true;
    if (memchr(text, '%', length) != NULL) {
        error_set(
            error, ERROR_INVALID,
            "has a malformed user or password: the user is 1 to 255 bytes, the password up to 255, %%XX stands for a "
            "byte, and %% itself is %%25");
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

// ---- the dialogue with it

enum step { STEP_METHOD, STEP_CREDENTIALS, STEP_CONNECT };

struct dialogue {
    int fd;
    const struct socks_server *server;
    const struct address *target;
    struct client_watch *watch;
    int64_t deadline;
    struct error *error;
};

// "cannot connect to tcp://a.example:443: the SOCKS5 server tcp://127.0.0.1:1080 refuses ..."
static bool fail(const struct dialogue *dialogue, enum error_code code, const char *what)
{
    char target[ADDRESS_TEXT_SIZE], server[ADDRESS_TEXT_SIZE];
    address_format(dialogue->target, target);
    address_format(&dialogue->server->address, server);
    // Long names are cut rather than what went wrong.
    error_set(dialogue->error, code, "cannot connect to %.80s: the SOCKS5 server %.80s %s", target, server, what);
    return false;
}

static bool fail_errno(const struct dialogue *dialogue, int os_errno)
{
    char target[ADDRESS_TEXT_SIZE], server[ADDRESS_TEXT_SIZE];
    address_format(dialogue->target, target);
    address_format(&dialogue->server->address, server);
    error_set_errno(dialogue->error, os_errno, "cannot connect to %.80s: the SOCKS5 server %.80s", target, server);
    return false;
}

static bool check(const struct dialogue *dialogue, enum client_watch_result result)
{
    switch (result) {
    case CLIENT_WATCH_READY:
        return true;
    case CLIENT_WATCH_DEADLINE:
        return fail(dialogue, ERROR_TIMEOUT, "did not answer in time");
    case CLIENT_WATCH_GONE:
        return fail(dialogue, ERROR_CANCELLED, "was asked, but the client has gone");
    case CLIENT_WATCH_FAILED:
        break;
    }
    return fail_errno(dialogue, errno);
}

static bool send_all(const struct dialogue *dialogue, const uint8_t *bytes, size_t length)
{
    return check(dialogue, client_watch_send(dialogue->watch, dialogue->fd, bytes, length, dialogue->deadline));
}

// Reads what has come, up to `size` bytes; more of the stream may be the target's.
static bool receive(const struct dialogue *dialogue, uint8_t *bytes, size_t size, size_t *length)
{
    for (;;) {
        struct pollfd poller = {.fd = dialogue->fd, .events = POLLIN};
        if (!check(dialogue, client_watch_poll(dialogue->watch, &poller, 1, dialogue->deadline)))
            return false;
        ssize_t got = recv(dialogue->fd, bytes, size, MSG_DONTWAIT);
        if (got == 0)
            return fail(dialogue, ERROR_INVALID, "closed the connection instead of answering");
        if (got > 0) {
            *length += (size_t)got;
            return true;
        }
        if (errno != EAGAIN && errno != EINTR)
            return fail_errno(dialogue, errno);
    }
}

static enum socks5_state parse(const struct dialogue *dialogue, enum step step, const uint8_t *bytes, size_t length,
                               struct socks5_answer *answer)
{
    switch (step) {
    case STEP_METHOD:
        return socks5_parse_choice(bytes, length, dialogue->server->user_length > 0, answer);
    case STEP_CREDENTIALS:
        return socks5_parse_verdict(bytes, length, answer);
    case STEP_CONNECT:
        break;
    }
    return socks5_parse_reply(bytes, length, answer);
}

static bool receive_answer(const struct dialogue *dialogue, enum step step, struct socks5_answer *answer)
{
    uint8_t bytes[SOCKS5_ANSWER_MAX];
    size_t length = 0;
    for (;;) {
        switch (parse(dialogue, step, bytes, length, answer)) {
        case SOCKS5_COMPLETE:
            return true;
        case SOCKS5_NEEDS_MORE:
            if (!receive(dialogue, bytes + length, answer->needed - length, &length))
                return false;
            break;
        case SOCKS5_REFUSED:
            return fail(dialogue, ERROR_REFUSED, answer->reason);
        case SOCKS5_DENIED:
            return fail(dialogue, ERROR_DENIED, answer->reason);
        case SOCKS5_INVALID:
            return fail(dialogue, ERROR_INVALID, answer->reason);
        }
    }
}

static bool send_credentials(const struct dialogue *dialogue)
{
    const struct socks_server *server = dialogue->server;
    const struct socks5_text user = {.bytes = server->user, .length = server->user_length};
    const struct socks5_text password = {.bytes = server->password, .length = server->password_length};
    uint8_t bytes[SOCKS5_CREDENTIALS_SIZE];
    struct socks5_answer answer;
    bool is_sent = send_all(dialogue, bytes, socks5_encode_credentials(user, password, bytes));
    explicit_bzero(bytes, sizeof bytes);
    return is_sent && receive_answer(dialogue, STEP_CREDENTIALS, &answer);
}

static size_t encode_request(const struct address *target, uint8_t out[SOCKS5_CONNECT_SIZE])
{
    struct socks5_text host = {.bytes = target->host, .length = (uint8_t)strlen(target->host)};
    if (!target->is_literal)
        return socks5_encode_connect(SOCKS5_NAME, host, target->port, out);
    struct endpoint endpoint = {.length = 0};
    (void)endpoint_of_address(target, &endpoint); // cannot fail for a literal without a zone
    const char *sockaddr = (const char *)&endpoint.address;
    if (endpoint.address.any.sa_family == AF_INET) {
        host = (struct socks5_text){.bytes = sockaddr + offsetof(struct sockaddr_in, sin_addr), .length = 4};
        return socks5_encode_connect(SOCKS5_IPV4, host, target->port, out);
    }
    host = (struct socks5_text){.bytes = sockaddr + offsetof(struct sockaddr_in6, sin6_addr), .length = 16};
    return socks5_encode_connect(SOCKS5_IPV6, host, target->port, out);
}

bool socks_can_reach(const struct address *target, struct error *error)
{
    if (target->kind != ADDRESS_TCP)
        error_set(error, ERROR_INVALID, "a SOCKS5 server connects to TCP addresses only");
    else if (target->is_literal && strchr(target->host, '%') != NULL)
        error_set(error, ERROR_INVALID, "a SOCKS5 server cannot be given an IPv6 address with a zone");
    else
        return true;
    return false;
}

bool socks_connect(int fd, const struct socks_server *server, const struct address *target, struct client_watch *watch,
                   int64_t deadline, struct error *error)
{
    const struct dialogue dialogue = {
        .fd = fd, .server = server, .target = target, .watch = watch, .deadline = deadline, .error = error};
    uint8_t greeting[SOCKS5_GREETING_SIZE];
    uint8_t request[SOCKS5_CONNECT_SIZE];
    struct socks5_answer answer;
    return socks_can_reach(target, error) &&
           send_all(&dialogue, greeting, socks5_encode_greeting(server->user_length > 0, greeting)) &&
           receive_answer(&dialogue, STEP_METHOD, &answer) &&
           (!answer.wants_credentials || send_credentials(&dialogue)) &&
           send_all(&dialogue, request, encode_request(target, request)) &&
           receive_answer(&dialogue, STEP_CONNECT, &answer);
}
