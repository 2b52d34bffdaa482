#include "early_filter.h"

#include <stdlib.h>
#include <string.h>

#include <mbedtls/platform_util.h>
#include <mbedtls/ssl.h>

#include "../record_key.h"
#include "bitflow/base/invariant.h"
#include "ssl_config.h"

struct early_record {
    struct record_key key; // the client's, of the handshake; without an AEAD until it is needed
    size_t length;         // of what has been read of the record, bytes
    size_t taken;          // of them, handed out
    uint8_t bytes[TLS_RECORD_MAX];
    uint8_t plain[TLS_RECORD_MAX]; // what opening it writes
};

void early_filter_release(struct early_filter *filter)
{
    if (filter->record == NULL)
        return;
    record_key_release(&filter->record->key);
    mbedtls_platform_zeroize(filter->record->plain, sizeof filter->record->plain);
    free(filter->record);
    filter->record = NULL;
}

void early_filter_sent(struct early_filter *filter, const uint8_t *record, size_t length)
{
    if (filter->answer == EARLY_DATA_HELLO)
        return;
    enum early_data_answer answer = early_data_answer_of(record, length, &filter->suite);
    if (answer != EARLY_DATA_UNANSWERED)
        filter->answer = answer;
}

bool early_filter_is_due(const struct early_filter *filter)
{
    return filter->offer.is_made && filter->answer != EARLY_DATA_UNANSWERED && !filter->is_over;
}

static bool make_key(struct record_key *key, const struct key_export *keys, const struct tls_suite *suite)
{
    struct tls_keys client;
    struct tls_keys server;
    bool is_made = key_export_derive_handshake(keys, suite->algorithm, suite->hash, &client, &server) &&
                   record_key_init(key, &client, NULL);
    mbedtls_platform_zeroize(&client, sizeof client);
    mbedtls_platform_zeroize(&server, sizeof server);
    return is_made;
}

// Whether the record is the client's first one under the key: those before it are early data, under another.
static bool opens(struct early_record *record)
{
    uint8_t nonce[AEAD_NONCE_SIZE];
    uint8_t additional[TLS_ADDITIONAL_MAX];
    size_t length = record->length - TLS_HEADER_SIZE;
    record_key_nonce(&record->key, NULL, nonce);
    size_t additional_length = record_key_additional(&record->key, record->bytes, length - AEAD_TAG_SIZE, additional);
    return aead_open(record->key.aead, nonce, additional, additional_length, record->bytes + TLS_HEADER_SIZE, length,
                     record->plain);
}

// Whether a record of application data, which has come wholly, is early data. It is not looked at further where it
// cannot be: mbedTLS is to judge.
static int judge(struct early_filter *filter, const struct key_export *keys, bool *is_early)
{
    struct early_record *record = filter->record;
    *is_early = filter->answer == EARLY_DATA_RETRY;
    if (*is_early || !keys->handshake.has_client || !keys->handshake.has_server) // TLS 1.2 has no such keys
        return 0;
    const struct tls_suite *suite = tls_suite_find(filter->suite);
    if (suite == NULL)
        return 0;
    if (record->key.aead == NULL && !make_key(&record->key, keys, suite))
        return MBEDTLS_ERR_SSL_ALLOC_FAILED;
    *is_early = !opens(record);
    return 0;
}

// The header of a record has come.
static bool may_be_early_data(const uint8_t header[TLS_HEADER_SIZE])
{
    size_t length = (size_t)header[3] << 8 | header[4];
    // At least the type of what is inside, and the tag.
    return header[0] == TLS_APPLICATION_DATA && header[1] == TLS_RECORD_VERSION >> 8 &&
           header[2] == (TLS_RECORD_VERSION & 0xff) && length > AEAD_TAG_SIZE &&
           length <= TLS_RECORD_MAX - TLS_HEADER_SIZE;
}

int early_filter_receive(struct early_filter *filter, const struct key_export *keys, early_filter_read *read,
                         void *argument)
{
    INVARIANT(early_filter_is_due(filter));
    if (filter->record == NULL)
        filter->record = calloc(1, sizeof *filter->record);
    struct early_record *record = filter->record;
    if (record == NULL)
        return MBEDTLS_ERR_SSL_ALLOC_FAILED;
    for (;;) {
        record->taken = 0;
        record->length = 0;
        int status = read(argument, record->bytes, TLS_HEADER_SIZE);
        if (status != 0)
            return status;
        record->length = TLS_HEADER_SIZE;
        if (!may_be_early_data(record->bytes)) {
            // A change_cipher_spec comes before early data, for the sake of middleboxes. All else ends it.
            filter->is_over = record->bytes[0] != TLS_CHANGE_CIPHER_SPEC;
            return 0;
        }
        size_t length = (size_t)record->bytes[3] << 8 | record->bytes[4];
        status = read(argument, record->bytes + TLS_HEADER_SIZE, length);
        if (status != 0)
            return status;
        record->length += length;
        bool is_early;
        status = judge(filter, keys, &is_early);
        if (status != 0)
            return status;
        if (!is_early) {
            filter->is_over = true;
            return 0;
        }
        filter->skipped += record->length;
        filter->is_exceeded = filter->skipped > EARLY_DATA_SKIPPED_MAX;
        if (filter->is_exceeded)
            return MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE;
    }
}

size_t early_filter_take(struct early_filter *filter, uint8_t *buffer, size_t room)
{
    struct early_record *record = filter->record;
    if (record == NULL)
        return 0;
    size_t left = record->length - record->taken;
    size_t length = left < room ? left : room;
    memcpy(buffer, record->bytes + record->taken, length);
    record->taken += length;
    return length;
}
