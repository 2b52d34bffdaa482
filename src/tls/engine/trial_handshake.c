#include "trial_handshake.h"

#include <string.h>

#include "bitflow/base/compiler.h"
#include "context_internal.h"
#include "key_exchange.h"
#include "peer_certificates.h"
#include "verify.h"

// What a server of TLS 1.2 answers whatever it is asked, up to a signature that is none. It takes no arithmetic before
// that.

#define VERSION_1_2 0x03, 0x03
#define HANDSHAKE_RECORD(length) 0x16, VERSION_1_2, 0x00, length
#define HANDSHAKE_MESSAGE(kind, length) kind, 0x00, 0x00, length
#define ZEROS_8 0, 0, 0, 0, 0, 0, 0, 0

// The generator of P-256 (SEC 2, 2.4.2), uncompressed.
#define POINT                                                                                                         \
    0x04, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77, 0x03, \
        0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f, 0xe3, 0x42, 0xe2,   \
        0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31,   \
        0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5

#define ECDSA_WITH_SHA256 0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02
#define UTC_TIME 0x17, 0x0d, '7', '0', '0', '1', '0', '1', '0', '0', '0', '0', '0', '0', 'Z'
#define EMPTY_NAME 0x30, 0x00

#define CERTIFICATE_LENGTH 0xa3
static const unsigned char answer[] = {
    // ServerHello: no session, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression, no extensions.
    HANDSHAKE_RECORD(0x2a), HANDSHAKE_MESSAGE(MBEDTLS_SSL_HS_SERVER_HELLO, 0x26), VERSION_1_2, ZEROS_8, ZEROS_8,
    ZEROS_8, ZEROS_8, 0x00, 0xc0, 0x2b, 0x00,
    // Certificate: one, of version 1, by nobody for nobody, with that point as its key.
    HANDSHAKE_RECORD(CERTIFICATE_LENGTH + 10), HANDSHAKE_MESSAGE(MBEDTLS_SSL_HS_CERTIFICATE, CERTIFICATE_LENGTH + 6),
    0x00, 0x00, CERTIFICATE_LENGTH + 3, 0x00, 0x00, CERTIFICATE_LENGTH,                                    //
    0x30, 0x81, CERTIFICATE_LENGTH - 3, 0x30, 0x81, 0x8e, 0x02, 0x01, 0x01, ECDSA_WITH_SHA256, EMPTY_NAME, //
    0x30, 0x1e, UTC_TIME, UTC_TIME, EMPTY_NAME,                                                            //
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,                          //
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, POINT,                   //
    ECDSA_WITH_SHA256, 0x03, 0x01, 0x00,
    // ServerKeyExchange: P-256, that point, and a signature by ECDSA with SHA-256, both of whose numbers are 1.
    HANDSHAKE_RECORD(0x55), HANDSHAKE_MESSAGE(MBEDTLS_SSL_HS_SERVER_KEY_EXCHANGE, 0x51), 0x03, 0x00, 0x17, 0x41, POINT,
    0x04, 0x03, 0x00, 0x08, 0x30, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01};

struct canned {
    size_t given;
};

static int transmit(void *argument, const unsigned char *bytes, size_t length)
{
    (void)argument;
    (void)bytes;
    return (int)length;
}

static int receive(void *argument, unsigned char *buffer, size_t room)
{
    struct canned *canned = argument;
    size_t left = sizeof answer - canned->given;
    size_t count = room < left ? room : left;
    if (count == 0)
        return MBEDTLS_ERR_SSL_CONN_EOF;
    memcpy(buffer, answer + canned->given, count);
    canned->given += count;
    return (int)count;
}

// As handshake.c does it. mbedTLS's status, which is never 0.
static int shake_hands(const mbedtls_ssl_config *config, struct tls_verification *verification)
{
    struct canned canned = {.given = 0};
    mbedtls_ssl_context ssl;
    mbedtls_ssl_init(&ssl);
    int status = mbedtls_ssl_setup(&ssl, config);
    if (status == 0)
        status = mbedtls_ssl_set_hostname(&ssl, NULL);
    if (status == 0) {
        mbedtls_ssl_set_bio(&ssl, &canned, transmit, receive, NULL);
        mbedtls_ssl_set_verify(&ssl, peer_certificates_callback, verification);
        peer_certificates_begin(verification);
        status = mbedtls_ssl_handshake(&ssl);
        peer_certificates_end();
    }
    mbedtls_ssl_free(&ssl);
    key_exchange_leave_thread();
    return status;
}

bool trial_handshake(struct trial_result *result, struct error *error)
{
    struct tls_context context = {.role = TLS_CLIENT, .verify_mode = VERIFY_RELAXED};
    struct tls_verification verification;
    const struct key_exchange_counts before = key_exchange_counts;
    mbedtls_ssl_config_init(&context.config);
    (void)tls_verification_init(&verification, &context, NULL);
    bool is_good = tls_ssl_configure(&context, TLS_MINIMUM_1_2, error);
    if (is_good) {
        // There is nobody whom it could trust; it is to go on all the same, to the key exchange.
        mbedtls_ssl_conf_authmode(&context.config, MBEDTLS_SSL_VERIFY_OPTIONAL);
        int status = shake_hands(&context.config, &verification);
        is_good = verification.received == 1 && verification.is_judged;
        if (tls_is_memory_error(status) || verification.verdict == VERDICT_NO_MEMORY)
            error_set(error, ERROR_NO_MEMORY, "out of memory: mbedTLS cannot start");
        else if (!is_good)
            error_set(
                error, ERROR_SYSTEM,
                "the cryptographic libraries do not fit together: mbedTLS does not leave certificates to libcrypto");
    }
    result->has_key_exchange =
        key_exchange_counts.messages > before.messages && key_exchange_counts.signatures > before.signatures;
    mbedtls_ssl_config_free(&context.config);
    tls_verification_release(&verification);
    return is_good;
}
