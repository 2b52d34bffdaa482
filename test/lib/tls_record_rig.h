// Keys for tests of TLS records, and records of any content, by the same key schedule but not by the sender.

#ifndef BITFLOW_TEST_TLS_RECORD_RIG_H
#define BITFLOW_TEST_TLS_RECORD_RIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/tls/tls_record.h"
#include "tls/engine/hkdf.h"
#include "tls/record_key.h"

// One direction of each kind that there is.
static const struct {
    const char *name;
    struct tls_keys keys;
} tls_suites[] = {
    {"1.3 AES-128-GCM", {.version = TLS_1_3, .algorithm = AEAD_AES_128_GCM, .hash = TLS_SHA256, .secret = {1, 2}}},
    {"1.3 AES-256-GCM", {.version = TLS_1_3, .algorithm = AEAD_AES_256_GCM, .hash = TLS_SHA384, .secret = {3, 4}}},
    {"1.3 ChaCha20", {.version = TLS_1_3, .algorithm = AEAD_CHACHA20_POLY1305, .hash = TLS_SHA256, .secret = {5}}},
    {"1.2 AES-128-GCM", {.version = TLS_1_2, .algorithm = AEAD_AES_128_GCM, .sequence = 1, .key = {6}, .iv = {7}}},
    {"1.2 AES-256-GCM", {.version = TLS_1_2, .algorithm = AEAD_AES_256_GCM, .sequence = 1, .key = {8}, .iv = {9}}},
    {"1.2 ChaCha20", {.version = TLS_1_2, .algorithm = AEAD_CHACHA20_POLY1305, .sequence = 1, .key = {9}, .iv = {7}}},
};

#define TLS_SUITES (sizeof tls_suites / sizeof tls_suites[0])

// Returns the record's length; `length` may be more than TLS allows. `padding` is for 1.3.
size_t forge(struct record_key *key, unsigned content, const void *data, size_t length, size_t padding, uint8_t *out);

struct unforged {
    unsigned content;
    uint8_t *data; // inside the bytes
    size_t length;
    size_t consumed; // of the bytes
};

// Takes one record off the front, decrypting in place. False: there is no whole one. Aborts if it is none of the key's.
bool unforge(struct record_key *key, uint8_t *bytes, size_t length, struct unforged *out);

#endif
