#include "ssl_config.h"

#include <string.h>

#include <mbedtls/psa_util.h>

#include "bitflow/base/compiler.h"
#include "bitflow/tls/tls_session.h"
#include "context_internal.h"

// In the order in which a client offers them.
static const struct tls_suite suites[TLS_SUITE_COUNT] = {
    {0x1301, AEAD_AES_128_GCM, TLS_SHA256, "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"},
    {0x1302, AEAD_AES_256_GCM, TLS_SHA384, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"},
    {0x1303, AEAD_CHACHA20_POLY1305, TLS_SHA256, "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"},
    {0xc02b, AEAD_AES_128_GCM, TLS_SHA256, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"},
    {0xc02f, AEAD_AES_128_GCM, TLS_SHA256, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"},
    {0xc02c, AEAD_AES_256_GCM, TLS_SHA384, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"},
    {0xc030, AEAD_AES_256_GCM, TLS_SHA384, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"},
    {0xcca9, AEAD_CHACHA20_POLY1305, TLS_SHA256, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
     "ECDHE-ECDSA-CHACHA20-POLY1305"},
    {0xcca8, AEAD_CHACHA20_POLY1305, TLS_SHA256, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
     "ECDHE-RSA-CHACHA20-POLY1305"},
};

const struct tls_suite *tls_suite_find(int id)
{
    for (size_t i = 0; i < ARRAY_LENGTH(suites); i++)
        if (suites[i].id == id)
            return &suites[i];
    return NULL;
}

enum tls_hash tls_suite_hash(enum aead_algorithm algorithm)
{
    size_t i = 0;
    while (suites[i].algorithm != algorithm)
        i++;
    return suites[i].hash;
}

const char *tls_openssl_cipher(const char *cipher)
{
    for (size_t i = 0; i < ARRAY_LENGTH(suites); i++)
        if (strcmp(suites[i].name, cipher) == 0)
            return suites[i].openssl_name;
    return cipher;
}

// Those whose cipher there is, as mbedTLS takes them: 0 at the end.
static void list_suites(int ids[TLS_SUITE_COUNT + 1])
{
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(suites); i++)
        if (aead_is_available(suites[i].algorithm))
            ids[count++] = suites[i].id;
    ids[count] = 0;
}

// mbedTLS's own list has ffdhe8192, a key share of which takes a second of processor time.
static const uint16_t groups[] = {
    MBEDTLS_SSL_IANA_TLS_GROUP_X25519, // the first, since it may have to be left out
    MBEDTLS_SSL_IANA_TLS_GROUP_SECP256R1, MBEDTLS_SSL_IANA_TLS_GROUP_SECP384R1,
    MBEDTLS_SSL_IANA_TLS_GROUP_SECP521R1, // in 1.2 a certificate with such a key needs it, too
    MBEDTLS_SSL_IANA_TLS_GROUP_NONE,
};

// PKCS #1 v1.5 is for TLS 1.2 and for the signatures of certificates. It comes before PSS, which mbedTLS does not sign
// with in 1.2, and verifies there only by key_exchange.c.
static const uint16_t signatures[] = {
    MBEDTLS_TLS1_3_SIG_ECDSA_SECP256R1_SHA256, MBEDTLS_TLS1_3_SIG_ECDSA_SECP384R1_SHA384,
    MBEDTLS_TLS1_3_SIG_ECDSA_SECP521R1_SHA512, MBEDTLS_TLS1_3_SIG_RSA_PKCS1_SHA256,
    MBEDTLS_TLS1_3_SIG_RSA_PKCS1_SHA384,       MBEDTLS_TLS1_3_SIG_RSA_PKCS1_SHA512,
    MBEDTLS_TLS1_3_SIG_RSA_PSS_RSAE_SHA256,    MBEDTLS_TLS1_3_SIG_RSA_PSS_RSAE_SHA384,
    MBEDTLS_TLS1_3_SIG_RSA_PSS_RSAE_SHA512,    MBEDTLS_TLS1_3_SIG_NONE,
};

// The bytes of a CertificateRequest (RFC 5246 7.4.4) but for the names themselves.
static size_t certificate_request_size(void)
{
    size_t size = 4       // header
                  + 1 + 2 // kinds of certificates: RSA and ECDSA
                  + 2     // length of the signature algorithms
                  + 2;    // length of the names
    // mbedTLS can verify these there: PKCS #1 v1.5 and ECDSA, with SHA-256 and SHA-384.
    for (size_t i = 0; signatures[i] != MBEDTLS_TLS1_3_SIG_NONE; i++) {
        unsigned hash = signatures[i] >> 8;
        if (hash == MBEDTLS_SSL_HASH_SHA256 || hash == MBEDTLS_SSL_HASH_SHA384)
            size += sizeof signatures[i];
    }
    return size;
}

bool tls_ca_list_fits(const mbedtls_x509_crt *authorities)
{
    size_t size = certificate_request_size();
    for (; authorities != NULL && authorities->version != 0 && size <= MBEDTLS_SSL_OUT_CONTENT_LEN;
         authorities = authorities->next)
        size += 2 + authorities->subject_raw.len;
    return size <= MBEDTLS_SSL_OUT_CONTENT_LEN;
}

static int authentication_mode(const struct tls_context *context)
{
    if (context->verify_mode == VERIFY_NONE)
        return MBEDTLS_SSL_VERIFY_NONE;
    // Relaxed clients: the handshake goes on whatever was sent, and is judged at its end.
    if (context->role == TLS_SERVER && context->verify_mode == VERIFY_RELAXED)
        return MBEDTLS_SSL_VERIFY_OPTIONAL;
    return MBEDTLS_SSL_VERIFY_REQUIRED;
}

bool tls_ssl_configure(struct tls_context *context, enum tls_minimum minimum, struct error *error)
{
    mbedtls_ssl_config *config = &context->config;
    bool is_server = context->role == TLS_SERVER;
    int status = mbedtls_ssl_config_defaults(config, is_server ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT,
                                             MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT);
    mbedtls_ssl_conf_rng(config, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE);
    mbedtls_ssl_conf_min_tls_version(config, minimum == TLS_MINIMUM_1_3 ? MBEDTLS_SSL_VERSION_TLS1_3
                                                                        : MBEDTLS_SSL_VERSION_TLS1_2);
    mbedtls_ssl_conf_max_tls_version(config, MBEDTLS_SSL_VERSION_TLS1_3);
    list_suites(context->suites);
    mbedtls_ssl_conf_ciphersuites(config, context->suites);
    // As in 1.3, where mbedTLS does so of itself: a client without AES instructions is better off with ChaCha20.
    mbedtls_ssl_conf_preference_order(config, MBEDTLS_SSL_SRV_CIPHERSUITE_ORDER_CLIENT);
    mbedtls_ssl_conf_groups(config, arithmetic_has_x25519() ? groups : groups + 1);
    mbedtls_ssl_conf_sig_algs(config, signatures);
    mbedtls_ssl_conf_authmode(config, authentication_mode(context));
    mbedtls_ssl_conf_renegotiation(config, MBEDTLS_SSL_RENEGOTIATION_DISABLED);
    // A ticket got where no certificate is asked for would resume where one is required; and the record layer counts on
    // none being sent at the handshake's end.
    mbedtls_ssl_conf_session_tickets(config, MBEDTLS_SSL_SESSION_TICKETS_DISABLED);
    mbedtls_ssl_conf_tls13_key_exchange_modes(config, MBEDTLS_SSL_TLS1_3_KEY_EXCHANGE_MODE_EPHEMERAL);
    if (context->trust != NULL) // their names: see peer_certificates.h
        mbedtls_ssl_conf_ca_chain(config, context->trust->names, NULL);
    if (is_server) {
        mbedtls_ssl_conf_new_session_tickets(config, 0);
        mbedtls_ssl_conf_cert_cb(config, tls_certificate_callback);
    }
    for (size_t i = 0; !is_server && i < context->entry_count; i++) {
        struct tls_entry *entry = &context->entries[i];
        if (status != 0 || entry->certificate_path == NULL)
            continue;
        status = mbedtls_ssl_conf_own_cert(config, &entry->chain, &entry->key);
        break; // mbedTLS would send the first one only
    }
    if (status == 0 && context->protocols != NULL)
        status = mbedtls_ssl_conf_alpn_protocols(config, (const char **)context->protocols);
    if (status != 0)
        error_set(error, ERROR_NO_MEMORY, "out of memory for a TLS context");
    return status == 0;
}
