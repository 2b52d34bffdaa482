#include "bitflow/tls/tls_record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "record_key.h"

// Handshake messages that come after the handshake: what is allowed of them, and how they lie in the records. They may
// be split over several records, and several may be in one.
struct handshake_reader {
    enum tls_version version;
    bool is_client; // we are
    uint8_t header[TLS_HANDSHAKE_HEADER_SIZE];
    size_t header_length; // more than 0: in the middle of a message
    size_t body_left;
};

struct handshake_read {
    unsigned messages; // how many ended
    bool is_key_update;
    bool update_requested;
    bool wants_renegotiation;
    enum tls_alert alert; // when it fails
    const char *reason;
};

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

static bool check_message_header(const struct handshake_reader *reader, struct handshake_read *read)
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
    if (!check_message_header(reader, read))
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

// Reads one record's content. False: it breaks the rules.
static bool handshake_read(struct handshake_reader *reader, const uint8_t *bytes, size_t length,
                           struct handshake_read *read)
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

// How many messages may come in a row that bring no data: KeyUpdates, tickets, warnings, empty records. Each costs us
// more than it costs the peer.
#define FRUITLESS_MAX 32

struct tls_receiver {
    struct record_key key;
    struct handshake_reader handshake;
    unsigned fruitless;
    bool has_closed;          // close_notify came
    bool has_ended;           // an alert, or a failure, ended it:
    struct tls_received last; // this one
};

// A record, decrypted.
struct record {
    enum tls_content content;
    uint8_t *data;
    size_t length;
    size_t consumed;
};

struct tls_receiver *tls_receiver_create(const struct tls_keys *keys, bool is_client, struct error *error)
{
    struct tls_receiver *receiver = calloc(1, sizeof *receiver);
    if (receiver == NULL) {
        error_set(error, ERROR_NO_MEMORY, "no memory for a TLS session");
        return NULL;
    }
    if (!record_key_init(&receiver->key, keys, error)) {
        free(receiver);
        return NULL;
    }
    receiver->handshake.version = keys->version;
    receiver->handshake.is_client = is_client;
    return receiver;
}

void tls_receiver_destroy(struct tls_receiver **receiver)
{
    if (*receiver != NULL) {
        record_key_release(&(*receiver)->key);
        free(*receiver);
    }
    *receiver = NULL;
}

static struct tls_received fail(struct tls_receiver *receiver, enum tls_alert alert, const char *reason)
{
    receiver->has_ended = true;
    receiver->last = (struct tls_received){.event = TLS_FAILED, .alert = alert, .reason = reason};
    return receiver->last;
}

static struct tls_received ignore(const struct record *record)
{
    return (struct tls_received){.event = TLS_IGNORED, .consumed = record->consumed};
}

// False: `messages` more without data are too many.
static bool spend(struct tls_receiver *receiver, unsigned messages)
{
    receiver->fruitless += messages;
    return receiver->fruitless <= FRUITLESS_MAX;
}

static struct tls_received fail_fruitless(struct tls_receiver *receiver)
{
    return fail(receiver, TLS_ALERT_UNEXPECTED_MESSAGE, "too many TLS messages in a row without any data");
}

static struct tls_received take_data(struct tls_receiver *receiver, const struct record *record)
{
    if (record->length > 0)
        receiver->fruitless = 0;
    else if (!spend(receiver, 1))
        return fail_fruitless(receiver);
    return (struct tls_received){
        .event = TLS_DATA, .consumed = record->consumed, .data = record->data, .length = record->length};
}

