#include "key_export.h"

#include <string.h>

#include <mbedtls/platform_util.h>

#include "bitflow/wire/record_follower.h"
#include "hkdf.h"
#include "ssl_config.h"

static void keep(uint8_t to[TLS_SECRET_MAX], bool *has, struct traffic_secrets *stage, const unsigned char *secret,
                 size_t length)
{
    memcpy(to, secret, length);
    stage->length = length;
    *has = true;
}

void key_export_callback(void *argument, mbedtls_ssl_key_export_type type, const unsigned char *secret, size_t length,
                         const unsigned char client_random[32], const unsigned char server_random[32],
                         mbedtls_tls_prf_types prf)
{
    struct key_export *keys = argument;
    struct traffic_secrets *handshake = &keys->handshake;
    struct traffic_secrets *application = &keys->application;
    if (length > TLS_SECRET_MAX)
        return;
    if (type == MBEDTLS_SSL_KEY_EXPORT_TLS1_3_CLIENT_HANDSHAKE_TRAFFIC_SECRET) {
        keep(handshake->client, &handshake->has_client, handshake, secret, length);
    } else if (type == MBEDTLS_SSL_KEY_EXPORT_TLS1_3_SERVER_HANDSHAKE_TRAFFIC_SECRET) {
        keep(handshake->server, &handshake->has_server, handshake, secret, length);
    } else if (type == MBEDTLS_SSL_KEY_EXPORT_TLS1_3_CLIENT_APPLICATION_TRAFFIC_SECRET) {
        keep(application->client, &application->has_client, application, secret, length);
    } else if (type == MBEDTLS_SSL_KEY_EXPORT_TLS1_3_SERVER_APPLICATION_TRAFFIC_SECRET) {
        keep(application->server, &application->has_server, application, secret, length);
    } else if (type == MBEDTLS_SSL_KEY_EXPORT_TLS12_MASTER_SECRET && length == sizeof keys->master) {
        memcpy(keys->master, secret, length);
        memcpy(keys->randoms, server_random, 32);
        memcpy(keys->randoms + 32, client_random, 32);
        keys->prf = prf;
        keys->has_master = true;
    }
}

// The key block has no MAC keys, the suites being AEADs: both keys, then both IVs, the client's first.
static bool derive_1_2(const struct key_export *keys, struct tls_keys *client, struct tls_keys *server)
{
    uint8_t block[2 * (AEAD_KEY_MAX + AEAD_NONCE_SIZE)];
    size_t key = aead_key_size(client->algorithm);
    size_t iv = client->algorithm == AEAD_CHACHA20_POLY1305 ? AEAD_NONCE_SIZE : 4;
    int status = mbedtls_ssl_tls_prf(keys->prf, keys->master, sizeof keys->master, "key expansion", keys->randoms,
                                     sizeof keys->randoms, block, 2 * (key + iv));
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

static bool derive(const struct key_export *keys, const struct traffic_secrets *stage, enum aead_algorithm algorithm,
                   enum tls_hash hash, struct tls_keys *client, struct tls_keys *server)
{
    bool is_1_3 = stage->has_client && stage->has_server;
    *client = (struct tls_keys){.version = is_1_3 ? TLS_1_3 : TLS_1_2, .algorithm = algorithm, .hash = hash};
    *server = *client;
    if (!is_1_3)
        return keys->has_master && derive_1_2(keys, client, server);
    if (stage->length != tls_hash_size(hash))
        return false;
    memcpy(client->secret, stage->client, stage->length);
    memcpy(server->secret, stage->server, stage->length);
    return true; // no record yet, as no tickets are sent
}

bool key_export_derive(const struct key_export *keys, enum aead_algorithm algorithm, enum tls_hash hash,
                       struct tls_keys *client, struct tls_keys *server)
{
    return derive(keys, &keys->application, algorithm, hash, client, server);
}

bool key_export_derive_handshake(const struct key_export *keys, enum aead_algorithm algorithm, enum tls_hash hash,
                                 struct tls_keys *client, struct tls_keys *server)
{
    return derive(keys, &keys->handshake, algorithm, hash, client, server) && client->version == TLS_1_3;
}

// Under which of the ciphers is not to be had from mbedTLS during the handshake: only the right one opens it.
static bool open_alert(const struct tls_keys *keys, const uint8_t *record, size_t length, unsigned *alert)
{
    uint8_t copy[RECORD_FOLLOWER_KEPT];
    struct tls_receiver *receiver = tls_receiver_create(keys, true, NULL);
    if (receiver == NULL)
        return false;
    memcpy(copy, record, length);
    struct tls_received got = tls_receiver_open(receiver, copy, length);
    tls_receiver_destroy(&receiver);
    if (got.event == TLS_PEER_ALERT)
        *alert = got.alert;
    else if (got.event == TLS_CLOSE_NOTIFY)
        *alert = TLS_ALERT_CLOSE_NOTIFY;
    else if (got.event == TLS_IGNORED) // all that the receiver passes over of a fatal alert
        *alert = TLS_ALERT_USER_CANCELED;
    else
        return false;
    return true;
}

bool key_export_open_alert(const struct key_export *keys, enum tls_role peer, uint64_t encrypted, const uint8_t *record,
                           size_t length, unsigned *alert)
{
    bool is_open = false;
    if (length > RECORD_FOLLOWER_KEPT)
        return false;
    for (int i = 0; i < AEAD_ALGORITHM_COUNT && !is_open; i++) {
        enum aead_algorithm algorithm = (enum aead_algorithm)i;
        struct tls_keys client;
        struct tls_keys server;
        bool is_derived = derive(keys, &keys->handshake, algorithm, tls_suite_hash(algorithm), &client, &server);
        struct tls_keys *its = peer == TLS_CLIENT ? &client : &server;
        its->sequence = encrypted > 0 ? encrypted - 1 : 0; // 1.2: it stands for Finished, the first record
        is_open = is_derived && open_alert(its, record, length, alert);
        mbedtls_platform_zeroize(&client, sizeof client);
        mbedtls_platform_zeroize(&server, sizeof server);
    }
    return is_open;
}

size_t key_export_seal_alert(const struct key_export *keys, enum aead_algorithm algorithm, enum tls_hash hash,
                             unsigned alert, uint8_t out[TLS_ALERT_RECORD_MAX])
{
    struct tls_keys client;
    struct tls_keys server;
    size_t length = 0;
    struct tls_sender *sender =
        key_export_derive(keys, algorithm, hash, &client, &server) ? tls_sender_create(&server, NULL) : NULL;
    if (sender != NULL)
        length = tls_sender_alert(sender, (enum tls_alert)alert, out, TLS_ALERT_RECORD_MAX);
    tls_sender_destroy(&sender);
    mbedtls_platform_zeroize(&client, sizeof client);
    mbedtls_platform_zeroize(&server, sizeof server);
    return length;
}
