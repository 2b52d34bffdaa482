// By mbedTLS's own GCM and ChaCha20-Poly1305: PSA would allocate for each record.

#include "aead_backend.h"

#include <stdlib.h>
#include <string.h>

#include <mbedtls/chachapoly.h>
#include <mbedtls/gcm.h>

struct aead {
    bool is_gcm;
    union {
        mbedtls_gcm_context gcm;
        mbedtls_chachapoly_context chachapoly;
    } is;
};

static void mbedtls_backend_destroy(struct aead *aead)
{
    if (aead->is_gcm)
        mbedtls_gcm_free(&aead->is.gcm); // wipes
    else
        mbedtls_chachapoly_free(&aead->is.chachapoly);
    free(aead);
}

static struct aead *mbedtls_backend_create(enum aead_algorithm algorithm, const uint8_t *key, struct error *error)
{
    struct aead *aead = calloc(1, sizeof *aead);
    if (aead == NULL) {
        error_set(error, ERROR_NO_MEMORY, "no memory for a cipher's key");
        return NULL;
    }
    int status;
    aead->is_gcm = algorithm != AEAD_CHACHA20_POLY1305;
    if (aead->is_gcm) {
        mbedtls_gcm_init(&aead->is.gcm);
        status = mbedtls_gcm_setkey(&aead->is.gcm, MBEDTLS_CIPHER_ID_AES, key, (unsigned)aead_key_size(algorithm) * 8);
    } else {
        mbedtls_chachapoly_init(&aead->is.chachapoly);
        status = mbedtls_chachapoly_setkey(&aead->is.chachapoly, key);
    }
    if (status != 0) {
        error_set(error, ERROR_SYSTEM, "mbedTLS does not take a cipher's key: -0x%04x", (unsigned)-status);
        mbedtls_backend_destroy(aead);
        return NULL;
    }
    return aead;
}

static bool mbedtls_backend_seal(struct aead *aead, const uint8_t *nonce, const uint8_t *additional,
                                 size_t additional_length, const uint8_t *plain, size_t length, const uint8_t *last,
                                 uint8_t *out)
{
    // It wants the plaintext in one piece; beside its speed, a copy is nothing.
    if (last != NULL) {
        if (length > 0)
            memmove(out, plain, length);
        out[length++] = *last;
        plain = out;
    }
    if (aead->is_gcm)
        return mbedtls_gcm_crypt_and_tag(&aead->is.gcm, MBEDTLS_GCM_ENCRYPT, length, nonce, AEAD_NONCE_SIZE, additional,
                                         additional_length, plain, out, AEAD_TAG_SIZE, out + length) == 0;
    return mbedtls_chachapoly_encrypt_and_tag(&aead->is.chachapoly, length, nonce, additional, additional_length, plain,
                                              out, out + length) == 0;
}

static bool mbedtls_backend_open(struct aead *aead, const uint8_t *nonce, const uint8_t *additional,
                                 size_t additional_length, const uint8_t *sealed, size_t length, uint8_t *out)
{
    const uint8_t *tag = sealed + length;
    if (aead->is_gcm)
        return mbedtls_gcm_auth_decrypt(&aead->is.gcm, length, nonce, AEAD_NONCE_SIZE, additional, additional_length,
                                        tag, AEAD_TAG_SIZE, sealed, out) == 0;
    return mbedtls_chachapoly_auth_decrypt(&aead->is.chachapoly, length, nonce, additional, additional_length, tag,
                                           sealed, out) == 0;
}

const struct aead_backend aead_mbedtls = {
    .name = "mbedtls",
    .create = mbedtls_backend_create,
    .destroy = mbedtls_backend_destroy,
    .seal = mbedtls_backend_seal,
    .open = mbedtls_backend_open,
};
