#include "key_exchange.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mbedtls/error.h>
#include <mbedtls/md.h>
#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>

#include "original.h"
#include "ssl_config.h"

// Not in mbedTLS's headers: a message has been read wholly.
int mbedtls_ssl_update_handshake_status(mbedtls_ssl_context *ssl);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int (*original_update)(mbedtls_ssl_context *);
static int (*original_verify)(mbedtls_pk_context *, mbedtls_md_type_t, const unsigned char *, size_t,
                              const unsigned char *, size_t, mbedtls_pk_restart_ctx *);

_Thread_local struct key_exchange_counts key_exchange_counts;

// The key whose next signature is to be verified as PSS; NULL: there is none.
static _Thread_local const mbedtls_pk_context *pss_key;

static void prepare(void)
{
    (void)find_original("mbedtls_ssl_update_handshake_status", &original_update);
    (void)find_original("mbedtls_pk_verify_restartable", &original_verify);
}

void key_exchange_leave_thread(void)
{
    pss_key = NULL;
}

// The two bytes that say how a ServerKeyExchange is signed; NULL: it has none. RFC 8422 5.4: the message's header, a
// named curve, a point, then those.
static unsigned char *find_signature_scheme(unsigned char *message, size_t length)
{
    enum { HEADER = 4, CURVE = 3, NAMED_CURVE = 3 };
    if (length < HEADER + CURVE + 1 || message[HEADER] != NAMED_CURVE)
        return NULL;
    size_t at = HEADER + CURVE + 1 + (size_t)message[HEADER + CURVE];
    return at + 2 <= length ? message + at : NULL;
}

// The same hash with PKCS #1; 0: it is not one of the PSS schemes, all of which are offered.
static unsigned scheme_in_place_of(unsigned scheme)
{
    switch (scheme) {
    case MBEDTLS_TLS1_3_SIG_RSA_PSS_RSAE_SHA256:
        return MBEDTLS_TLS1_3_SIG_RSA_PKCS1_SHA256;
    case MBEDTLS_TLS1_3_SIG_RSA_PSS_RSAE_SHA384:
        return MBEDTLS_TLS1_3_SIG_RSA_PKCS1_SHA384;
    case MBEDTLS_TLS1_3_SIG_RSA_PSS_RSAE_SHA512:
        return MBEDTLS_TLS1_3_SIG_RSA_PKCS1_SHA512;
    default:
        return 0;
    }
}

static void look_at_message(mbedtls_ssl_context *ssl)
{
    unsigned char *message = ssl->MBEDTLS_PRIVATE(in_msg);
    mbedtls_ssl_session *session = ssl->MBEDTLS_PRIVATE(session_negotiate);
    if (ssl->MBEDTLS_PRIVATE(in_msgtype) != MBEDTLS_SSL_MSG_HANDSHAKE ||
        message[0] != MBEDTLS_SSL_HS_SERVER_KEY_EXCHANGE || session == NULL ||
        session->MBEDTLS_PRIVATE(peer_cert) == NULL ||
        mbedtls_ssl_get_version_number(ssl) != MBEDTLS_SSL_VERSION_TLS1_2)
        return;
    unsigned char *scheme = find_signature_scheme(message, ssl->MBEDTLS_PRIVATE(in_hslen));
    unsigned other = scheme == NULL ? 0 : scheme_in_place_of((unsigned)scheme[0] << 8 | scheme[1]);
    if (other == 0)
        return;
    scheme[0] = (unsigned char)(other >> 8);
    scheme[1] = (unsigned char)other;
    pss_key = &session->MBEDTLS_PRIVATE(peer_cert)->pk;
}

int mbedtls_ssl_update_handshake_status(mbedtls_ssl_context *ssl)
{
    key_exchange_counts.messages++;
    if (pthread_once(&once, prepare) != 0 || original_update == NULL)
        return MBEDTLS_ERR_SSL_INTERNAL_ERROR;
    pss_key = NULL;
    int status = original_update(ssl);
    if (status == 0 && mbedtls_ssl_is_handshake_over(ssl) == 0)
        look_at_message(ssl);
    return status;
}

int mbedtls_pk_verify_restartable(mbedtls_pk_context *ctx, mbedtls_md_type_t md_alg, const unsigned char *hash,
                                  size_t hash_len, const unsigned char *sig, size_t sig_len,
                                  mbedtls_pk_restart_ctx *rs_ctx)
{
    key_exchange_counts.signatures++;
    if (pthread_once(&once, prepare) != 0 || original_verify == NULL)
        return MBEDTLS_ERR_ERROR_CORRUPTION_DETECTED;
    if (pss_key == NULL || pss_key != ctx)
        return original_verify(ctx, md_alg, hash, hash_len, sig, sig_len, rs_ctx);
    pss_key = NULL;
    mbedtls_pk_rsassa_pss_options options = {
        .mgf1_hash_id = md_alg,
        .expected_salt_len = (int)hash_len, // RFC 8446 4.2.3
    };
    return mbedtls_pk_verify_ext(MBEDTLS_PK_RSASSA_PSS, &options, ctx, md_alg, hash, hash_len, sig, sig_len);
}
