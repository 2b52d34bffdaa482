#include "bitflow/wire/socks5.h"

#include <stdio.h>
#include <string.h>

#include "bitflow/wire/foreign.h"

#define VERSION 5
#define CREDENTIALS_VERSION 1 // RFC 1929
#define COMMAND_CONNECT 1

enum { METHOD_NONE = 0, METHOD_GSSAPI = 1, METHOD_CREDENTIALS = 2, METHOD_NO_ACCEPTABLE = 0xff };

size_t socks5_encode_greeting(bool has_credentials, uint8_t out[SOCKS5_GREETING_SIZE])
{
    out[0] = VERSION;
    out[1] = has_credentials ? 2 : 1;
    out[2] = METHOD_NONE;
    out[3] = METHOD_CREDENTIALS;
    return has_credentials ? 4 : 3;
}

static size_t put_text(uint8_t *out, struct socks5_text text)
{
    out[0] = text.length;
    memcpy(out + 1, text.bytes, text.length);
    return 1 + (size_t)text.length;
}

size_t socks5_encode_credentials(struct socks5_text user, struct socks5_text password,
                                 uint8_t out[SOCKS5_CREDENTIALS_SIZE])
{
    size_t length = 0;
    out[length++] = CREDENTIALS_VERSION;
    length += put_text(out + length, user);
    length += put_text(out + length, password);
    return length;
}

size_t socks5_encode_connect(enum socks5_kind kind, struct socks5_text host, uint16_t port,
                             uint8_t out[SOCKS5_CONNECT_SIZE])
{
    size_t length = 0;
    out[length++] = VERSION;
    out[length++] = COMMAND_CONNECT;
    out[length++] = 0;
    out[length++] = (uint8_t)kind;
    if (kind == SOCKS5_NAME) {
        length += put_text(out + length, host);
    } else {
        memcpy(out + length, host.bytes, host.length);
        length += host.length;
    }
    out[length++] = (uint8_t)(port >> 8);
    out[length++] = (uint8_t)port;
    return length;
}

static enum socks5_state complete(struct socks5_answer *answer, size_t length)
{
    answer->length = length;
    return SOCKS5_COMPLETE;
}

static enum socks5_state needs(struct socks5_answer *answer, size_t needed)
{
    answer->needed = needed;
    return SOCKS5_NEEDS_MORE;
}

static enum socks5_state negative(struct socks5_answer *answer, enum socks5_state state, const char *reason)
{
    answer->reason = reason;
    return state;
}

// For numbers that no RFC gives a meaning to: people can look them up in the server's documents.
static enum socks5_state unknown(struct socks5_answer *answer, enum socks5_state state, const char *what,
                                 const char *number_of, uint8_t number)
{
    (void)snprintf(answer->text, sizeof answer->text, "%s (%s 0x%02x)", what, number_of, (unsigned)number);
    return negative(answer, state, answer->text);
}

// An answer's first byte is not the version: who is it likely to be?
static enum socks5_state judge_foreign(const uint8_t *bytes, size_t length, struct socks5_answer *answer)
{
    if (bytes[0] == 0) // SOCKS4's answer
        return negative(answer, SOCKS5_INVALID, "speaks SOCKS4, not SOCKS5");
    enum foreign_protocol protocol = foreign_protocol_of(bytes, length, NULL);
    return negative(answer, SOCKS5_INVALID, foreign_protocol_words(protocol, FOREIGN_NOT_SOCKS5));
}

enum socks5_state socks5_parse_choice(const uint8_t *bytes, size_t length, bool has_credentials,
                                      struct socks5_answer *answer)
{
    *answer = (struct socks5_answer){.length = 0};
    if (length > 0 && bytes[0] != VERSION)
        return judge_foreign(bytes, length, answer);
    if (length < 2)
        return needs(answer, 2);
    switch (bytes[1]) {
    case METHOD_NONE:
        return complete(answer, 2);
    case METHOD_CREDENTIALS:
        if (!has_credentials)
            return negative(answer, SOCKS5_DENIED, "demands a user and a password");
        answer->wants_credentials = true;
        return complete(answer, 2);
    case METHOD_NO_ACCEPTABLE:
        return negative(answer, SOCKS5_DENIED,
                        has_credentials ? "accepts neither a user and a password nor a client without them"
                                        : "demands authentication");
    case METHOD_GSSAPI:
        return negative(answer, SOCKS5_DENIED, "demands GSSAPI, which is not supported");
    default:
        return unknown(answer, SOCKS5_DENIED, "demands an authentication method that it was not offered", "method",
                       bytes[1]);
    }
}

enum socks5_state socks5_parse_verdict(const uint8_t *bytes, size_t length, struct socks5_answer *answer)
{
    *answer = (struct socks5_answer){.length = 0};
    // Some servers answer with SOCKS's version instead of the sub-negotiation's.
    if (length > 0 && bytes[0] != CREDENTIALS_VERSION && bytes[0] != VERSION)
        return negative(answer, SOCKS5_INVALID, "answered the credentials with something else");
    if (length < 2)
        return needs(answer, 2);
    if (bytes[1] != 0)
        return negative(answer, SOCKS5_DENIED, "rejected the user or the password");
    return complete(answer, 2);
}

// RFC 1928, 6
static enum socks5_state refuse(struct socks5_answer *answer, uint8_t code)
{
    static const char *const reasons[] = {
        [1] = "answered: general failure",
        [2] = "answered: the connection is not allowed by its rules",
        [3] = "answered: the network is unreachable",
        [4] = "answered: the host is unreachable",
        [5] = "answered: connection refused",
        [6] = "answered: TTL expired",
        [7] = "answered: the command is not supported",
        [8] = "answered: the address type is not supported",
    };
    if (code < sizeof reasons / sizeof reasons[0])
        return negative(answer, SOCKS5_REFUSED, reasons[code]);
    return unknown(answer, SOCKS5_REFUSED, "answered with an unknown failure", "reply code", code);
}

enum socks5_state socks5_parse_reply(const uint8_t *bytes, size_t length, struct socks5_answer *answer)
{
    *answer = (struct socks5_answer){.length = 0};
    if (length > 0 && bytes[0] != VERSION)
        return negative(answer, SOCKS5_INVALID, "answered the request with something else");
    // A failure is told by two bytes; there are servers that send no more.
    if (length > 1 && bytes[1] != 0)
        return refuse(answer, bytes[1]);
    size_t whole;
    if (length < 5)
        return needs(answer, 5); // a name's length is the fifth
    switch (bytes[3]) {
    case SOCKS5_IPV4:
        whole = 4 + 4 + 2;
        break;
    case SOCKS5_IPV6:
        whole = 4 + 16 + 2;
        break;
    case SOCKS5_NAME:
        whole = 4 + 1 + (size_t)bytes[4] + 2;
        break;
    default:
        return unknown(answer, SOCKS5_INVALID, "answered with an address of an unknown type", "type", bytes[3]);
    }
    return length < whole ? needs(answer, whole) : complete(answer, whole);
}
