#include "record_handshake.h"

// A ticket of 64 KiB with its fields, and more; nobody sends as much, and it is only counted, not kept.
#define MESSAGE_MAX ((size_t)128 * 1024)

static bool refuse(struct handshake_read *read, enum tls_alert alert, const char *reason)
{
    read->alert = alert;
    read->reason = reason;
    return false;
}

static bool is_allowed(const struct handshake_reader *reader, unsigned type)
{
    if (reader->version == TLS_1_3)
        return type == TLS_HANDSHAKE_KEY_UPDATE || (type == TLS_NEW_SESSION_TICKET && reader->is_client);
    return type == (reader->is_client ? TLS_HELLO_REQUEST : TLS_CLIENT_HELLO);
}

static bool check_header(const struct handshake_reader *reader, struct handshake_read *read)
{
    unsigned type = reader->header[0];
    if (!is_allowed(reader, type))
        return refuse(read, TLS_ALERT_UNEXPECTED_MESSAGE, "a handshake message that has no place after the handshake");
    if ((type == TLS_HANDSHAKE_KEY_UPDATE && reader->body_left != 1) ||
        (type == TLS_HELLO_REQUEST && reader->body_left != 0))
        return refuse(read, TLS_ALERT_DECODE_ERROR, "a handshake message of the wrong length");
    if (reader->body_left > MESSAGE_MAX)
        return refuse(read, TLS_ALERT_DECODE_ERROR, "a handshake message larger than 128 KiB");
    return true;
}

static void end_message(struct handshake_reader *reader, struct handshake_read *read)
{
    read->messages++;
    read->is_key_update = reader->header[0] == TLS_HANDSHAKE_KEY_UPDATE;
    // Of 1.2's messages none but those two kinds get here.
    read->wants_renegotiation |= reader->version == TLS_1_2;
    reader->header_length = 0;
}

static bool read_header_byte(struct handshake_reader *reader, uint8_t byte, struct handshake_read *read)
{
    reader->header[reader->header_length++] = byte;
    if (reader->header_length < TLS_HANDSHAKE_HEADER_SIZE)
        return true;
    reader->body_left = (size_t)reader->header[1] << 16 | (size_t)reader->header[2] << 8 | reader->header[3];
    if (!check_header(reader, read))
        return false;
    if (reader->body_left == 0)
        end_message(reader, read);
    return true;
}

// Returns how many bytes it took; 0: they break the rules.
static size_t read_body(struct handshake_reader *reader, const uint8_t *bytes, size_t length,
                        struct handshake_read *read)
{
    size_t taken = length < reader->body_left ? length : reader->body_left;
    if (reader->header[0] == TLS_HANDSHAKE_KEY_UPDATE) {
        if (bytes[0] > 1) {
            refuse(read, TLS_ALERT_ILLEGAL_PARAMETER, "a KeyUpdate that neither asks for one nor does not");
            return 0;
        }
        read->update_requested = bytes[0] == 1;
    }
    reader->body_left -= taken;
    if (reader->body_left == 0)
        end_message(reader, read);
    return taken;
}

bool handshake_read(struct handshake_reader *reader, const uint8_t *bytes, size_t length, struct handshake_read *read)
{
    *read = (struct handshake_read){0};
    while (length > 0) {
        // What follows it is to be under the next key, so in another record (RFC 8446 5.1).
        if (read->is_key_update)
            return refuse(read, TLS_ALERT_UNEXPECTED_MESSAGE, "a KeyUpdate that does not end its record");
        size_t taken = 1;
        if (reader->header_length < TLS_HANDSHAKE_HEADER_SIZE) {
            if (!read_header_byte(reader, *bytes, read))
                return false;
        } else {
            taken = read_body(reader, bytes, length, read);
            if (taken == 0)
                return false;
        }
        bytes += taken;
        length -= taken;
    }
    return true;
}
