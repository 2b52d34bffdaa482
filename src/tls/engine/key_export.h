// The keys that a handshake makes: what mbedTLS exports of them, and what they become for the record layer. RFC 8446,
// 7.1 and 7.3; RFC 5246, 6.3. One handshake's; its thread only. Wiped by whoever has the struct.

#ifndef BITFLOW_SRC_TLS_ENGINE_KEY_EXPORT_H
#define BITFLOW_SRC_TLS_ENGINE_KEY_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mbedtls/ssl.h>

#include "bitflow/tls/tls_context.h"
#include "bitflow/tls/tls_record.h"

// TLS 1.3's, of one stage.
struct traffic_secrets {
    uint8_t client[TLS_SECRET_MAX];
    uint8_t server[TLS_SECRET_MAX];
    size_t length; // of each
    bool has_client;
    bool has_server;
};

// All zeros at the beginning.
struct key_export {
    struct traffic_secrets handshake;   // 1.3
    struct traffic_secrets application; // 1.3
    uint8_t master[48];                 // 1.2
    uint8_t randoms[64];                // the server's, then the client's, as the key expansion wants them
    mbedtls_tls_prf_types prf;
    bool has_master;
};

// mbedTLS's callback; the argument is a struct key_export.
void key_export_callback(void *argument, mbedtls_ssl_key_export_type type, const unsigned char *secret, size_t length,
                         const unsigned char client_random[32], const unsigned char server_random[32],
                         mbedtls_tls_prf_types prf);

// The keys of both directions for what comes after the handshake. False: they were not exported, or have not the
// suite's length.
bool key_export_derive(const struct key_export *keys, enum aead_algorithm algorithm, enum tls_hash hash,
                       struct tls_keys *client, struct tls_keys *server);

// TLS 1.3: the same for the handshake's own messages, from their beginning. False, too, in TLS 1.2.
bool key_export_derive_handshake(const struct key_export *keys, enum aead_algorithm algorithm, enum tls_hash hash,
                                 struct tls_keys *client, struct tls_keys *server);

// The alert in the record that was received last, encrypted under the handshake's keys: mbedTLS has read it, and has no
// function that tells. `peer`: whose it is; `encrypted`: how many encrypted records of TLS 1.3 have come, this one
// included. False: it is not to be told.
bool key_export_open_alert(const struct key_export *keys, enum tls_role peer, uint64_t encrypted, const uint8_t *record,
                           size_t length, unsigned *alert);

// The same alert as a record under the application's key, the server's first one. Returns its size, at most
// TLS_ALERT_RECORD_MAX bytes; 0: it is not to be made.
size_t key_export_seal_alert(const struct key_export *keys, enum aead_algorithm algorithm, enum tls_hash hash,
                             unsigned alert, uint8_t out[TLS_ALERT_RECORD_MAX]);

#endif
