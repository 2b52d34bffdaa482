#include "bitflow/wire/client_hello.h"

#include <stdbool.h>
#include <string.h>

#include "bitflow/wire/foreign.h"

#define RECORD_HEADER 5
#define MESSAGE_HEADER 4
#define RECORD_MAX 16384
// Version, random, empty session id, one cipher suite, one compression method.
#define MESSAGE_MIN (2 + 32 + 1 + 2 + 2 + 1 + 1)

enum { RECORD_ALERT = 21, RECORD_DATA = 23 };
enum { EXTENSION_SERVER_NAME = 0, EXTENSION_ALPN = 16, EXTENSION_SUPPORTED_VERSIONS = 43 };

// The handshake message inside its records, or a part of it: `left` bytes of it are still to be read.
struct reader {
    const uint8_t *at;
    size_t record_left; // of the record that `at` is in
    size_t left;
};

// The record layer

static enum client_hello_state invalid(struct client_hello *hello, const char *reason)
{
    hello->reason = reason;
    return CLIENT_HELLO_INVALID;
}

static enum client_hello_state needs(struct client_hello *hello, size_t needed)
{
    hello->needed = needed;
    return CLIENT_HELLO_NEEDS_MORE;
}

// The stream does not begin as a handshake record does: what is it? A few more bytes are asked for if they would tell.
static enum client_hello_state judge_foreign(const uint8_t *bytes, size_t length, struct client_hello *hello)
{
    size_t needed;
    enum foreign_protocol protocol = foreign_protocol_of(bytes, length, &needed);
    if (needed > 0)
        return needs(hello, needed);
    if (protocol == FOREIGN_TLS && bytes[0] == RECORD_ALERT)
        return invalid(hello, "a TLS alert where a ClientHello was expected");
    if (protocol == FOREIGN_TLS && bytes[0] == RECORD_DATA)
        return invalid(hello, "TLS data where a ClientHello was expected");
    return invalid(hello, foreign_protocol_words(protocol, FOREIGN_NOT_TLS));
}

// What is wrong with a record's header, as far as it has come; NULL: nothing.
static const char *check_record(const uint8_t *header, size_t length)
{
    if (length >= 1 && header[0] != 22)
        return "a ClientHello interrupted by another record";
    if (length >= 2 && header[1] != 3)
        return "a TLS record of an unknown version";
    if (length < RECORD_HEADER)
        return NULL;
    size_t payload = (size_t)header[3] << 8 | header[4];
    if (payload == 0)
        return "an empty TLS handshake record";
    return payload > RECORD_MAX ? "a TLS record longer than 16 KiB" : NULL;
}

// The message's own header, of which `have` bytes have come.
static const char *check_message(const uint8_t header[MESSAGE_HEADER], size_t have, size_t *message)
{
    if (have >= 1 && header[0] != 1)
        return "a TLS handshake message that is not a ClientHello";
    if (have < MESSAGE_HEADER)
        return NULL;
    size_t body = (size_t)header[1] << 16 | (size_t)header[2] << 8 | header[3];
    if (body < MESSAGE_MIN)
        return "a ClientHello that is too short";
    *message = MESSAGE_HEADER + body;
    return *message > CLIENT_HELLO_MAX ? "a ClientHello larger than 64 KiB" : NULL;
}

