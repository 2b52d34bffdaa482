#include "bitflow/tls/aead.h"

#include "aead_backend.h"

// The build says which (cmake/Aead.cmake): a program has one, and calls it without a look at a table of several.
#if BITFLOW_AEAD_LIBCRYPTO
static const struct aead_backend *const backend = &aead_libcrypto;
#else
static const struct aead_backend *const backend = &aead_mbedtls;
#endif

size_t aead_key_size(enum aead_algorithm algorithm)
{
    return algorithm == AEAD_AES_128_GCM ? 16 : 32;
}

const char *aead_name(enum aead_algorithm algorithm)
{
    static const char *const names[AEAD_ALGORITHM_COUNT] = {[AEAD_AES_128_GCM] = "AES-128-GCM",
                                                            [AEAD_AES_256_GCM] = "AES-256-GCM",
                                                            [AEAD_CHACHA20_POLY1305] = "ChaCha20-Poly1305"};
    return names[algorithm];
}

const char *aead_provider(void)
{
    return backend->name;
}

bool aead_prepare(struct error *error)
{
    return backend->prepare == NULL || backend->prepare(error);
}

bool aead_is_available(enum aead_algorithm algorithm)
{
    return backend->is_available == NULL || backend->is_available(algorithm);
}

struct aead *aead_create(enum aead_algorithm algorithm, const uint8_t *key, struct error *error)
{
    return backend->create(algorithm, key, error);
}

void aead_destroy(struct aead **aead)
{
    if (*aead != NULL)
        backend->destroy(*aead);
    *aead = NULL;
}

bool aead_seal(struct aead *aead, const uint8_t nonce[AEAD_NONCE_SIZE], const uint8_t *additional,
               size_t additional_length, const uint8_t *plain, size_t length, uint8_t *out)
{
    if (additional_length > AEAD_LENGTH_MAX || length > AEAD_LENGTH_MAX)
        return false;
    return backend->seal(aead, nonce, additional, additional_length, plain, length, NULL, out);
}

bool aead_seal_ending(struct aead *aead, const uint8_t nonce[AEAD_NONCE_SIZE], const uint8_t *additional,
                      size_t additional_length, const uint8_t *plain, size_t length, uint8_t last, uint8_t *out)
{
    if (additional_length > AEAD_LENGTH_MAX || length > AEAD_LENGTH_MAX)
        return false;
    return backend->seal(aead, nonce, additional, additional_length, plain, length, &last, out);
}

bool aead_open(struct aead *aead, const uint8_t nonce[AEAD_NONCE_SIZE], const uint8_t *additional,
               size_t additional_length, const uint8_t *sealed, size_t length, uint8_t *out)
{
    if (additional_length > AEAD_LENGTH_MAX || length > AEAD_LENGTH_MAX || length < AEAD_TAG_SIZE)
        return false;
    return backend->open(aead, nonce, additional, additional_length, sealed, length - AEAD_TAG_SIZE, out);
}
