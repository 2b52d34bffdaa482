// A `struct aead` is an EVP_CIPHER_CTX that has had its key; a record sets the nonce only, and nothing is allocated.

#include "aead_backend.h"

#include <pthread.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

// Looking a cipher up by name takes longer than sealing a record: once for the process, kept until its end.
static pthread_once_t once = PTHREAD_ONCE_INIT;
static EVP_CIPHER *ciphers[3];

// At the process's end other threads may still be at work with it, or about to give back what is theirs of it: then it
// must not clean up under their feet. It takes this only from whoever is the first to use it.
static void libcrypto_prepare(void)
{
    (void)OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
}

static void fetch_ciphers(void)
{
    libcrypto_prepare();
    ciphers[AEAD_AES_128_GCM] = EVP_CIPHER_fetch(NULL, "AES-128-GCM", NULL);
    ciphers[AEAD_AES_256_GCM] = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    ciphers[AEAD_CHACHA20_POLY1305] = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
}

static EVP_CIPHER_CTX *context_of(struct aead *aead)
{
    return (EVP_CIPHER_CTX *)aead;
}

static struct aead *libcrypto_create(enum aead_algorithm algorithm, const uint8_t *key, struct error *error)
{
    if (pthread_once(&once, fetch_ciphers) != 0 || ciphers[algorithm] == NULL) {
        error_set(error, ERROR_SYSTEM, "libcrypto has no such cipher (is its configuration limiting it?)");
        return NULL;
    }
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context == NULL) {
        error_set(error, ERROR_NO_MEMORY, "no memory for a cipher's key");
        return NULL;
    }
    if (EVP_CipherInit_ex2(context, ciphers[algorithm], key, NULL, 1, NULL) != 1) {
        error_set(error, ERROR_SYSTEM, "libcrypto does not take a cipher's key");
        EVP_CIPHER_CTX_free(context);
        return NULL;
    }
    return (struct aead *)context;
}

// libcrypto wipes what it frees here.
static void libcrypto_destroy(struct aead *aead)
{
    EVP_CIPHER_CTX_free(context_of(aead));
}

static bool begin(EVP_CIPHER_CTX *context, bool is_sealing, const uint8_t *nonce, const uint8_t *additional,
                  size_t additional_length)
{
    int written;
    return EVP_CipherInit_ex2(context, NULL, NULL, nonce, is_sealing, NULL) == 1 &&
           (additional_length == 0 ||
            EVP_CipherUpdate(context, NULL, &written, additional, (int)additional_length) == 1);
}

static bool update(EVP_CIPHER_CTX *context, const uint8_t *in, size_t length, uint8_t *out)
{
    int written;
    return length == 0 || (EVP_CipherUpdate(context, out, &written, in, (int)length) == 1 && (size_t)written == length);
}

static bool libcrypto_seal(struct aead *aead, const uint8_t *nonce, const uint8_t *additional, size_t additional_length,
                           const uint8_t *plain, size_t length, const uint8_t *last, uint8_t *out)
{
    EVP_CIPHER_CTX *context = context_of(aead);
    if (!begin(context, true, nonce, additional, additional_length) || !update(context, plain, length, out))
        return false;
    if (last != NULL && !update(context, last, 1, out + length++))
        return false;
    int written;
    return EVP_CipherFinal_ex(context, out + length, &written) == 1 && written == 0 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_SIZE, out + length) == 1;
}

static bool libcrypto_open(struct aead *aead, const uint8_t *nonce, const uint8_t *additional, size_t additional_length,
                           const uint8_t *sealed, size_t length, uint8_t *out)
{
    EVP_CIPHER_CTX *context = context_of(aead);
    uint8_t tag[AEAD_TAG_SIZE];
    memcpy(tag, sealed + length, sizeof tag);
    int written;
    uint8_t none[1]; // where Final could write, but these are stream ciphers
    bool is_good = begin(context, false, nonce, additional, additional_length) &&
                   EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_SIZE, tag) == 1 &&
                   update(context, sealed, length, out) && EVP_CipherFinal_ex(context, none, &written) == 1;
    // Nobody is to get at what a forged record decrypts to.
    if (!is_good)
        memset(out, 0, length);
    return is_good;
}

const struct aead_backend aead_libcrypto = {
    .name = "libcrypto",
    .prepare = libcrypto_prepare,
    .create = libcrypto_create,
    .destroy = libcrypto_destroy,
    .seal = libcrypto_seal,
    .open = libcrypto_open,
};
