// What a library has to give for aead.h. The program uses the one that the build has chosen; the unit tests hold one
// against the other.

#ifndef BITFLOW_SRC_TLS_AEAD_BACKEND_H
#define BITFLOW_SRC_TLS_AEAD_BACKEND_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/tls/aead.h"

// Far above a TLS record; libcrypto counts in int.
#define AEAD_LENGTH_MAX ((size_t)INT_MAX / 2)

// Each backend has its own idea of what is in a `struct aead`.
struct aead_backend {
    const char *name;
    bool (*prepare)(struct error *error);                // NULL: nothing is to be prepared
    bool (*is_available)(enum aead_algorithm algorithm); // NULL: all are
    struct aead *(*create)(enum aead_algorithm algorithm, const uint8_t *key, struct error *error);
    void (*destroy)(struct aead *aead);
    // `last`, if not NULL, is one more byte of plaintext.
    bool (*seal)(struct aead *aead, const uint8_t *nonce, const uint8_t *additional, size_t additional_length,
                 const uint8_t *plain, size_t length, const uint8_t *last, uint8_t *out);
    // `length` is without the tag, which follows the ciphertext.
    bool (*open)(struct aead *aead, const uint8_t *nonce, const uint8_t *additional, size_t additional_length,
                 const uint8_t *sealed, size_t length, uint8_t *out);
};

extern const struct aead_backend aead_libcrypto;
extern const struct aead_backend aead_mbedtls;

#endif
