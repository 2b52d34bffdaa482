#include "bitflow/tls/tls_record.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/invariant.h"
#include "record_key.h"

// RFC 8446 5.5: AES-GCM is good for 2^24.5 full records of one key. ChaCha20-Poly1305 has no such limit; its key goes
// only so that the sequence never comes to its end.
#define GCM_RECORDS (UINT64_C(1) << 24)
#define CHACHA20_RECORDS (UINT64_C(1) << 48)
// In 1.2 there is no way on. The sequence's last numbers are left for an alert.
#define LAST_DATA_SEQUENCE (UINT64_MAX - 4)

struct tls_sender {
    struct record_key key;
    bool has_ended;
    // Set by the receiver's thread.
    atomic_bool is_key_update_requested;
    atomic_bool is_renegotiation_refused;
};

struct tls_sender *tls_sender_create(const struct tls_keys *keys, struct error *error)
{
    struct tls_sender *sender = calloc(1, sizeof *sender);
    if (sender == NULL) {
        error_set(error, ERROR_NO_MEMORY, "no memory for a TLS session");
        return NULL;
    }
    if (!record_key_init(&sender->key, keys, error)) {
        free(sender);
        return NULL;
    }
    return sender;
}

void tls_sender_destroy(struct tls_sender **sender)
{
    if (*sender != NULL) {
        record_key_release(&(*sender)->key);
        free(*sender);
    }
    *sender = NULL;
}

void tls_sender_request_key_update(struct tls_sender *sender)
{
    atomic_store_explicit(&sender->is_key_update_requested, true, memory_order_relaxed);
}

void tls_sender_refuse_renegotiation(struct tls_sender *sender)
{
    atomic_store_explicit(&sender->is_renegotiation_refused, true, memory_order_relaxed);
}

static uint64_t records_per_key(const struct record_key *key)
{
    return key->algorithm == AEAD_CHACHA20_POLY1305 ? CHACHA20_RECORDS : GCM_RECORDS;
}

// One record of up to TLS_PLAIN_MAX bytes. 0: failed, and the sender has ended.
static size_t seal_record(struct tls_sender *sender, enum tls_content content, const uint8_t *plain, size_t length,
                          uint8_t *out)
{
    struct record_key *key = &sender->key;
    uint8_t nonce[AEAD_NONCE_SIZE];
    uint8_t additional[TLS_ADDITIONAL_MAX];
    size_t payload;
    INVARIANT(key->aead != NULL && length <= TLS_PLAIN_MAX);
    bool is_good = key->sequence < UINT64_MAX;
    if (key->version == TLS_1_3) {
        payload = length + 1 + AEAD_TAG_SIZE;
        record_header_write(out, TLS_APPLICATION_DATA, payload);
        record_key_nonce(key, NULL, nonce);
        size_t additional_length = record_key_additional(key, out, length, additional);
        is_good = is_good && aead_seal_ending(key->aead, nonce, additional, additional_length, plain, length,
                                              (uint8_t)content, out + TLS_HEADER_SIZE);
    } else {
        // Being the sequence number, the explicit nonce cannot come twice.
        size_t explicit_nonce = record_key_explicit_nonce(key);
        payload = explicit_nonce + length + AEAD_TAG_SIZE;
        record_header_write(out, content, payload);
        size_t additional_length = record_key_additional(key, out, length, additional);
        memcpy(out + TLS_HEADER_SIZE, additional, explicit_nonce);
        record_key_nonce(key, out + TLS_HEADER_SIZE, nonce);
        is_good = is_good && aead_seal(key->aead, nonce, additional, additional_length, plain, length,
                                       out + TLS_HEADER_SIZE + explicit_nonce);
    }
    if (!is_good) {
        sender->has_ended = true;
        return 0;
    }
    record_key_advance(key);
    return TLS_HEADER_SIZE + payload;
}

// Both sides change keys with this message: it is the last under the old one.
static size_t seal_key_update(struct tls_sender *sender, uint8_t *out)
{
    // The last byte: update_not_requested.
    static const uint8_t message[TLS_HANDSHAKE_HEADER_SIZE + 1] = {TLS_HANDSHAKE_KEY_UPDATE, 0, 0, 1, 0};
    size_t written = seal_record(sender, TLS_HANDSHAKE, message, sizeof message, out);
    if (written > 0 && !record_key_update(&sender->key, NULL)) {
        sender->has_ended = true;
        return 0;
    }
    return written;
}

