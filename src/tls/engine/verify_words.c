#include "verify_words.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include <mbedtls/ssl.h>
#include <openssl/objects.h>
#include <openssl/x509v3.h>

#include "bitflow/base/compiler.h"
#include "context_internal.h"
#include "libcrypto.h"
#include "x509_text.h"

#define ALERT(name) MBEDTLS_SSL_ALERT_MSG_##name
#define SUBJECT_SIZE 96

// ---- revocation lists

bool verify_is_about_lists(int error)
{
    switch (error) {
    case X509_V_ERR_UNABLE_TO_GET_CRL:
    case X509_V_ERR_UNABLE_TO_DECRYPT_CRL_SIGNATURE:
    case X509_V_ERR_CRL_SIGNATURE_FAILURE:
    case X509_V_ERR_CRL_NOT_YET_VALID:
    case X509_V_ERR_CRL_HAS_EXPIRED:
    case X509_V_ERR_ERROR_IN_CRL_LAST_UPDATE_FIELD:
    case X509_V_ERR_ERROR_IN_CRL_NEXT_UPDATE_FIELD:
    case X509_V_ERR_UNABLE_TO_GET_CRL_ISSUER:
    case X509_V_ERR_KEYUSAGE_NO_CRL_SIGN:
    case X509_V_ERR_UNHANDLED_CRITICAL_CRL_EXTENSION:
    case X509_V_ERR_DIFFERENT_CRL_SCOPE:
    case X509_V_ERR_CRL_PATH_VALIDATION_ERROR:
        return true;
    default:
        return false;
    }
}

static X509_CRL *find_list(const STACK_OF(X509_CRL) *lists, const X509_NAME *issuer)
{
    for (int i = 0; i < sk_X509_CRL_num(lists); i++)
        if (X509_NAME_cmp(X509_CRL_get_issuer(sk_X509_CRL_value(lists, i)), issuer) == 0)
            return sk_X509_CRL_value(lists, i);
    return NULL;
}

// There is none that could be believed.
static void describe_absence(const struct trust *trust, const X509_NAME *issuer, char *out, size_t size)
{
    char name[SUBJECT_SIZE];
    const X509_CRL *list = find_list(trust->unbelieved, issuer);
    (void)x509_name_text(issuer, name, sizeof name);
    if (list == NULL)
        (void)snprintf(out, size, "there is no revocation list of %s", name);
    else if (X509_CRL_get0_nextUpdate(list) == NULL)
        (void)snprintf(out, size, "the revocation list of %s does not say until when it holds (nextUpdate)", name);
    else
        (void)snprintf(out, size, "the revocation list of %s is signed with too weak a hash", name);
}

static void describe_list(int error, const X509_CRL *list, const X509_NAME *issuer, char *out, size_t size)
{
    char name[SUBJECT_SIZE];
    char date[CERTIFICATE_DATE_SIZE];
    (void)x509_name_text(issuer, name, sizeof name);
    switch (error) {
    case X509_V_ERR_CRL_HAS_EXPIRED:
        (void)snprintf(out, size, "the revocation list of %s expired on %s", name,
                       x509_date(X509_CRL_get0_nextUpdate(list), date));
        break;
    case X509_V_ERR_CRL_NOT_YET_VALID:
        (void)snprintf(out, size, "the revocation list of %s is not valid before %s", name,
                       x509_date(X509_CRL_get0_lastUpdate(list), date));
        break;
    case X509_V_ERR_CRL_SIGNATURE_FAILURE:
    case X509_V_ERR_UNABLE_TO_DECRYPT_CRL_SIGNATURE:
        (void)snprintf(out, size, "the revocation list of %s is not signed with the authority's key", name);
        break;
    case X509_V_ERR_KEYUSAGE_NO_CRL_SIGN:
        (void)snprintf(out, size, "%s may not sign revocation lists (key usage)", name);
        break;
    case X509_V_ERR_DIFFERENT_CRL_SCOPE:
        (void)snprintf(out, size, "the revocation list of %s is about others (issuingDistributionPoint)", name);
        break;
    case X509_V_ERR_UNHANDLED_CRITICAL_CRL_EXTENSION:
        (void)snprintf(out, size, "the revocation list of %s has a critical extension that is not supported", name);
        break;
    default:
        (void)snprintf(out, size, "the revocation list of %s does not verify (%s)", name,
                       X509_verify_cert_error_string(error));
    }
}

