#include "peer_certificates.h"

#include <pthread.h>
#include <string.h>

#include <mbedtls/pk.h>
#include <openssl/crypto.h>
#include <openssl/err.h>

#include "bitflow/base/compiler.h"
#include "context_internal.h"
#include "libcrypto.h"
#include "original.h"
#include "x509_text.h"

#define ALERT(name) MBEDTLS_SSL_ALERT_MSG_##name

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct {
    __typeof__(mbedtls_x509_crt_parse_der) *parse;
    __typeof__(mbedtls_x509_crt_verify_restartable) *verify;
} originals;

static _Thread_local struct tls_verification *current;

static void find_originals(void)
{
    (void)find_original("mbedtls_x509_crt_parse_der", &originals.parse);
    (void)find_original("mbedtls_x509_crt_verify_restartable", &originals.verify);
}

bool peer_certificates_init(struct error *error)
{
    if (pthread_once(&once, find_originals) == 0 && originals.parse != NULL && originals.verify != NULL)
        return true;
    error_set(error, ERROR_SYSTEM,
              "the cryptographic libraries do not fit together: mbedTLS's own functions are not found");
    return false;
}

void peer_certificates_begin(struct tls_verification *verification)
{
    current = verification;
}

void peer_certificates_end(void)
{
    current = NULL;
}

// ---- what is parsed

static int out_of_memory(struct tls_verification *verification)
{
    verification->verdict = VERDICT_NO_MEMORY;
    return MBEDTLS_ERR_X509_ALLOC_FAILED;
}

// An error of which mbedTLS makes this alert.
static int status_of(unsigned char alert)
{
    return alert == ALERT(UNSUPPORTED_CERT) ? MBEDTLS_ERR_X509_UNKNOWN_VERSION : MBEDTLS_ERR_X509_INVALID_FORMAT;
}

static int refuse_key(struct tls_verification *verification, const char *kind)
{
    tls_refuse(verification, ALERT(UNSUPPORTED_CERT), "the certificate has a key %s", kind);
    return status_of(ALERT(UNSUPPORTED_CERT));
}

// Lets mbedTLS have the key of the peer's certificate.
static int show_key(struct tls_verification *verification, mbedtls_x509_crt *shown)
{
    char kind[LIBCRYPTO_KIND_SIZE];
    unsigned char *der = NULL;
    int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(verification->certificate), &der);
    if (length <= 0)
        return out_of_memory(verification);
    unsigned char *at = der;
    int status = mbedtls_pk_parse_subpubkey(&at, der + length, &shown->pk);
    OPENSSL_free(der);
    if (status != 0 && tls_is_memory_error(status))
        return out_of_memory(verification);
    if (status != 0) {
        libcrypto_describe_key(verification->certificate, kind);
        return refuse_key(verification, kind);
    }
    shown->version = 3; // it is there
    verification->shown = shown;
    return 0;
}

static int take_own(struct tls_verification *verification, mbedtls_x509_crt *shown, X509 *certificate)
{
    char kind[LIBCRYPTO_KIND_SIZE];
    if (certificate == NULL) {
        tls_refuse(verification, ALERT(BAD_CERT), "the certificate cannot be read");
        return status_of(ALERT(BAD_CERT));
    }
    verification->certificate = certificate;
    if (!libcrypto_is_usable_key(certificate, kind))
        return libcrypto_failed_for_memory() ? out_of_memory(verification) : refuse_key(verification, kind);
    return show_key(verification, shown);
}

// One that is of no use does no harm, unless it is needed.
static int take_other(struct tls_verification *verification, X509 *certificate)
{
    char kind[LIBCRYPTO_KIND_SIZE];
    char subject[64];
    if (certificate == NULL) {
        (void)snprintf(verification->unusable, sizeof verification->unusable,
                       "certificate %u of those that were sent cannot be read", verification->received);
        return 0;
    }
    if (!libcrypto_is_usable_key(certificate, kind)) {
        (void)snprintf(verification->unusable, sizeof verification->unusable, "the CA certificate %s has a key %s",
                       x509_name_text(X509_get_subject_name(certificate), subject, sizeof subject), kind);
        X509_free(certificate);
        return libcrypto_failed_for_memory() ? out_of_memory(verification) : 0;
    }
    if (verification->others == NULL)
        verification->others = sk_X509_new_null();
    if (verification->others != NULL && sk_X509_push(verification->others, certificate) > 0)
        return 0;
    X509_free(certificate);
    return out_of_memory(verification);
}

