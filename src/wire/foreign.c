#include "bitflow/wire/foreign.h"

#include <stdbool.h>
#include <string.h>

static const struct beginning {
    enum foreign_protocol protocol;
    size_t length;
    const char *bytes;
} beginnings[] = {
#define BEGINNING(protocol, text) {protocol, sizeof(text) - 1, text}
    BEGINNING(FOREIGN_HTTP, "HTTP/"), // a server's answer
    BEGINNING(FOREIGN_HTTP, "GET "),
    BEGINNING(FOREIGN_HTTP, "POST "),
    BEGINNING(FOREIGN_HTTP, "HEAD "),
    BEGINNING(FOREIGN_HTTP, "PUT "),
    BEGINNING(FOREIGN_HTTP, "DELETE "),
    BEGINNING(FOREIGN_HTTP, "OPTIONS "),
    BEGINNING(FOREIGN_HTTP, "PATCH "),
    BEGINNING(FOREIGN_HTTP, "TRACE "),
    BEGINNING(FOREIGN_HTTP, "CONNECT "),
    BEGINNING(FOREIGN_HTTP2, "PRI * HTTP/2"),
    BEGINNING(FOREIGN_SSH, "SSH-"),
    BEGINNING(FOREIGN_PROXY_V1, "PROXY "),
    BEGINNING(FOREIGN_PROXY_V2, "\r\n\r\n\0\r\nQUIT\n"),
    BEGINNING(FOREIGN_SMTP, "EHLO "),
    BEGINNING(FOREIGN_SMTP, "HELO "),
    // PostgreSQL's SSLRequest: its client wants an answer before it speaks TLS.
    BEGINNING(FOREIGN_POSTGRESQL, "\0\0\0\010\004\322\026\057"),
};

// By what was expected: TLS, a PROXY protocol header, SOCKS5. NULL: as FOREIGN_UNKNOWN.
static const char *const words[FOREIGN_PROTOCOL_COUNT][FOREIGN_EXPECTED_COUNT] = {
    [FOREIGN_UNKNOWN] = {"bytes that are not TLS", "no PROXY protocol header", "does not speak SOCKS5"},
    [FOREIGN_HTTP] = {"plain HTTP, not TLS", "HTTP, not a PROXY protocol header", "speaks HTTP, not SOCKS5"},
    [FOREIGN_HTTP2] = {"plain HTTP/2, not TLS", "HTTP, not a PROXY protocol header", NULL},
    [FOREIGN_SSH] = {"SSH, not TLS", "SSH, not a PROXY protocol header", "speaks SSH, not SOCKS5"},
    [FOREIGN_SMTP] = {"plain SMTP, not TLS", NULL, NULL},
    [FOREIGN_PROXY_V1] = {"a PROXY protocol header, which is not expected here", NULL, NULL},
    [FOREIGN_PROXY_V2] = {"a PROXY protocol header (version 2), which is not expected here", NULL, NULL},
    [FOREIGN_POSTGRESQL] = {"a PostgreSQL SSLRequest, not TLS", NULL, NULL},
    [FOREIGN_SSLV2] = {"an SSLv2 hello", NULL, NULL},
    [FOREIGN_TLS] = {"a TLS record where a ClientHello was expected", "TLS, not a PROXY protocol header",
                     "speaks TLS, not SOCKS5"},
};

const char *foreign_protocol_words(enum foreign_protocol protocol, enum foreign_expected expected)
{
    const char *own = words[protocol][expected];
    return own != NULL ? own : words[FOREIGN_UNKNOWN][expected];
}

static enum foreign_protocol guess(enum foreign_protocol protocol, size_t needed, size_t *out)
{
    if (out != NULL)
        *out = needed;
    return protocol;
}

enum foreign_protocol foreign_protocol_of(const uint8_t *bytes, size_t length, size_t *needed)
{
    const struct beginning *likely = NULL;
    size_t shortest = SIZE_MAX;
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++) {
        const struct beginning *beginning = &beginnings[i];
        bool is_whole = length >= beginning->length;
        if (memcmp(bytes, beginning->bytes, is_whole ? beginning->length : length) != 0)
            continue;
        if (is_whole)
            return guess(beginning->protocol, 0, needed);
        likely = likely == NULL ? beginning : likely;
        shortest = beginning->length < shortest ? beginning->length : shortest;
    }
    if (likely != NULL)
        return guess(likely->protocol, shortest, needed);

    // An SSLv2 hello: two bytes of length with the first bit set, client_hello, version 2 or 3.x (RFC 6101, E).
    if ((bytes[0] & 0x80) != 0 && length < 5)
        return guess(FOREIGN_UNKNOWN, 5, needed);
    if ((bytes[0] & 0x80) != 0 && bytes[2] == 1 && (bytes[3] == 3 || (bytes[3] == 0 && bytes[4] == 2)))
        return guess(FOREIGN_SSLV2, 0, needed);

    // A TLS record: type, version 3.x (RFC 8446, 5.1).
    if (bytes[0] >= 20 && bytes[0] <= 24 && length < 2)
        return guess(FOREIGN_TLS, 2, needed);
    return guess(bytes[0] >= 20 && bytes[0] <= 24 && bytes[1] == 3 ? FOREIGN_TLS : FOREIGN_UNKNOWN, 0, needed);
}