void verify_describe_lists(const struct trust *trust, int error, const X509_CRL *list, const X509_NAME *issuer,
                           char *out, size_t size)
{
    if (list == NULL)
        describe_absence(trust, issuer, out, size);
    else
        describe_list(error, list, issuer, out, size);
}

// ---- certificates

// "the certificate", or "the CA certificate CN=A".
static const char *whose(const X509 *certificate, int depth, char *out, size_t size)
{
    char subject[SUBJECT_SIZE];
    if (depth == 0)
        (void)snprintf(out, size, "the certificate");
    else
        (void)snprintf(out, size, "the CA certificate %s",
                       x509_name_text(X509_get_subject_name(certificate), subject, sizeof subject));
    return out;
}

static void describe_untrusted(struct tls_verification *verification, const X509 *certificate)
{
    char subject[SUBJECT_SIZE];
    char issuer[SUBJECT_SIZE];
    const X509_NAME *name = X509_get_issuer_name(certificate);
    (void)x509_name_text(X509_get_subject_name(certificate), subject, sizeof subject);
    (void)x509_name_text(name, issuer, sizeof issuer);
    if (X509_NAME_cmp(name, X509_get_subject_name(certificate)) == 0)
        tls_refuse(verification, ALERT(UNKNOWN_CA),
                   "unknown CA: the self-signed certificate of %s is not an authority here", subject);
    else if (*verification->unusable != '\0')
        tls_refuse(verification, ALERT(UNKNOWN_CA), "unknown CA: the certificate of %s was issued by %s; %s", subject,
                   issuer, verification->unusable);
    else
        tls_refuse(verification, ALERT(UNKNOWN_CA),
                   "unknown CA: the certificate of %s was issued by %s, which is not an authority here", subject,
                   issuer);
}

static void describe_purpose(struct tls_verification *verification, X509 *certificate, const char *subject)
{
    bool is_client = verification->context->role == TLS_SERVER;
    uint32_t usage = is_client ? XKU_SSL_CLIENT : XKU_SSL_SERVER;
    if ((X509_get_extended_key_usage(certificate) & usage) == 0) // UINT32_MAX: it has no such extension
        tls_refuse(verification, ALERT(UNSUPPORTED_CERT), "%s is not for %s (extended key usage)", subject,
                   is_client ? "clients" : "servers");
    else
        tls_refuse(verification, ALERT(UNSUPPORTED_CERT), "%s is not for %s (key usage)", subject,
                   is_client ? "clients" : "servers");
}

static void describe_extension(struct tls_verification *verification, const X509 *certificate, const char *subject)
{
    char name[64] = "unknown";
    for (int i = 0; i < X509_get_ext_count(certificate); i++) {
        X509_EXTENSION *extension = X509_get_ext(certificate, i);
        if (X509_EXTENSION_get_critical(extension) != 1 || X509_supported_extension(extension) == 1)
            continue;
        (void)OBJ_obj2txt(name, sizeof name, X509_EXTENSION_get_object(extension), 0);
        break;
    }
    tls_refuse(verification, ALERT(UNSUPPORTED_CERT), "%s has a critical extension that is not supported (%s)", subject,
               name);
}

// Of which CA the constraints are that leave out the certificate's names.
static const X509 *find_constraint(const STACK_OF(X509) *chain, int depth)
{
    X509 *certificate = sk_X509_value(chain, depth);
    const X509 *found = NULL;
    for (int i = depth + 1; found == NULL && i < sk_X509_num(chain); i++) {
        NAME_CONSTRAINTS *constraints = X509_get_ext_d2i(sk_X509_value(chain, i), NID_name_constraints, NULL, NULL);
        if (constraints != NULL && (NAME_CONSTRAINTS_check(certificate, constraints) != X509_V_OK ||
                                    NAME_CONSTRAINTS_check_CN(certificate, constraints) != X509_V_OK))
            found = sk_X509_value(chain, i);
        NAME_CONSTRAINTS_free(constraints);
    }
    return found;
}