static int take(struct tls_verification *verification, mbedtls_x509_crt *shown, const unsigned char *der, size_t length)
{
    bool is_own = verification->received++ == 0;
    if (!is_own && verification->shown != shown)
        return MBEDTLS_ERR_X509_BAD_INPUT_DATA;
    if (!is_own && verification->context->verify_mode == VERIFY_NONE)
        return 0;
    if (verification->received > PEER_CERTIFICATES_MAX) {
        tls_refuse(verification, ALERT(BAD_CERT), "more than %d certificates were sent", PEER_CERTIFICATES_MAX);
        return status_of(ALERT(BAD_CERT));
    }
    const unsigned char *at = der;
    X509 *certificate = d2i_X509(NULL, &at, (long)length);
    if (certificate == NULL && libcrypto_failed_for_memory())
        return out_of_memory(verification);
    if (certificate != NULL && at != der + length) {
        X509_free(certificate);
        certificate = NULL;
    }
    return is_own ? take_own(verification, shown, certificate) : take_other(verification, certificate);
}

int mbedtls_x509_crt_parse_der(mbedtls_x509_crt *chain, const unsigned char *buf, size_t buflen)
{
    if (current != NULL) {
        int status = chain != NULL && buf != NULL ? take(current, chain, buf, buflen) : MBEDTLS_ERR_X509_BAD_INPUT_DATA;
        ERR_clear_error();
        return status;
    }
    if (pthread_once(&once, find_originals) != 0 || originals.parse == NULL)
        return MBEDTLS_ERR_X509_FEATURE_UNAVAILABLE;
    return originals.parse(chain, buf, buflen);
}

// ---- what is verified

// A flag of which mbedTLS makes the alert that goes with the refusal.
static uint32_t flag_of(unsigned char alert)
{
    static const struct {
        unsigned char alert;
        uint32_t flag;
    } flags[] = {
        {ALERT(UNKNOWN_CA), MBEDTLS_X509_BADCERT_NOT_TRUSTED},   {ALERT(CERT_REVOKED), MBEDTLS_X509_BADCERT_REVOKED},
        {ALERT(CERT_EXPIRED), MBEDTLS_X509_BADCERT_EXPIRED},     {ALERT(BAD_CERT), MBEDTLS_X509_BADCERT_CN_MISMATCH},
        {ALERT(UNSUPPORTED_CERT), MBEDTLS_X509_BADCERT_BAD_KEY}, {ALERT(ACCESS_DENIED), MBEDTLS_X509_BADCERT_OTHER},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(flags); i++)
        if (flags[i].alert == alert)
            return flags[i].flag;
    return MBEDTLS_X509_BADCRL_NOT_TRUSTED; // certificate_unknown
}

static int judge(struct tls_verification *verification, const mbedtls_x509_crt *shown, uint32_t *flags)
{
    verification->is_judged = true;
    if (verification->shown != shown)
        tls_refuse(verification, ALERT(INTERNAL_ERROR), "the certificate is not the one that was received");
    else
        tls_verify(verification);
    *flags = verification->verdict == VERDICT_ACCEPTED ? 0 : flag_of(verification->alert);
    return verification->verdict == VERDICT_ACCEPTED    ? 0
           : verification->verdict == VERDICT_NO_MEMORY ? MBEDTLS_ERR_X509_ALLOC_FAILED
                                                        : MBEDTLS_ERR_X509_CERT_VERIFY_FAILED;
}

// NOLINTBEGIN(readability-identifier-naming,readability-function-size)
int mbedtls_x509_crt_verify_restartable(mbedtls_x509_crt *crt, mbedtls_x509_crt *trust_ca, mbedtls_x509_crl *ca_crl,
                                        const mbedtls_x509_crt_profile *profile, const char *cn, uint32_t *flags,
                                        int (*f_vrfy)(void *, mbedtls_x509_crt *, int, uint32_t *), void *p_vrfy,
                                        mbedtls_x509_crt_restart_ctx *rs_ctx)
{
    if (f_vrfy == peer_certificates_callback)
        return judge(p_vrfy, crt, flags);
    if (pthread_once(&once, find_originals) != 0 || originals.verify == NULL) {
        *flags = UINT32_MAX;
        return MBEDTLS_ERR_X509_FATAL_ERROR;
    }
    return originals.verify(crt, trust_ca, ca_crl, profile, cn, flags, f_vrfy, p_vrfy, rs_ctx);
}
// NOLINTEND(readability-identifier-naming,readability-function-size)

int peer_certificates_callback(void *argument, mbedtls_x509_crt *certificate, int depth, uint32_t *flags)
{
    (void)certificate;
    (void)depth;
    *flags = UINT32_MAX;
    tls_refuse(argument, ALERT(INTERNAL_ERROR), "mbedTLS does not leave certificates to libcrypto");
    return MBEDTLS_ERR_X509_FATAL_ERROR;
}
