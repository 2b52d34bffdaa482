// One direction's key as both halves of the record layer use it: AEAD, IV, sequence number, and in TLS 1.3 the secret
// that they come from and the next ones will. Belongs to the half that it is in.

#ifndef BITFLOW_SRC_TLS_RECORD_KEY_H
#define BITFLOW_SRC_TLS_RECORD_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/tls/tls_record.h"

// RFC 8446 5.1, RFC 5246 6.2.1
enum tls_content { TLS_CHANGE_CIPHER_SPEC = 20, TLS_ALERT = 21, TLS_HANDSHAKE = 22, TLS_APPLICATION_DATA = 23 };

// A handshake message: type, length in three bytes, body. RFC 8446 4, RFC 5246 7.4
enum tls_handshake_type {
    TLS_HELLO_REQUEST = 0,
    TLS_CLIENT_HELLO = 1,
    TLS_NEW_SESSION_TICKET = 4,
    TLS_HANDSHAKE_KEY_UPDATE = 24
};
#define TLS_HANDSHAKE_HEADER_SIZE 4

// Both protocols write this as the version of a record.
#define TLS_RECORD_VERSION 0x0303

#define TLS_EXPLICIT_NONCE_SIZE 8 // 1.2 with GCM
#define TLS_ADDITIONAL_MAX 13

struct record_key {
    enum tls_version version;
    enum aead_algorithm algorithm;
    enum tls_hash hash;
    struct aead *aead;
    uint64_t sequence; // of the next record; UINT64_MAX: used up
    uint8_t iv[AEAD_NONCE_SIZE];
    uint8_t secret[TLS_SECRET_MAX]; // 1.3
};

bool record_key_init(struct record_key *key, const struct tls_keys *keys, struct error *error);
void record_key_release(struct record_key *key);

// TLS 1.3: to the next generation (RFC 8446 7.2), sequence 0.
bool record_key_update(struct record_key *key, struct error *error);

// TLS_EXPLICIT_NONCE_SIZE or 0.
size_t record_key_explicit_nonce(const struct record_key *key);

// One record more has been protected, or opened, by this key.
void record_key_advance(struct record_key *key);

// The nonce of the record whose turn it is. `explicit_nonce`: as in the record, where it has one.
void record_key_nonce(const struct record_key *key, const uint8_t *explicit_nonce, uint8_t nonce[AEAD_NONCE_SIZE]);

// What is authenticated besides the plaintext; returns its length. `header` is the record's, `plain_length` is for 1.2.
size_t record_key_additional(const struct record_key *key, const uint8_t header[TLS_HEADER_SIZE], size_t plain_length,
                             uint8_t additional[TLS_ADDITIONAL_MAX]);

void record_header_write(uint8_t header[TLS_HEADER_SIZE], enum tls_content content, size_t length);

#endif
