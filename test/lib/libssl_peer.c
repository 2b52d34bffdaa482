#include "libssl_peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/x509.h>

#include "hex.h"

// What the key log tells: for 1.3 one secret for each direction, for 1.2 the master secret.
static struct {
    uint8_t client[TLS_SECRET_MAX];
    uint8_t server[TLS_SECRET_MAX];
    uint8_t master[TLS_SECRET_MAX];
} secrets;

static void log_key(const SSL *ssl, const char *line)
{
    (void)ssl;
    const struct {
        const char *label;
        uint8_t *secret;
    } wanted[] = {{"CLIENT_TRAFFIC_SECRET_0 ", secrets.client},
                  {"SERVER_TRAFFIC_SECRET_0 ", secrets.server},
                  {"CLIENT_RANDOM ", secrets.master}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        if (strncmp(line, wanted[i].label, strlen(wanted[i].label)) == 0)
            from_hex(strrchr(line, ' ') + 1, wanted[i].secret, TLS_SECRET_MAX);
    }
}

// One key for the whole test; its certificate is nobody's business.
static void use_certificate(SSL_CTX *context)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    assert_true(key != NULL && certificate != NULL);
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    assert_int_equal(X509_set_pubkey(certificate, key), 1);
    assert_true(X509_sign(certificate, key, EVP_sha256()) > 0);
    assert_int_equal(SSL_CTX_use_certificate(context, certificate), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(context, key), 1);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static SSL *new_end(const struct libssl_suite *suite, bool is_client, bool sends_tickets)
{
    SSL_CTX *context = SSL_CTX_new(is_client ? TLS_client_method() : TLS_server_method());
    assert_non_null(context);
    int version = suite->version == TLS_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION;
    assert_int_equal(SSL_CTX_set_min_proto_version(context, version), 1);
    assert_int_equal(SSL_CTX_set_max_proto_version(context, version), 1);
    if (suite->version == TLS_1_3)
        assert_int_equal(SSL_CTX_set_ciphersuites(context, suite->name), 1);
    else
        assert_int_equal(SSL_CTX_set_cipher_list(context, suite->name), 1);
    // Tickets would move the sequence number.
    assert_int_equal(SSL_CTX_set_num_tickets(context, sends_tickets ? 2 : 0), 1);
    SSL_CTX_set_keylog_callback(context, log_key);
    if (!is_client)
        use_certificate(context);
    SSL *ssl = SSL_new(context);
    assert_non_null(ssl);
    SSL_CTX_free(context);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (is_client)
        SSL_set_connect_state(ssl);
    else
        SSL_set_accept_state(ssl);
    return ssl;
}

static void move(BIO *from, BIO *to)
{
    uint8_t bytes[4096];
    int length;
    while ((length = BIO_read(from, bytes, sizeof bytes)) > 0)
        assert_int_equal(BIO_write(to, bytes, length), length);
}

static void shake_hands(SSL *mine, SSL *its)
{
    for (int i = 0; i < 10 && !(SSL_is_init_finished(mine) && SSL_is_init_finished(its)); i++) {
        (void)SSL_do_handshake(mine);
        move(SSL_get_wbio(mine), SSL_get_rbio(its));
        (void)SSL_do_handshake(its);
        // What comes when my handshake is done, tickets, is for our receiver.
        if (!SSL_is_init_finished(mine))
            move(SSL_get_wbio(its), SSL_get_rbio(mine));
    }
    assert_true(SSL_is_init_finished(mine) && SSL_is_init_finished(its));
}

// RFC 5246 6.3; an AEAD has no MAC keys.
static void expand_tls_12(const SSL *ssl, const struct libssl_suite *suite, struct tls_keys *client,
                          struct tls_keys *server)
{
    uint8_t seed[13 + 32 + 32] = "key expansion";
    uint8_t block[2 * (AEAD_KEY_MAX + AEAD_NONCE_SIZE)];
    size_t key = aead_key_size(suite->algorithm);
    size_t iv = suite->algorithm == AEAD_CHACHA20_POLY1305 ? 12 : 4;
    assert_int_equal(SSL_get_server_random(ssl, seed + 13, 32), 32);
    assert_int_equal(SSL_get_client_random(ssl, seed + 45, 32), 32);
    char digest[] = "SHA256";
    if (suite->hash == TLS_SHA384)
        memcpy(digest, "SHA384", sizeof digest);
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, secrets.master, sizeof secrets.master),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, seed, sizeof seed),
        OSSL_PARAM_construct_end(),
    };
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
    EVP_KDF_CTX *context = EVP_KDF_CTX_new(kdf);
    assert_int_equal(EVP_KDF_derive(context, block, 2 * (key + iv), parameters), 1);
    EVP_KDF_CTX_free(context);
    EVP_KDF_free(kdf);
    memcpy(client->key, block, key);
    memcpy(server->key, block + key, key);
    memcpy(client->iv, block + 2 * key, iv);
    memcpy(server->iv, block + 2 * key + iv, iv);
    // The Finished was number 0.
    client->sequence = server->sequence = 1;
}

void libssl_peer_open(struct libssl_peer *peer, const struct libssl_suite *suite, bool is_client)
{
    memset(&secrets, 0, sizeof secrets);
    SSL *mine = new_end(suite, is_client, false);
    peer->ssl = new_end(suite, !is_client, true);
    peer->to_it = SSL_get_rbio(peer->ssl);
    peer->from_it = SSL_get_wbio(peer->ssl);
    shake_hands(mine, peer->ssl);
    assert_string_equal(SSL_get_cipher_name(mine), suite->name);

    struct tls_keys client = {.version = suite->version, .algorithm = suite->algorithm, .hash = suite->hash};
    struct tls_keys server = client;
    memcpy(client.secret, secrets.client, sizeof client.secret);
    memcpy(server.secret, secrets.server, sizeof server.secret);
    if (suite->version == TLS_1_2)
        expand_tls_12(mine, suite, &client, &server);
    SSL_free(mine);
    peer->sender = tls_sender_create(is_client ? &client : &server, NULL);
    peer->receiver = tls_receiver_create(is_client ? &server : &client, is_client, NULL);
    assert_non_null(peer->sender);
    assert_non_null(peer->receiver);
}

void libssl_peer_close(struct libssl_peer *peer)
{
    SSL_free(peer->ssl);
    tls_sender_destroy(&peer->sender);
    tls_receiver_destroy(&peer->receiver);
}
