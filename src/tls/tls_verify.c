#include "tls_verify.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "bitflow/base/compiler.h"
#include "tls_certificate.h"

bool tls_verification_init(struct tls_verification *verification, enum tls_role role, enum verify_mode mode,
                           const char *host)
{
    *verification = (struct tls_verification){.role = role, .mode = mode};
    if (role == TLS_SERVER || host == NULL || *host == '\0')
        return role == TLS_SERVER || mode != VERIFY_STRICT;
    char address[INET6_ADDRSTRLEN];
    // A zone (fe80::1%eth0) says how to get there, not who is there.
    size_t length = strcspn(host, "%");
    (void)snprintf(address, sizeof address, "%.*s", (int)(length < sizeof address ? length : sizeof address - 1), host);
    if (inet_pton(AF_INET, address, verification->address) == 1)
        verification->address_length = 4;
    else if (inet_pton(AF_INET6, address, verification->address) == 1)
        verification->address_length = 16;
    else
        verification->name = host;
    return true;
}

// What may be said of a certificate, that which matters most first; and the alert that goes with it.
static const struct {
    uint32_t flag;
    unsigned char alert;
} flaws[] = {
    {MBEDTLS_X509_BADCERT_NOT_TRUSTED, MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA},
    {MBEDTLS_X509_BADCERT_REVOKED, MBEDTLS_SSL_ALERT_MSG_CERT_REVOKED},
    {MBEDTLS_X509_BADCERT_EXPIRED, MBEDTLS_SSL_ALERT_MSG_CERT_EXPIRED},
    {MBEDTLS_X509_BADCERT_FUTURE, MBEDTLS_SSL_ALERT_MSG_BAD_CERT},
    {MBEDTLS_X509_BADCRL_EXPIRED, MBEDTLS_SSL_ALERT_MSG_CERT_UNKNOWN},
    {MBEDTLS_X509_BADCRL_FUTURE, MBEDTLS_SSL_ALERT_MSG_CERT_UNKNOWN},
    {MBEDTLS_X509_BADCRL_NOT_TRUSTED | MBEDTLS_X509_BADCRL_BAD_MD | MBEDTLS_X509_BADCRL_BAD_PK |
         MBEDTLS_X509_BADCRL_BAD_KEY,
     MBEDTLS_SSL_ALERT_MSG_CERT_UNKNOWN},
    {MBEDTLS_X509_BADCERT_BAD_MD, MBEDTLS_SSL_ALERT_MSG_BAD_CERT},
    {MBEDTLS_X509_BADCERT_BAD_PK | MBEDTLS_X509_BADCERT_BAD_KEY, MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_CERT},
    {MBEDTLS_X509_BADCERT_CN_MISMATCH, MBEDTLS_SSL_ALERT_MSG_BAD_CERT},
    {MBEDTLS_X509_BADCERT_EXT_KEY_USAGE | MBEDTLS_X509_BADCERT_NS_CERT_TYPE, MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_CERT},
    {MBEDTLS_X509_BADCERT_KEY_USAGE, MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_CERT},
    {MBEDTLS_X509_BADCERT_MISSING | MBEDTLS_X509_BADCERT_SKIP_VERIFY, MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE},
    {UINT32_MAX, MBEDTLS_SSL_ALERT_MSG_CERT_UNKNOWN},
};

static size_t worst_flaw(uint32_t flags)
{
    size_t i = 0;
    while ((flaws[i].flag & flags) == 0)
        i++;
    return i;
}

static void say(struct tls_verification *verification, const char *format, ...) PRINTF_LIKE(2, 3);
static void say(struct tls_verification *verification, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(verification->reason, sizeof verification->reason, format, arguments);
    va_end(arguments);
}

static void say_mismatch(struct tls_verification *verification, const mbedtls_x509_crt *certificate)
{
    char names[96];
    char expected[96];
    if (verification->name != NULL)
        (void)snprintf(expected, sizeof expected, "%s", verification->name);
    else
        (void)inet_ntop(verification->address_length == 4 ? AF_INET : AF_INET6, verification->address, expected,
                        sizeof expected);
    if (*certificate_names(certificate, names, sizeof names) == '\0')
        (void)certificate_subject(&certificate->subject, names, sizeof names);
    say(verification, "the certificate is for %s, not for %s", names, expected);
}

static void say_untrusted(struct tls_verification *verification, const mbedtls_x509_crt *certificate)
{
    char subject[80];
    char issuer[80];
    (void)certificate_subject(&certificate->subject, subject, sizeof subject);
    (void)certificate_subject(&certificate->issuer, issuer, sizeof issuer);
    if (certificate->issuer_raw.len == certificate->subject_raw.len &&
        memcmp(certificate->issuer_raw.p, certificate->subject_raw.p, certificate->issuer_raw.len) == 0)
        say(verification, "unknown CA: the self-signed certificate of %s is no authority here", subject);
    else
        say(verification, "unknown CA: the certificate of %s was issued by %s, which is no authority here", subject,
            issuer);
}

