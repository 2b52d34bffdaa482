#include "verify.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/objects.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include "bitflow/base/compiler.h"
#include "context_internal.h"
#include "libcrypto.h"
#include "verify_words.h"

#define ALERT(name) MBEDTLS_SSL_ALERT_MSG_##name

// CAs between the authority and the peer's certificate.
#define INTERMEDIATES_MAX 8

// libcrypto's level of 112 bits: RSA and its like with 2048 bits, curves with 224, SHA-224 and up.
#define SECURITY_LEVEL 2

bool tls_verification_init(struct tls_verification *verification, const struct tls_context *context, const char *host)
{
    *verification = (struct tls_verification){.context = context};
    if (context->role == TLS_SERVER || host == NULL || *host == '\0')
        return context->role == TLS_SERVER || context->verify_mode != VERIFY_STRICT ||
               context->authorized_names != NULL;
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

void tls_verification_release(struct tls_verification *verification)
{
    X509_free(verification->certificate);
    sk_X509_pop_free(verification->others, X509_free);
    sk_X509_pop_free(verification->chain, X509_free);
    verification->certificate = NULL;
    verification->others = NULL;
    verification->chain = NULL;
}

void tls_refuse(struct tls_verification *verification, unsigned char alert, const char *format, ...)
{
    verification->verdict = VERDICT_REFUSED;
    if (*verification->reason != '\0')
        return;
    verification->alert = alert;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(verification->reason, sizeof verification->reason, format, arguments);
    va_end(arguments);
}

// ---- the chain

struct process {
    struct tls_verification *verification;
    const struct trust *trust;
    bool is_of_authority; // not a peer's chain
};

// Whether the certificate at hand must have a current list: each entry's lists are about its own authority, and the
// authority itself is not held to any.
static bool needs_list(const struct process *process, X509_STORE_CTX *at)
{
    const STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(at);
    int last = sk_X509_num(chain) - 1;
    if (X509_STORE_CTX_get_error_depth(at) == last)
        return false;
    for (int i = 0; i < sk_X509_num(process->trust->listed); i++)
        if (X509_cmp(sk_X509_value(process->trust->listed, i), sk_X509_value(chain, last)) == 0)
            return true;
    return false;
}

// libcrypto's verify_cb: what is wrong, when it is found. 0 ends it.
static int take_error(int is_good, X509_STORE_CTX *at)
{
    const struct process *process = X509_STORE_CTX_get_app_data(at);
    if (is_good == 1 || process == NULL) // NULL: the chain of a list's signer
        return is_good;
    int error = X509_STORE_CTX_get_error(at);
    if (verify_is_about_lists(error) && !needs_list(process, at)) {
        X509_STORE_CTX_set_error(at, X509_V_OK);
        return 1;
    }
    // An outdated list may have more to say: that the certificate is revoked.
    if (error == X509_V_ERR_CERT_REVOKED)
        *process->verification->reason = '\0';
    verify_describe(process->verification, process->trust, at);
    return error == X509_V_ERR_CRL_HAS_EXPIRED;
}

// What the first certificate of the chain is to be for.
static const char *purpose_of(const struct process *process)
{
    if (process->is_of_authority)
        return "default";
    return process->verification->context->role == TLS_SERVER ? "ssl_client" : "ssl_server";
}

static bool prepare(X509_STORE_CTX *at, struct process *process, unsigned long anchors)
{
    struct tls_verification *verification = process->verification;
    if (X509_STORE_CTX_init(at, process->trust->store, verification->certificate, verification->others) != 1 ||
        X509_STORE_CTX_set_default(at, purpose_of(process)) != 1 || X509_STORE_CTX_set_app_data(at, process) != 1)
        return false;
    // By its issuer's name, a certificate's list is found in the store; these may have another.
    X509_STORE_CTX_set0_crls(at, process->trust->indirect);
    X509_VERIFY_PARAM *parameters = X509_STORE_CTX_get0_param(at);
    // Of policies, any will do, but where a CA asks for one (RFC 5280 4.2.1.11), there must be one.
    unsigned long flags = anchors | X509_V_FLAG_TRUSTED_FIRST | X509_V_FLAG_POLICY_CHECK;
    if (X509_VERIFY_PARAM_add0_policy(parameters, OBJ_nid2obj(NID_any_policy)) != 1)
        return false;
    if (sk_X509_num(process->trust->listed) > 0)
        flags |= X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL | X509_V_FLAG_EXTENDED_CRL_SUPPORT |
                 X509_V_FLAG_USE_DELTAS;
    X509_VERIFY_PARAM_set_depth(parameters, INTERMEDIATES_MAX);
    X509_VERIFY_PARAM_set_auth_level(parameters, SECURITY_LEVEL);
    X509_STORE_CTX_set_verify_cb(at, take_error);
    return X509_VERIFY_PARAM_set_flags(parameters, flags) == 1;
}

// Leaves the chain, if it is accepted, in the verification. Otherwise `*error` is why not, as far as libcrypto says.
static bool verify_up_to(struct process *process, unsigned long anchors, int *error)
{
    struct tls_verification *verification = process->verification;
    X509_STORE_CTX *at = X509_STORE_CTX_new();
    bool is_good = at != NULL && prepare(at, process, anchors) && X509_verify_cert(at) == 1 &&
                   X509_STORE_CTX_get_error(at) == X509_V_OK && verification->verdict == VERDICT_NONE;
    *error = at != NULL ? X509_STORE_CTX_get_error(at) : X509_V_ERR_OUT_OF_MEM;
    if (is_good)
        verification->chain = X509_STORE_CTX_get1_chain(at);
    X509_STORE_CTX_free(at);
    return is_good && verification->chain != NULL;
}

static bool lacks_root(int error)
{
    return error == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT || error == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY ||
           error == X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE || error == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT ||
           error == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN;
}

// What is configured is trusted, be it no root. But where there are revocation lists, an intermediate whose root is
// configured beside it is not where they end: the root's list may have it.
static bool verify_chain(struct tls_verification *verification, const struct trust *trust)
{
    struct process process = {.verification = verification, .trust = trust};
    int error;
    if (sk_X509_num(trust->listed) > 0) {
        if (verify_up_to(&process, 0, &error))
            return true;
        if (!lacks_root(error) || verification->verdict == VERDICT_NO_MEMORY)
            return false;
        verification->verdict = VERDICT_NONE;
        *verification->reason = '\0';
    }
    return verify_up_to(&process, X509_V_FLAG_PARTIAL_CHAIN, &error);
}

bool tls_verify_authority(const struct tls_context *context, const struct trust *trust, X509 *authority,
                          char out[VERIFY_REASON_SIZE])
{
    struct tls_verification verification = {.context = context};
    struct process process = {.verification = &verification, .trust = trust, .is_of_authority = true};
    int error = X509_V_OK;
    if (X509_up_ref(authority) != 1)
        return true;
    verification.certificate = authority;
    // What else is wrong with it, is told of when a peer comes with it.
    bool is_good =
        verify_up_to(&process, 0, &error) || (error != X509_V_ERR_CERT_REVOKED && !verify_is_about_lists(error));
    (void)snprintf(out, VERIFY_REASON_SIZE, "%s", verification.reason);
    tls_verification_release(&verification);
    return is_good;
}

// ---- the peer's own certificate, as far as X509_verify_cert() does not look at it

// Whether a target's is for the host. 1, 0, or below 0: libcrypto failed.
static int has_host(const struct tls_verification *verification, X509 *certificate)
{
    if (verification->address_length > 0)
        return X509_check_ip(certificate, verification->address, verification->address_length, 0);
    // A dot at its beginning would stand for every name below.
    if (verification->name == NULL || *verification->name == '.')
        return 0;
    size_t length = strlen(verification->name);
    if (length > 0 && verification->name[length - 1] == '.')
        length--;
    // The common name counts only where there is nothing else.
    bool has_others = X509_get_ext_by_NID(certificate, NID_subject_alt_name, -1) >= 0;
    unsigned flags =
        X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | (has_others ? (unsigned)X509_CHECK_FLAG_NEVER_CHECK_SUBJECT : 0);
    return X509_check_host(certificate, verification->name, length, flags, NULL);
}

// Whether it is for whom it is to be for. Likewise. A client is held to the authorized names, a target to those and,
// if it is strict, to its host as well: one of them will do.
static int has_name(struct tls_verification *verification, X509 *certificate)
{
    const struct tls_context *context = verification->context;
    const char *const *names = context->authorized_names;
    bool is_target = context->role == TLS_CLIENT;
    bool is_host_enough = is_target && context->verify_mode == VERIFY_STRICT;
    if (names == NULL && !is_host_enough)
        return 1;
    int found = names != NULL ? identity_find(certificate, names, is_target, verification->identity) : 0;
    return found == 0 && is_host_enough ? has_host(verification, certificate) : found;
}

static bool is_suitable(struct tls_verification *verification)
{
    X509 *certificate = sk_X509_value(verification->chain, 0);
    // Every suite that is spoken here has the peer sign. UINT32_MAX: it has no such extension.
    if ((X509_get_key_usage(certificate) & KU_DIGITAL_SIGNATURE) == 0) {
        tls_refuse(verification, ALERT(UNSUPPORTED_CERT), "the certificate's key is not for signatures (key usage)");
        return false;
    }
    int found = has_name(verification, certificate);
    if (found == 0 && verification->context->role == TLS_SERVER)
        verify_describe_unauthorized(verification);
    else if (found == 0)
        verify_describe_mismatch(verification);
    return found == 1;
}

void tls_verify(struct tls_verification *verification)
{
    const struct tls_entry *entry = verification->entry;
    const struct trust *trust = entry != NULL ? entry->trust : verification->context->trust;
    if (verification->verdict != VERDICT_NONE || verification->certificate == NULL || trust == NULL) {
        tls_refuse(verification, ALERT(INTERNAL_ERROR), "the certificate cannot be judged");
        return;
    }
    bool is_good = verify_chain(verification, trust) && is_suitable(verification);
    if (is_good)
        verification->verdict = VERDICT_ACCEPTED;
    else if (libcrypto_failed_for_memory())
        verification->verdict = VERDICT_NO_MEMORY;
    else
        tls_refuse(verification, ALERT(CERT_UNKNOWN), "the certificate does not verify");
    ERR_clear_error();
}

// ---- the last word

bool tls_verify_result(struct tls_verification *verification, const mbedtls_ssl_context *ssl, unsigned char *alert)
{
    if (verification->context->verify_mode == VERIFY_NONE)
        return true;
    uint32_t flags = mbedtls_ssl_get_verify_result(ssl);
    const mbedtls_x509_crt *shown = mbedtls_ssl_get_peer_cert(ssl);
    bool may_be_missing = verification->context->role == TLS_SERVER &&
                          verification->context->verify_mode == VERIFY_RELAXED &&
                          verification->context->authorized_names == NULL;
    if (shown == NULL && may_be_missing && flags == MBEDTLS_X509_BADCERT_MISSING && verification->received == 0)
        return true;
    // The key that has proven itself must be that of the certificate that was accepted.
    if (shown != NULL && flags == 0 && verification->verdict == VERDICT_ACCEPTED && verification->shown == shown)
        return true;
    if (shown == NULL)
        *alert = mbedtls_ssl_get_version_number(ssl) == MBEDTLS_SSL_VERSION_TLS1_3 ? ALERT(CERT_REQUIRED)
                                                                                   : ALERT(HANDSHAKE_FAILURE);
    else
        *alert = verification->verdict == VERDICT_REFUSED ? verification->alert : ALERT(UNSUPPORTED_CERT);
    (void)tls_verify_reason(verification, shown == NULL ? MBEDTLS_X509_BADCERT_MISSING : flags);
    return false;
}

const char *tls_verify_reason(struct tls_verification *verification, uint32_t flags)
{
    const char *words = "the certificate does not verify";
    if (flags != UINT32_MAX && (flags & (MBEDTLS_X509_BADCERT_MISSING | MBEDTLS_X509_BADCERT_SKIP_VERIFY)) != 0)
        words = verification->context->role == TLS_SERVER ? "the client sent no certificate"
                                                          : "the target sent no certificate";
    else if (flags != UINT32_MAX && (flags & (MBEDTLS_X509_BADCERT_BAD_PK | MBEDTLS_X509_BADCERT_BAD_KEY)) != 0)
        words = "the certificate's key is of a kind that is not supported";
    tls_refuse(verification, ALERT(CERT_UNKNOWN), "%s", words);
    return verification->reason;
}

X509 *tls_verified_certificate(const struct tls_verification *verification)
{
    return verification->verdict == VERDICT_ACCEPTED ? sk_X509_value(verification->chain, 0) : NULL;
}