// Walks the records until the message is complete; puts its size into `message`.
static enum client_hello_state find_message(const uint8_t *bytes, size_t length, struct client_hello *hello,
                                            size_t *message)
{
    uint8_t header[MESSAGE_HEADER];
    size_t at = 0;                  // of the stream
    size_t have = 0;                // of the message
    size_t wanted = MESSAGE_HEADER; // of it, until its own size is known
    for (unsigned records = 0;; records++) {
        if (records == CLIENT_HELLO_RECORDS_MAX)
            return invalid(hello, "a ClientHello in too many records");
        size_t left = length - at;
        const char *reason = check_record(bytes + at, left);
        if (reason != NULL)
            return invalid(hello, reason);
        if (at + RECORD_HEADER > CLIENT_HELLO_MAX)
            return invalid(hello, "a ClientHello larger than 64 KiB");
        if (left < RECORD_HEADER)
            return needs(hello, at + RECORD_HEADER);
        size_t payload = (size_t)bytes[at + 3] << 8 | bytes[at + 4];
        at += RECORD_HEADER;
        left -= RECORD_HEADER;
        size_t available = left < payload ? left : payload;
        if (have < MESSAGE_HEADER) {
            for (size_t i = 0; i < available && have + i < MESSAGE_HEADER; i++)
                header[have + i] = bytes[at + i];
            size_t known = have + available < MESSAGE_HEADER ? have + available : MESSAGE_HEADER;
            reason = check_message(header, known, &wanted);
            if (reason != NULL)
                return invalid(hello, reason);
        }
        size_t part = payload < wanted - have ? payload : wanted - have;
        if (at + part > CLIENT_HELLO_MAX)
            return invalid(hello, "a ClientHello larger than 64 KiB");
        if (available < part)
            return needs(hello, at + part);
        have += part;
        if (have == wanted && wanted > MESSAGE_HEADER)
            break;
        at += payload;
    }
    *message = wanted;
    return CLIENT_HELLO_COMPLETE;
}

// Reading the message. All of it is there, so that running out of bytes means that a length inside it is wrong.

static uint8_t next_byte(struct reader *reader)
{
    while (reader->record_left == 0) {
        reader->record_left = (size_t)reader->at[3] << 8 | reader->at[4];
        reader->at += RECORD_HEADER;
    }
    reader->record_left--;
    reader->left--;
    return *reader->at++;
}

static bool read_number(struct reader *reader, size_t bytes, size_t *number)
{
    if (reader->left < bytes)
        return false;
    size_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value = value << 8 | next_byte(reader);
    *number = value;
    return true;
}

static bool skip(struct reader *reader, size_t bytes)
{
    if (reader->left < bytes)
        return false;
    reader->left -= bytes;
    while (bytes > 0) {
        if (reader->record_left == 0) {
            reader->record_left = (size_t)reader->at[3] << 8 | reader->at[4];
            reader->at += RECORD_HEADER;
        }
        size_t part = bytes < reader->record_left ? bytes : reader->record_left;
        reader->at += part;
        reader->record_left -= part;
        bytes -= part;
    }
    return true;
}

// A vector with a length of `bytes` bytes, as a reader of its own; `reader` goes on behind it.
static bool read_vector(struct reader *reader, size_t bytes, struct reader *vector)
{
    size_t length;
    if (!read_number(reader, bytes, &length) || length > reader->left)
        return false;
    *vector = *reader;
    vector->left = length;
    return skip(reader, length);
}

static const char *read_server_name(struct reader *extension, struct client_hello *hello)
{
    struct reader list;
    struct reader name;
    size_t type;
    if (!read_vector(extension, 2, &list) || extension->left != 0 || !read_number(&list, 1, &type))
        return "a ClientHello whose server_name is malformed";
    // No other type has ever been defined, and of each there may be one (RFC 6066 3).
    if (type != 0 || !read_vector(&list, 2, &name) || list.left != 0)
        return "a ClientHello whose server_name is not one host name";
    if (name.left == 0 || name.left > CLIENT_HELLO_NAME_MAX)
        return "a ClientHello whose server_name is empty or longer than 255 bytes";
    size_t length = 0;
    while (name.left > 0) {
        uint8_t byte = next_byte(&name);
        if (byte <= ' ' || byte > '~')
            return "a ClientHello whose server_name has bytes that no host name may have";
        hello->server_name[length++] = (char)(byte >= 'A' && byte <= 'Z' ? byte - 'A' + 'a' : byte);
    }
    if (hello->server_name[length - 1] == '.')
        length--;
    hello->server_name[length] = '\0';
    return length > 0 ? NULL : "a ClientHello whose server_name is a dot";
}