// What is said without knowing the certificate; also of what mbedTLS finds after its callback.
static const char *plain_words(const struct tls_verification *verification, uint32_t flag)
{
    bool is_server = verification->role == TLS_SERVER;
    switch (flag) {
    case MBEDTLS_X509_BADCERT_REVOKED:
        return "the certificate is revoked";
    case MBEDTLS_X509_BADCRL_EXPIRED:
        return "the authority's revocation list has expired";
    case MBEDTLS_X509_BADCRL_FUTURE:
        return "the authority's revocation list is not valid yet";
    case MBEDTLS_X509_BADCERT_BAD_MD:
        return "the certificate is signed with too weak a hash";
    case MBEDTLS_X509_BADCERT_BAD_PK | MBEDTLS_X509_BADCERT_BAD_KEY:
        return "the certificate's key is too short, or of a kind that is not supported";
    case MBEDTLS_X509_BADCERT_EXT_KEY_USAGE | MBEDTLS_X509_BADCERT_NS_CERT_TYPE:
        return is_server ? "the certificate is not for clients (extended key usage)"
                         : "the certificate is not for servers (extended key usage)";
    case MBEDTLS_X509_BADCERT_KEY_USAGE:
        return "the certificate's key is not for signatures (key usage)";
    case MBEDTLS_X509_BADCERT_MISSING | MBEDTLS_X509_BADCERT_SKIP_VERIFY:
        return is_server ? "the client sent no certificate" : "the target sent no certificate";
    default:
        return (flag & MBEDTLS_X509_BADCRL_NOT_TRUSTED) != 0 && flag != UINT32_MAX
                   ? "the revocation list is not the authority's"
                   : "the certificate does not verify";
    }
}

static void describe(struct tls_verification *verification, const mbedtls_x509_crt *certificate, int depth,
                     uint32_t flag)
{
    char subject[96];
    char date[CERTIFICATE_DATE_SIZE];
    char whose[128] = "the certificate";
    if (depth > 0)
        (void)snprintf(whose, sizeof whose, "the CA certificate %s",
                       certificate_subject(&certificate->subject, subject, sizeof subject));
    if (flag == MBEDTLS_X509_BADCERT_NOT_TRUSTED)
        say_untrusted(verification, certificate);
    else if (flag == MBEDTLS_X509_BADCERT_CN_MISMATCH)
        say_mismatch(verification, certificate);
    else if (flag == MBEDTLS_X509_BADCERT_EXPIRED)
        say(verification, "%s expired on %s", whose, certificate_date(&certificate->valid_to, date));
    else if (flag == MBEDTLS_X509_BADCERT_FUTURE)
        say(verification, "%s is not valid before %s", whose, certificate_date(&certificate->valid_from, date));
    else
        say(verification, "%s", plain_words(verification, flag));
}

int tls_verify_callback(void *argument, mbedtls_x509_crt *certificate, int depth, uint32_t *flags)
{
    struct tls_verification *verification = argument;
    if (depth == 0 && verification->role == TLS_CLIENT) {
        if (verification->mode != VERIFY_STRICT)
            *flags &= ~(uint32_t)MBEDTLS_X509_BADCERT_CN_MISMATCH;
        else if (verification->address_length > 0 &&
                 !certificate_matches_address(certificate, verification->address, verification->address_length))
            *flags |= MBEDTLS_X509_BADCERT_CN_MISMATCH;
    }
    if (*flags == 0)
        return 0;
    size_t flaw = worst_flaw(*flags);
    if (verification->named == 0 || flaw < worst_flaw(verification->named)) {
        verification->named = flaws[flaw].flag;
        describe(verification, certificate, depth, flaws[flaw].flag);
    }
    return 0;
}

bool tls_verify_result(struct tls_verification *verification, const mbedtls_ssl_context *ssl, unsigned char *alert)
{
    if (verification->mode == VERIFY_NONE)
        return true;
    uint32_t flags = mbedtls_ssl_get_verify_result(ssl);
    bool has_certificate = mbedtls_ssl_get_peer_cert(ssl) != NULL;
    bool may_be_missing = verification->role == TLS_SERVER && verification->mode == VERIFY_RELAXED;
    if (has_certificate ? flags == 0 : may_be_missing && flags == MBEDTLS_X509_BADCERT_MISSING)
        return true;
    if (!has_certificate)
        flags |= MBEDTLS_X509_BADCERT_MISSING;
    *alert = flaws[worst_flaw(flags)].alert;
    if (!has_certificate && mbedtls_ssl_get_version_number(ssl) == MBEDTLS_SSL_VERSION_TLS1_3)
        *alert = MBEDTLS_SSL_ALERT_MSG_CERT_REQUIRED;
    (void)tls_verify_reason(verification, flags);
    return false;
}

const char *tls_verify_reason(struct tls_verification *verification, uint32_t flags)
{
    if (flags == 0 || flags == UINT32_MAX) // mbedTLS's "no result"
        flags = verification->named;
    if (*verification->reason == '\0')
        say(verification, "%s", plain_words(verification, flaws[worst_flaw(flags != 0 ? flags : UINT32_MAX)].flag));
    return verification->reason;
}
