// The keys that a handshake leaves behind, as the record layer takes them. RFC 8446, 7.3; RFC 5246, 6.3.

#include <string.h>

#include <mbedtls/platform_util.h>
#include <mbedtls/ssl_ciphersuites.h>

#include "handshake_internal.h"

// In the order in which a client offers them.
static const struct tls_suite suites[TLS_SUITE_COUNT] = {
    {MBEDTLS_TLS1_3_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", AEAD_AES_128_GCM, TLS_SHA256},
    {MBEDTLS_TLS1_3_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", AEAD_AES_256_GCM, TLS_SHA384},
    {MBEDTLS_TLS1_3_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256", AEAD_CHACHA20_POLY1305, TLS_SHA256},
    {MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", AEAD_AES_128_GCM,
     TLS_SHA256},
    {MBEDTLS_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", AEAD_AES_128_GCM,
     TLS_SHA256},
    {MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", AEAD_AES_256_GCM,
     TLS_SHA384},
    {MBEDTLS_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", AEAD_AES_256_GCM,
     TLS_SHA384},
    {MBEDTLS_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
     AEAD_CHACHA20_POLY1305, TLS_SHA256},
    {MBEDTLS_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
     AEAD_CHACHA20_POLY1305, TLS_SHA256},
};

const struct tls_suite *tls_suite_find(int id)
{
    for (size_t i = 0; i < ARRAY_LENGTH(suites); i++)
        if (suites[i].id == id)
            return &suites[i];
    return NULL;
}

void tls_suites_list(int ids[TLS_SUITE_COUNT + 1])
{
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(suites); i++)
        if (aead_is_available(suites[i].algorithm))
            ids[count++] = suites[i].id;
    ids[count] = 0;
}

void tls_export_keys(void *argument, mbedtls_ssl_key_export_type type, const unsigned char *secret, size_t length,
                     const unsigned char client_random[32], const unsigned char server_random[32],
                     mbedtls_tls_prf_types prf)
{
    struct tls_secrets *secrets = argument;
    if (length > TLS_SECRET_MAX)
        return;
    if (type == MBEDTLS_SSL_KEY_EXPORT_TLS1_3_CLIENT_APPLICATION_TRAFFIC_SECRET) {
        memcpy(secrets->client, secret, length);
        secrets->length = length;
        secrets->has_client = true;
    } else if (type == MBEDTLS_SSL_KEY_EXPORT_TLS1_3_SERVER_APPLICATION_TRAFFIC_SECRET) {
        memcpy(secrets->server, secret, length);
        secrets->length = length;
        secrets->has_server = true;
    } else if (type == MBEDTLS_SSL_KEY_EXPORT_TLS12_MASTER_SECRET && length == sizeof secrets->master) {
        memcpy(secrets->master, secret, length);
        memcpy(secrets->randoms, server_random, 32);
        memcpy(secrets->randoms + 32, client_random, 32);
        secrets->prf = prf;
        secrets->has_master = true;
    }
}

// The key block has no MAC keys, the suites being AEADs: both keys, then both IVs, the client's first.
static bool derive_1_2(const struct tls_secrets *secrets, const struct tls_suite *suite, struct tls_keys *client,
                       struct tls_keys *server)
{
    uint8_t block[2 * (AEAD_KEY_MAX + AEAD_NONCE_SIZE)];
    size_t key = aead_key_size(suite->algorithm);
    size_t iv = suite->algorithm == AEAD_CHACHA20_POLY1305 ? AEAD_NONCE_SIZE : 4;
    int status = mbedtls_ssl_tls_prf(secrets->prf, secrets->master, sizeof secrets->master, "key expansion",
                                     secrets->randoms, sizeof secrets->randoms, block, 2 * (key + iv));
    if (status == 0) {
        memcpy(client->key, block, key);
        memcpy(server->key, block + key, key);
        memcpy(client->iv, block + 2 * key, iv);
        memcpy(server->iv, block + 2 * key + iv, iv);
        client->sequence = 1; // Finished was each side's first protected record
        server->sequence = 1;
    }
    mbedtls_platform_zeroize(block, sizeof block);
    return status == 0;
}

bool tls_secrets_derive(const struct tls_secrets *secrets, const struct tls_suite *suite, struct tls_keys *client,
                        struct tls_keys *server)
{
    bool is_1_3 = secrets->has_client && secrets->has_server;
    *client =
        (struct tls_keys){.version = is_1_3 ? TLS_1_3 : TLS_1_2, .algorithm = suite->algorithm, .hash = suite->hash};
    *server = *client;
    if (!is_1_3)
        return secrets->has_master && derive_1_2(secrets, suite, client, server);
    if (secrets->length != (suite->hash == TLS_SHA384 ? 48U : 32U))
        return false;
    memcpy(client->secret, secrets->client, secrets->length);
    memcpy(server->secret, secrets->server, secrets->length);
    return true; // no record yet, as no tickets are sent
}
