#include "record_key.h"

#include <string.h>

#include "bitflow/base/invariant.h"
#include "engine/hkdf.h"

static void store_16(uint8_t *at, size_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void store_64(uint8_t *at, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

// The AEAD and the IV that belong to key->secret.
static bool derive(struct record_key *key, struct error *error)
{
    uint8_t bytes[AEAD_KEY_MAX];
    uint8_t iv[AEAD_NONCE_SIZE];
    struct aead *aead = NULL;
    if (!hkdf_expand_label(key->hash, key->secret, "key", bytes, aead_key_size(key->algorithm)) ||
        !hkdf_expand_label(key->hash, key->secret, "iv", iv, sizeof iv))
        error_set(error, ERROR_NO_MEMORY, "could not derive a TLS record key");
    else
        aead = aead_create(key->algorithm, bytes, error);
    if (aead != NULL) {
        aead_destroy(&key->aead);
        key->aead = aead;
        memcpy(key->iv, iv, sizeof iv);
    }
    explicit_bzero(bytes, sizeof bytes);
    explicit_bzero(iv, sizeof iv);
    return aead != NULL;
}

bool record_key_init(struct record_key *key, const struct tls_keys *keys, struct error *error)
{
    *key = (struct record_key){
        .version = keys->version, .algorithm = keys->algorithm, .hash = keys->hash, .sequence = keys->sequence};
    if (keys->version == TLS_1_3) {
        memcpy(key->secret, keys->secret, sizeof key->secret);
        if (derive(key, error))
            return true;
        record_key_release(key);
        return false;
    }
    memcpy(key->iv, keys->iv, sizeof key->iv);
    key->aead = aead_create(keys->algorithm, keys->key, error);
    return key->aead != NULL;
}

void record_key_release(struct record_key *key)
{
    aead_destroy(&key->aead);
    explicit_bzero(key, sizeof *key);
}

bool record_key_update(struct record_key *key, struct error *error)
{
    INVARIANT(key->version == TLS_1_3);
    uint8_t next[TLS_SECRET_MAX] = {0};
    bool is_good = hkdf_expand_label(key->hash, key->secret, "traffic upd", next, tls_hash_size(key->hash));
    if (is_good)
        memcpy(key->secret, next, sizeof next);
    else
        error_set(error, ERROR_NO_MEMORY, "could not derive a TLS record key");
    explicit_bzero(next, sizeof next);
    if (!is_good || !derive(key, error))
        return false;
    key->sequence = 0;
    return true;
}

void record_key_advance(struct record_key *key)
{
    // Once around, the next record would have the nonce of the first.
    INVARIANT(key->sequence < UINT64_MAX);
    key->sequence++;
}

size_t record_key_explicit_nonce(const struct record_key *key)
{
    return key->version == TLS_1_2 && key->algorithm != AEAD_CHACHA20_POLY1305 ? TLS_EXPLICIT_NONCE_SIZE : 0;
}

void record_key_nonce(const struct record_key *key, const uint8_t *explicit_nonce, uint8_t nonce[AEAD_NONCE_SIZE])
{
    memcpy(nonce, key->iv, AEAD_NONCE_SIZE);
    if (record_key_explicit_nonce(key) > 0) {
        memcpy(nonce + AEAD_NONCE_SIZE - TLS_EXPLICIT_NONCE_SIZE, explicit_nonce, TLS_EXPLICIT_NONCE_SIZE);
        return;
    }
    uint8_t number[8];
    store_64(number, key->sequence);
    for (size_t i = 0; i < sizeof number; i++)
        nonce[AEAD_NONCE_SIZE - sizeof number + i] ^= number[i];
}

size_t record_key_additional(const struct record_key *key, const uint8_t header[TLS_HEADER_SIZE], size_t plain_length,
                             uint8_t additional[TLS_ADDITIONAL_MAX])
{
    if (key->version == TLS_1_3) {
        memcpy(additional, header, TLS_HEADER_SIZE);
        return TLS_HEADER_SIZE;
    }
    store_64(additional, key->sequence);
    memcpy(additional + 8, header, 3);
    store_16(additional + 11, plain_length);
    return TLS_ADDITIONAL_MAX;
}

void record_header_write(uint8_t header[TLS_HEADER_SIZE], enum tls_content content, size_t length)
{
    header[0] = (uint8_t)content;
    store_16(header + 1, TLS_RECORD_VERSION);
    store_16(header + 3, length);
}