static const char *read_alpn(struct reader *extension, struct client_hello *hello)
{
    static const char malformed[] = "a ClientHello whose ALPN is malformed";
    struct reader list;
    if (!read_vector(extension, 2, &list) || extension->left != 0 || list.left == 0)
        return malformed;
    while (list.left > 0) {
        struct reader protocol;
        if (!read_vector(&list, 1, &protocol) || protocol.left == 0)
            return malformed;
        if (hello->protocol_count == CLIENT_HELLO_ALPN_MAX)
            continue;
        char *text = hello->protocols[hello->protocol_count];
        size_t length = 0;
        while (protocol.left > 0)
            text[length++] = (char)next_byte(&protocol);
        text[length] = '\0';
        if (memchr(text, '\0', length) == NULL)
            hello->protocol_count++;
    }
    return NULL;
}

static const char *read_versions(struct reader *extension, struct client_hello *hello)
{
    struct reader list;
    if (!read_vector(extension, 1, &list) || extension->left != 0 || list.left == 0 || list.left % 2 != 0)
        return "a ClientHello whose supported_versions is malformed";
    hello->highest_version = 0;
    size_t version;
    // Others are drafts, or numbers that mean nothing, sent to see who stumbles over them (RFC 8701).
    while (read_number(&list, 2, &version)) {
        if (version >> 8 == 3 && version > hello->highest_version)
            hello->highest_version = (uint16_t)version;
    }
    return NULL;
}

static const char *read_extensions(struct reader *reader, struct client_hello *hello)
{
    static const struct {
        size_t type;
        const char *(*read)(struct reader *extension, struct client_hello *hello);
    } known[] = {
        {EXTENSION_SERVER_NAME, read_server_name},
        {EXTENSION_ALPN, read_alpn},
        {EXTENSION_SUPPORTED_VERSIONS, read_versions},
    };
    static const char malformed[] = "a ClientHello whose extensions are malformed";
    bool is_seen[sizeof known / sizeof known[0]] = {false};
    struct reader extensions;
    if (!read_vector(reader, 2, &extensions) || reader->left != 0)
        return malformed;
    while (extensions.left > 0) {
        size_t type;
        struct reader extension;
        if (!read_number(&extensions, 2, &type) || !read_vector(&extensions, 2, &extension))
            return malformed;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
            if (type != known[i].type)
                continue;
            // Somebody behind us might take the other one.
            if (is_seen[i])
                return "a ClientHello with a repeated extension";
            is_seen[i] = true;
            const char *reason = known[i].read(&extension, hello);
            if (reason != NULL)
                return reason;
        }
    }
    return NULL;
}

static const char *read_message(struct reader *reader, struct client_hello *hello)
{
    size_t version;
    struct reader session;
    struct reader suites;
    struct reader compressions;
    if (!skip(reader, MESSAGE_HEADER) || !read_number(reader, 2, &version) || !skip(reader, 32) ||
        !read_vector(reader, 1, &session) || session.left > 32 || !read_vector(reader, 2, &suites) ||
        suites.left == 0 || suites.left % 2 != 0 || !read_vector(reader, 1, &compressions) || compressions.left == 0)
        return "a ClientHello that is malformed";
    if (version >> 8 != 3)
        return "a ClientHello of an unknown version";
    // Without supported_versions there is no 1.3 (RFC 8446 4.2.1).
    hello->highest_version = (uint16_t)(version < 0x0303 ? version : 0x0303);
    return reader->left > 0 ? read_extensions(reader, hello) : NULL;
}

enum client_hello_state client_hello_parse(const uint8_t *bytes, size_t length, struct client_hello *hello)
{
    hello->server_name[0] = '\0';
    hello->protocol_count = 0;
    hello->highest_version = 0;
    hello->needed = 0;
    hello->reason = NULL;
    if (length == 0)
        return needs(hello, RECORD_HEADER);
    if (bytes[0] != 22)
        return judge_foreign(bytes, length, hello);

    struct reader reader = {.at = bytes};
    enum client_hello_state state = find_message(bytes, length, hello, &reader.left);
    if (state != CLIENT_HELLO_COMPLETE)
        return state;
    const char *reason = read_message(&reader, hello);
    if (reason == NULL)
        return CLIENT_HELLO_COMPLETE;
    hello->server_name[0] = '\0';
    hello->protocol_count = 0;
    hello->highest_version = 0;
    return invalid(hello, reason);
}
