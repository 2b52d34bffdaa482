#include "verify.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "bitflow/base/compiler.h"
#include "certificate.h"
#include "context_internal.h"

bool tls_verification_init(struct tls_verification *verification, const struct tls_context *context, const char *host)
{
    *verification = (struct tls_verification){.context = context};
    if (context->role == TLS_SERVER || host == NULL || *host == '\0')
        return context->role == TLS_SERVER || context->verify_mode != VERIFY_STRICT;
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

// There is no current revocation list of its issuer.
#define REVOCATION_FLAGS                                                                          \
    (MBEDTLS_X509_BADCRL_EXPIRED | MBEDTLS_X509_BADCRL_FUTURE | MBEDTLS_X509_BADCRL_NOT_TRUSTED | \
     MBEDTLS_X509_BADCRL_BAD_MD | MBEDTLS_X509_BADCRL_BAD_KEY)

// What may be said of a certificate, that which matters most first; and the alert that goes with it.
static const struct {
    uint32_t flag;
    unsigned char alert;
} flaws[] = {
    {MBEDTLS_X509_BADCERT_NOT_TRUSTED, MBEDTLS_SSL_ALERT_MSG_UNKNOWN_CA},
    {MBEDTLS_X509_BADCERT_REVOKED, MBEDTLS_SSL_ALERT_MSG_CERT_REVOKED},
    {MBEDTLS_X509_BADCERT_EXPIRED, MBEDTLS_SSL_ALERT_MSG_CERT_EXPIRED},
    {MBEDTLS_X509_BADCERT_FUTURE, MBEDTLS_SSL_ALERT_MSG_BAD_CERT},
    {REVOCATION_FLAGS, MBEDTLS_SSL_ALERT_MSG_CERT_UNKNOWN},
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
    while (i + 1 < ARRAY_LENGTH(flaws) && (flaws[i].flag & flags) == 0)
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
        say(verification, "unknown CA: the self-signed certificate of %s is not an authority here", subject);
    else
        say(verification, "unknown CA: the certificate of %s was issued by %s, which is not an authority here", subject,
            issuer);
}

// What is said without knowing the certificate; also of what mbedTLS finds after its callback.
static const char *plain_words(const struct tls_verification *verification, uint32_t flag)
{
    bool is_server = verification->context->role == TLS_SERVER;
    switch (flag) {
    case MBEDTLS_X509_BADCERT_REVOKED:
        return "the certificate is revoked";
    case REVOCATION_FLAGS:
        return "there is no current revocation list of the certificate's issuer";
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
        return "the certificate does not verify";
    }
}

static void describe(struct tls_verification *verification, const mbedtls_x509_crt *certificate, int depth,
                     uint32_t flag)
{
    char subject[96];
    char date[CERTIFICATE_DATE_SIZE];
    char words[160];
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
    else if (flag == MBEDTLS_X509_BADCERT_REVOKED)
        say(verification, "%s is revoked", whose);
    else if (flag == REVOCATION_FLAGS)
        say(verification, "it cannot be told whether %s is revoked: %s", whose,
            revocation_words(&verification->revocation, verification->issuer, words, sizeof words));
    else
        say(verification, "%s", plain_words(verification, flag));
}

static bool is_among(const mbedtls_x509_crt *certificate, const mbedtls_x509_crt *list)
{
    for (; list != NULL && list->raw.p != NULL; list = list->next)
        if (list->raw.len == certificate->raw.len && memcmp(list->raw.p, certificate->raw.p, list->raw.len) == 0)
            return true;
    return false;
}

// Whether the anchor was configured with a revocation list: each entry's is about its own authority.
static bool needs_lists(const struct tls_verification *verification, const mbedtls_x509_crt *anchor)
{
    const struct tls_context *context = verification->context;
    if (verification->entry != NULL)
        return verification->entry->revocation_list_path != NULL;
    for (size_t i = 0; i < context->entry_count; i++)
        if (context->entries[i].revocation_list_path != NULL && is_among(anchor, &context->entries[i].authorities))
            return true;
    return false;
}

// As OpenSSL's X509_V_FLAG_CRL_CHECK_ALL: every certificate but the anchor must be known not to be revoked. Adds to
// `flags`.
static void check_revocation(struct tls_verification *verification, const mbedtls_x509_crt *certificate,
                             uint32_t *flags)
{
    const struct tls_entry *entry = verification->entry;
    const mbedtls_x509_crl *lists = entry != NULL ? &entry->revoked : &verification->context->revoked;
    mbedtls_x509_crt *issuer = verification->issuer;
    if (issuer == NULL) {
        verification->needs_lists = needs_lists(verification, certificate);
        return;
    }
    verification->revocation = revocation_check(lists, certificate, issuer);
    uint32_t flag = verification->revocation.flag;
    // Another entry's list, that is for a lower issuer of this chain by chance, still says what it says.
    if (flag == MBEDTLS_X509_BADCERT_REVOKED || verification->needs_lists)
        *flags |= flag;
}

int tls_verify_callback(void *argument, mbedtls_x509_crt *certificate, int depth, uint32_t *flags)
{
    struct tls_verification *verification = argument;
    check_revocation(verification, certificate, flags);
    if (depth == 0 && verification->context->role == TLS_CLIENT) {
        if (verification->context->verify_mode != VERIFY_STRICT)
            *flags &= ~(uint32_t)MBEDTLS_X509_BADCERT_CN_MISMATCH;
        else if (verification->address_length > 0 &&
                 !certificate_matches_address(certificate, verification->address, verification->address_length))
            *flags |= MBEDTLS_X509_BADCERT_CN_MISMATCH;
    }
    size_t flaw = worst_flaw(*flags);
    if (*flags != 0 && (verification->named == 0 || flaw < worst_flaw(verification->named))) {
        verification->named = flaws[flaw].flag;
        describe(verification, certificate, depth, flaws[flaw].flag);
    }
    verification->issuer = certificate;
    return 0;
}

bool tls_verify_result(struct tls_verification *verification, const mbedtls_ssl_context *ssl, unsigned char *alert)
{
    if (verification->context->verify_mode == VERIFY_NONE)
        return true;
    uint32_t flags = mbedtls_ssl_get_verify_result(ssl);
    bool has_certificate = mbedtls_ssl_get_peer_cert(ssl) != NULL;
    bool may_be_missing =
        verification->context->role == TLS_SERVER && verification->context->verify_mode == VERIFY_RELAXED;
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