static void describe_constraint(struct tls_verification *verification, X509_STORE_CTX *process, const char *subject)
{
    char name[SUBJECT_SIZE] = "a CA above it";
    char names[96];
    int depth = X509_STORE_CTX_get_error_depth(process);
    const STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(process);
    const X509 *certificate = sk_X509_value(chain, depth);
    const X509 *above = find_constraint(chain, depth);
    if (above != NULL)
        (void)x509_name_text(X509_get_subject_name(above), name, sizeof name);
    bool has_names = X509_get_ext_by_NID(certificate, NID_subject_alt_name, -1) >= 0;
    if (*x509_names(certificate, names, sizeof names) == '\0' && has_names)
        (void)snprintf(names, sizeof names, "names of other kinds");
    else if (*names == '\0')
        (void)x509_name_text(X509_get_subject_name(certificate), names, sizeof names);
    tls_refuse(verification, ALERT(BAD_CERT), "%s is for %s, for which %s may not issue (name constraints)", subject,
               names, name);
}

// Its alternative names, or else its subject.
static const char *names_of(const X509 *certificate, char *out, size_t size)
{
    if (*x509_names(certificate, out, size) == '\0')
        (void)x509_name_text(X509_get_subject_name(certificate), out, size);
    return out;
}

void verify_describe_mismatch(struct tls_verification *verification)
{
    char names[SUBJECT_SIZE];
    char expected[SUBJECT_SIZE] = "";
    bool has_names = verification->context->authorized_names != NULL;
    if (verification->context->verify_mode != VERIFY_STRICT)
        (void)snprintf(expected, sizeof expected, "any of authorized_names");
    else if (verification->name != NULL)
        (void)snprintf(expected, sizeof expected, "%s", verification->name);
    else if (verification->address_length > 0)
        (void)inet_ntop(verification->address_length == 4 ? AF_INET : AF_INET6, verification->address, expected,
                        sizeof expected);
    tls_refuse(verification, ALERT(BAD_CERT), "the certificate is for %s, not for %s%s",
               names_of(verification->certificate, names, sizeof names), expected,
               !has_names || verification->context->verify_mode != VERIFY_STRICT ? ""
               : *expected == '\0'                                               ? "any of authorized_names"
                                                                                 : " or any of authorized_names");
}

void verify_describe_unauthorized(struct tls_verification *verification)
{
    char names[2 * SUBJECT_SIZE];
    tls_refuse(verification, ALERT(ACCESS_DENIED), "the certificate is for %s, which is none of authorized_names",
               names_of(verification->certificate, names, sizeof names));
    verification->is_unauthorized = true;
}

// What needs no more than the certificate's name.
static const struct {
    int error;
    unsigned char alert;
    const char *words;
} plain[] = {
    {X509_V_ERR_CERT_REVOKED, ALERT(CERT_REVOKED), "is revoked"},
    {X509_V_ERR_CERT_SIGNATURE_FAILURE, ALERT(UNKNOWN_CA), "is not signed with the key of its issuer"},
    {X509_V_ERR_UNABLE_TO_DECRYPT_CERT_SIGNATURE, ALERT(UNKNOWN_CA), "is not signed with the key of its issuer"},
    {X509_V_ERR_CERT_CHAIN_TOO_LONG, ALERT(UNKNOWN_CA), "has too many CAs below it"},
    {X509_V_ERR_INVALID_CA, ALERT(BAD_CERT), "has issued another, but is not a CA's"},
    {X509_V_ERR_INVALID_NON_CA, ALERT(BAD_CERT), "is a CA's"},
    {X509_V_ERR_KEYUSAGE_NO_CERTSIGN, ALERT(BAD_CERT), "has issued another, but may not (key usage)"},
    {X509_V_ERR_PATH_LENGTH_EXCEEDED, ALERT(BAD_CERT), "does not allow as many CAs below it (path length)"},
    {X509_V_ERR_PROXY_CERTIFICATES_NOT_ALLOWED, ALERT(UNSUPPORTED_CERT), "is a proxy certificate"},
    {X509_V_ERR_CERT_REJECTED, ALERT(UNKNOWN_CA), "is an authority that is not trusted for this"},
    {X509_V_ERR_CA_MD_TOO_WEAK, ALERT(BAD_CERT), "is signed with too weak a hash"},
    {X509_V_ERR_INVALID_EXTENSION, ALERT(BAD_CERT), "has an extension that cannot be read"},
    {X509_V_ERR_INVALID_POLICY_EXTENSION, ALERT(BAD_CERT), "has a policy extension that cannot be read"},
};

