// The AEADs of TLS, by libcrypto: seal and open with an explicit nonce. One `struct aead` holds one key and belongs to
// one thread at a time. RFC 5116; AES-GCM (NIST SP 800-38D), ChaCha20-Poly1305 (RFC 8439).

#ifndef BITFLOW_TLS_AEAD_H
#define BITFLOW_TLS_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"

#define AEAD_KEY_MAX 32
#define AEAD_NONCE_SIZE 12
#define AEAD_TAG_SIZE 16

enum aead_algorithm { AEAD_AES_128_GCM, AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305 };
#define AEAD_ALGORITHM_COUNT 3

size_t aead_key_size(enum aead_algorithm algorithm); // bytes

// "AES-128-GCM", ...
const char *aead_name(enum aead_algorithm algorithm);

// Starts libcrypto, before anyone else uses it (libcurl may be built on it, too): its configuration is read, its
// ciphers are looked up, and each is used once, so that nothing of this is left for a connection to do, which might
// fail at it. By tls_init(). False: ERROR_NO_MEMORY, ERROR_SYSTEM (its configuration cannot be used, or leaves no
// cipher). May be called again.
bool aead_prepare(struct error *error);

// Whether the library has it: a policy in its configuration may leave some out. After aead_prepare(); any thread.
bool aead_is_available(enum aead_algorithm algorithm);

struct aead;

// The key is copied. NULL: ERROR_NO_MEMORY, ERROR_SYSTEM.
struct aead *aead_create(enum aead_algorithm algorithm, const uint8_t *key, struct error *error);

// Wipes the key. Accepts NULL.
void aead_destroy(struct aead **aead);

// Writes `length` bytes of ciphertext and the tag to `out` (length + AEAD_TAG_SIZE), which may be `plain` itself.
// False: the library failed; nothing of `out` may be sent.
bool aead_seal(struct aead *aead, const uint8_t nonce[AEAD_NONCE_SIZE], const uint8_t *additional,
               size_t additional_length, const uint8_t *plain, size_t length, uint8_t *out);

// The same for a plaintext of length + 1 bytes, whose last one is `last`, and which need not stand in one place for
// that: TLS 1.3 puts the content type there. Writes length + 1 + AEAD_TAG_SIZE bytes.
bool aead_seal_ending(struct aead *aead, const uint8_t nonce[AEAD_NONCE_SIZE], const uint8_t *additional,
                      size_t additional_length, const uint8_t *plain, size_t length, uint8_t last, uint8_t *out);

// `sealed` is ciphertext and tag, `length` bytes of both. Writes length - AEAD_TAG_SIZE bytes to `out`, which may be
// `sealed` itself. False: it does not verify; `out` is worthless then.
bool aead_open(struct aead *aead, const uint8_t nonce[AEAD_NONCE_SIZE], const uint8_t *additional,
               size_t additional_length, const uint8_t *sealed, size_t length, uint8_t *out);

#endif