static size_t seal_alert(struct tls_sender *sender, enum tls_alert alert, uint8_t *out)
{
    bool is_warning =
        alert == TLS_ALERT_CLOSE_NOTIFY || alert == TLS_ALERT_USER_CANCELED || alert == TLS_ALERT_NO_RENEGOTIATION;
    const uint8_t message[2] = {is_warning ? 1 : 2, (uint8_t)alert};
    return seal_record(sender, TLS_ALERT, message, sizeof message, out);
}

// A look first: the flags are about never set, and a plain load costs nothing.
static bool take_flag(atomic_bool *flag)
{
    return atomic_load_explicit(flag, memory_order_relaxed) &&
           atomic_exchange_explicit(flag, false, memory_order_relaxed);
}

// What has to go before the next data. Returns the bytes written; false in `is_good`: failed.
static size_t seal_what_is_due(struct tls_sender *sender, uint8_t *out, bool *is_good)
{
    size_t written = 0;
    bool is_due;
    if (sender->key.version == TLS_1_3) {
        is_due = take_flag(&sender->is_key_update_requested);
        if (is_due)
            written = seal_key_update(sender, out);
    } else {
        is_due = take_flag(&sender->is_renegotiation_refused);
        if (is_due)
            written = seal_alert(sender, TLS_ALERT_NO_RENEGOTIATION, out);
    }
    *is_good = !is_due || written > 0;
    return written;
}

// One record of data, and before it the KeyUpdate that the limit asks for.
static size_t seal_data(struct tls_sender *sender, const uint8_t *plain, size_t length, uint8_t *out)
{
    size_t written = 0;
    if (sender->key.version == TLS_1_3 && sender->key.sequence >= records_per_key(&sender->key)) {
        written = seal_key_update(sender, out);
        if (written == 0)
            return 0;
    } else if (sender->key.sequence > LAST_DATA_SEQUENCE) {
        return 0;
    }
    size_t sealed = seal_record(sender, TLS_APPLICATION_DATA, plain, length, out + written);
    return sealed > 0 ? written + sealed : 0;
}

size_t tls_sender_seal(struct tls_sender *sender, const uint8_t *plain, size_t length, uint8_t *out, size_t room)
{
    // Were `length` absurd, the macro could wrap around.
    if (sender->has_ended || length > room || room < TLS_SEALED_SIZE(length))
        return 0;
    bool is_good;
    size_t written = seal_what_is_due(sender, out, &is_good);
    if (!is_good)
        return 0;
    for (;;) {
        size_t part = length < TLS_PLAIN_MAX ? length : TLS_PLAIN_MAX;
        size_t sealed = seal_data(sender, plain, part, out + written);
        if (sealed == 0)
            return 0;
        written += sealed;
        if (part == length)
            return written;
        plain += part;
        length -= part;
    }
}

size_t tls_sender_content_of(const struct tls_sender *sender, const uint8_t *sealed, size_t length)
{
    size_t overhead = AEAD_TAG_SIZE + (sender->key.version == TLS_1_3 ? 1 : record_key_explicit_nonce(&sender->key));
    size_t content = 0;
    while (length >= TLS_HEADER_SIZE) {
        size_t payload = (size_t)sealed[3] << 8 | sealed[4];
        if (length - TLS_HEADER_SIZE < payload)
            break;
        if (sealed[0] == TLS_APPLICATION_DATA)
            content += payload - overhead;
        sealed += TLS_HEADER_SIZE + payload;
        length -= TLS_HEADER_SIZE + payload;
    }
    return content;
}

size_t tls_sender_seal_due(struct tls_sender *sender, uint8_t *out, size_t room)
{
    bool is_good;
    return sender->has_ended || room < TLS_ALERT_RECORD_MAX ? 0 : seal_what_is_due(sender, out, &is_good);
}

size_t tls_sender_alert(struct tls_sender *sender, enum tls_alert alert, uint8_t *out, size_t room)
{
    if (sender->has_ended || room < TLS_ALERT_RECORD_MAX)
        return 0;
    size_t written = seal_alert(sender, alert, out);
    if (alert != TLS_ALERT_USER_CANCELED && alert != TLS_ALERT_NO_RENEGOTIATION)
        sender->has_ended = true;
    return written;
}