static void describe_plainly(struct tls_verification *verification, int error, const char *subject)
{
    for (size_t i = 0; i < ARRAY_LENGTH(plain); i++)
        if (plain[i].error == error) {
            tls_refuse(verification, plain[i].alert, "%s %s", subject, plain[i].words);
            return;
        }
    tls_refuse(verification, ALERT(CERT_UNKNOWN), "%s does not verify: %s", subject,
               X509_verify_cert_error_string(error));
}

static void describe_revocation(struct tls_verification *verification, const struct trust *trust,
                                X509_STORE_CTX *process, const char *subject)
{
    char words[160];
    int error = X509_STORE_CTX_get_error(process);
    const X509_CRL *list = X509_STORE_CTX_get0_current_crl(process);
    const X509_NAME *issuer = X509_get_issuer_name(X509_STORE_CTX_get_current_cert(process));
    if (error == X509_V_ERR_UNABLE_TO_GET_CRL || list == NULL)
        verify_describe_lists(trust, error, NULL, issuer, words, sizeof words);
    else
        verify_describe_lists(trust, error, list, X509_CRL_get_issuer(list), words, sizeof words);
    tls_refuse(verification, ALERT(CERT_UNKNOWN), "it cannot be told whether %s is revoked: %s", subject, words);
}

void verify_describe(struct tls_verification *verification, const struct trust *trust, X509_STORE_CTX *process)
{
    char subject[SUBJECT_SIZE + 32];
    char date[CERTIFICATE_DATE_SIZE];
    int error = X509_STORE_CTX_get_error(process);
    X509 *certificate = X509_STORE_CTX_get_current_cert(process);
    if (certificate == NULL) { // the chain as a whole
        tls_refuse(verification, ALERT(CERT_UNKNOWN), "the certificate does not verify: %s",
                   error == X509_V_ERR_NO_EXPLICIT_POLICY
                       ? "a CA above it asks for a certificate policy that the whole chain has, and there is none"
                       : X509_verify_cert_error_string(error));
        return;
    }
    (void)whose(certificate, X509_STORE_CTX_get_error_depth(process), subject, sizeof subject);
    switch (error) {
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_UNTRUSTED:
        describe_untrusted(verification, certificate);
        break;
    case X509_V_ERR_CERT_HAS_EXPIRED:
        tls_refuse(verification, ALERT(CERT_EXPIRED), "%s expired on %s", subject,
                   x509_date(X509_get0_notAfter(certificate), date));
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        tls_refuse(verification, ALERT(BAD_CERT), "%s is not valid before %s", subject,
                   x509_date(X509_get0_notBefore(certificate), date));
        break;
    case X509_V_ERR_INVALID_PURPOSE:
        describe_purpose(verification, certificate, subject);
        break;
    case X509_V_ERR_EE_KEY_TOO_SMALL:
        tls_refuse(verification, ALERT(UNSUPPORTED_CERT), "the certificate's key is too short");
        break;
    case X509_V_ERR_CA_KEY_TOO_SMALL:
        tls_refuse(verification, ALERT(UNSUPPORTED_CERT), "the key of %s is too short", subject);
        break;
    case X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION:
        describe_extension(verification, certificate, subject);
        break;
    case X509_V_ERR_PERMITTED_VIOLATION:
    case X509_V_ERR_EXCLUDED_VIOLATION:
    case X509_V_ERR_SUBTREE_MINMAX:
    case X509_V_ERR_UNSUPPORTED_CONSTRAINT_TYPE:
    case X509_V_ERR_UNSUPPORTED_CONSTRAINT_SYNTAX:
    case X509_V_ERR_UNSUPPORTED_NAME_SYNTAX:
        describe_constraint(verification, process, subject);
        break;
    default:
        if (verify_is_about_lists(error))
            describe_revocation(verification, trust, process, subject);
        else
            describe_plainly(verification, error, subject);
    }
}