const char *tls_alert_name(unsigned alert)
{
    // The IANA registry of TLS alerts; the reserved ones too, as an old peer may send them.
    static const char *const names[256] = {
        [0] = "close_notify",
        [10] = "unexpected_message",
        [20] = "bad_record_mac",
        [21] = "decryption_failed",
        [22] = "record_overflow",
        [30] = "decompression_failure",
        [40] = "handshake_failure",
        [41] = "no_certificate",
        [42] = "bad_certificate",
        [43] = "unsupported_certificate",
        [44] = "certificate_revoked",
        [45] = "certificate_expired",
        [46] = "certificate_unknown",
        [47] = "illegal_parameter",
        [48] = "unknown_ca",
        [49] = "access_denied",
        [50] = "decode_error",
        [51] = "decrypt_error",
        [52] = "too_many_cids_requested",
        [60] = "export_restriction",
        [70] = "protocol_version",
        [71] = "insufficient_security",
        [80] = "internal_error",
        [86] = "inappropriate_fallback",
        [90] = "user_canceled",
        [100] = "no_renegotiation",
        [109] = "missing_extension",
        [110] = "unsupported_extension",
        [111] = "certificate_unobtainable",
        [112] = "unrecognized_name",
        [113] = "bad_certificate_status_response",
        [114] = "bad_certificate_hash_value",
        [115] = "unknown_psk_identity",
        [116] = "certificate_required",
        [120] = "no_application_protocol",
        [121] = "ech_required",
    };
    return alert < 256 && names[alert] != NULL ? names[alert] : "unknown_alert";
}

static struct tls_received take_alert(struct tls_receiver *receiver, const struct record *record)
{
    // Of 1.2's alerts it could come in two pieces or two together; no peer does that.
    if (record->length != 2)
        return fail(receiver, TLS_ALERT_DECODE_ERROR, "an alert that is not two bytes long");
    unsigned level = record->data[0];
    unsigned alert = record->data[1];
    if (alert == TLS_ALERT_CLOSE_NOTIFY) {
        receiver->has_closed = true;
        return (struct tls_received){.event = TLS_CLOSE_NOTIFY, .consumed = record->consumed};
    }
    bool is_warning = receiver->key.version == TLS_1_3 ? alert == TLS_ALERT_USER_CANCELED : level == 1;
    if (!is_warning) {
        receiver->has_ended = true;
        receiver->last =
            (struct tls_received){.event = TLS_PEER_ALERT, .alert = alert, .reason = tls_alert_name(alert)};
        struct tls_received received = receiver->last;
        received.consumed = record->consumed;
        return received;
    }
    return spend(receiver, 1) ? ignore(record) : fail_fruitless(receiver);
}

static struct tls_received take_handshake(struct tls_receiver *receiver, const struct record *record)
{
    struct handshake_read read;
    if (!handshake_read(&receiver->handshake, record->data, record->length, &read))
        return fail(receiver, read.alert, read.reason);
    // Pieces count as well.
    if (!spend(receiver, read.messages > 0 ? read.messages : 1))
        return fail_fruitless(receiver);
    struct tls_received received = ignore(record);
    if (read.is_key_update) {
        if (!record_key_update(&receiver->key, NULL))
            return fail(receiver, TLS_ALERT_INTERNAL_ERROR, "no memory for the next TLS key");
        received.event = TLS_KEY_UPDATE;
        received.update_requested = read.update_requested;
    }
    if (read.wants_renegotiation)
        received.alert = TLS_ALERT_NO_RENEGOTIATION;
    return received;
}

static struct tls_received take(struct tls_receiver *receiver, const struct record *record)
{
    if (receiver->handshake.header_length > 0 && record->content != TLS_HANDSHAKE)
        return fail(receiver, TLS_ALERT_UNEXPECTED_MESSAGE, "a handshake message with something else in its middle");
    if (record->content == TLS_APPLICATION_DATA)
        return take_data(receiver, record);
    if (record->content != TLS_ALERT && record->content != TLS_HANDSHAKE)
        return fail(receiver, TLS_ALERT_UNEXPECTED_MESSAGE, "a record of a kind that has no place after the handshake");
    if (record->length == 0)
        return fail(receiver, TLS_ALERT_UNEXPECTED_MESSAGE, "an empty record that is not data");
    return record->content == TLS_ALERT ? take_alert(receiver, record) : take_handshake(receiver, record);
}

// What is wrong with a header, before the rest of its record is waited for; NULL: nothing.
static const char *check_header(const struct tls_receiver *receiver, const uint8_t *header, size_t payload,
                                enum tls_alert *alert)
{
    *alert = TLS_ALERT_UNEXPECTED_MESSAGE;
    if (header[0] == TLS_CHANGE_CIPHER_SPEC)
        return "a change_cipher_spec after the handshake";
    if (header[0] < TLS_ALERT || header[0] > TLS_APPLICATION_DATA)
        return "bytes that are not a TLS record";
    if (receiver->key.version == TLS_1_3 && header[0] != TLS_APPLICATION_DATA)
        return "a record that is not encrypted";
    // In 1.3 the version means nothing; it is authenticated with the record as it came.
    if (receiver->key.version == TLS_1_2 && ((unsigned)header[1] << 8 | header[2]) != TLS_RECORD_VERSION) {
        *alert = TLS_ALERT_PROTOCOL_VERSION;
        return "a record of another version of TLS";
    }
    // 1.2 allows 2048 more than the plaintext, but no AEAD has them: the plaintext would be too long.
    if (payload > TLS_RECORD_MAX - TLS_HEADER_SIZE) {
        *alert = TLS_ALERT_RECORD_OVERFLOW;
        return "a record longer than TLS allows";
    }
    *alert = TLS_ALERT_BAD_RECORD_MAC;
    if (payload < record_key_explicit_nonce(&receiver->key) + AEAD_TAG_SIZE)
        return "a record too short to be encrypted";
    return NULL;
}

// Decrypts in place; `record` is what was protected, in 1.3 with content type and padding still at its end.
static bool decrypt(struct tls_receiver *receiver, uint8_t *buffer, size_t payload, struct record *record)
{
    struct record_key *key = &receiver->key;
    size_t explicit_nonce = record_key_explicit_nonce(key);
    uint8_t nonce[AEAD_NONCE_SIZE];
    uint8_t additional[TLS_ADDITIONAL_MAX];
    record->content = buffer[0];
    record->data = buffer + TLS_HEADER_SIZE + explicit_nonce;
    record->length = payload - explicit_nonce - AEAD_TAG_SIZE;
    record->consumed = TLS_HEADER_SIZE + payload;
    record_key_nonce(key, buffer + TLS_HEADER_SIZE, nonce);
    size_t additional_length = record_key_additional(key, buffer, record->length, additional);
    if (!aead_open(key->aead, nonce, additional, additional_length, record->data, record->length + AEAD_TAG_SIZE,
                   record->data))
        return false;
    record_key_advance(key);
    return true;
}

// RFC 8446 5.2: TLSInnerPlaintext. How long it takes tells the padding's length, which the standard accepts (5.4, E.3).
static bool strip_padding(struct record *record)
{
    while (record->length > 0 && record->data[record->length - 1] == 0)
        record->length--;
    if (record->length == 0)
        return false;
    record->content = record->data[--record->length];
    return true;
}

struct tls_received tls_receiver_open(struct tls_receiver *receiver, uint8_t *buffer, size_t length)
{
    if (receiver->has_ended)
        return receiver->last;
    if (receiver->has_closed && length > 0)
        return (struct tls_received){.event = TLS_IGNORED, .consumed = length};
    const struct tls_received needs_more = {.event = TLS_NEEDS_MORE};
    if (length < TLS_HEADER_SIZE)
        return needs_more;

    size_t payload = (size_t)buffer[3] << 8 | buffer[4];
    enum tls_alert alert;
    const char *reason = check_header(receiver, buffer, payload, &alert);
    if (reason != NULL)
        return fail(receiver, alert, reason);
    if (length - TLS_HEADER_SIZE < payload)
        return needs_more;
    if (receiver->key.sequence == UINT64_MAX)
        return fail(receiver, TLS_ALERT_INTERNAL_ERROR, "the last sequence number of a TLS key is used up");

    struct record record;
    if (!decrypt(receiver, buffer, payload, &record))
        return fail(receiver, TLS_ALERT_BAD_RECORD_MAC, "a record that is forged or damaged");
    // Also what is padding counts.
    if (record.length > TLS_PLAIN_MAX + (receiver->key.version == TLS_1_3))
        return fail(receiver, TLS_ALERT_RECORD_OVERFLOW, "a record longer than TLS allows");
    if (receiver->key.version == TLS_1_3 && !strip_padding(&record))
        return fail(receiver, TLS_ALERT_UNEXPECTED_MESSAGE, "a record of nothing but padding");
    return take(receiver, &record);
}
