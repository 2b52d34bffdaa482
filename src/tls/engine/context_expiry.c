// What is right today and may be wrong tomorrow, or is odd: told to the log and by --check, never an error.

#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "certificate.h"
#include "context_internal.h"
#include "coverage.h"
#include "libcrypto.h"
#include "verify.h"
#include "x509_text.h"

struct report {
    const struct tls_context *context;
    int days;
    const char *proxy;
    struct diagnostics *diagnostics;
};

static void add_warning(const struct report *report, const struct named_file *file, const char *text)
{
    diagnostics_add(report->diagnostics, &(struct diagnostic){.severity = DIAGNOSTIC_WARNING,
                                                              .mark = file->mark,
                                                              .proxy = report->proxy,
                                                              .file = file->path,
                                                              .text = text});
}

// 0: it is none.
static int64_t seconds_of(const ASN1_TIME *time)
{
    struct tm parts;
    return ASN1_TIME_to_tm(time, &parts) == 1 ? (int64_t)timegm(&parts) : 0;
}

static void check_validity(const struct report *report, const struct named_file *file, const X509 *certificate)
{
    char subject[CERTIFICATE_SUBJECT_SIZE];
    char text[CERTIFICATE_SUBJECT_SIZE + 64];
    char date[CERTIFICATE_DATE_SIZE];
    const ASN1_TIME *from = X509_get0_notBefore(certificate);
    const ASN1_TIME *until = X509_get0_notAfter(certificate);
    int64_t now = (int64_t)time(NULL);
    const ASN1_TIME *when = until;
    const char *what = "expires on";
    if (seconds_of(until) < now) {
        what = "expired on";
    } else if (seconds_of(from) > now) {
        what = "is not valid before";
        when = from;
    } else if (seconds_of(until) >= now + (int64_t)report->days * 24 * 3600) {
        return;
    }
    (void)snprintf(text, sizeof text, "the certificate %s %s %s",
                   x509_name_text(X509_get_subject_name(certificate), subject, sizeof subject), what,
                   x509_date(when, date));
    add_warning(report, file, text);
}

// What libcrypto's default asks of peers' certificates, and so do others.
#define SECURITY_BITS_MIN 112

// The hash that a certificate is signed with, if it is too weak; NULL: it is not. Of a self-signed one nobody asks.
static const char *weak_hash_of(X509 *certificate)
{
    int hash = NID_undef;
    int bits = 0;
    if (X509_NAME_cmp(X509_get_subject_name(certificate), X509_get_issuer_name(certificate)) == 0 ||
        X509_get_signature_info(certificate, &hash, NULL, &bits, NULL) != 1 || bits >= SECURITY_BITS_MIN)
        return NULL;
    return OBJ_nid2sn(hash);
}

// Peers that verify it will not have it.
static void check_strength(const struct report *report, const struct named_file *file, X509 *certificate)
{
    char subject[CERTIFICATE_SUBJECT_SIZE];
    char text[CERTIFICATE_SUBJECT_SIZE + 96];
    const char *peers = report->context->role == TLS_SERVER ? "clients" : "servers";
    const char *hash = weak_hash_of(certificate);
    const EVP_PKEY *key = X509_get0_pubkey(certificate);
    (void)x509_name_text(X509_get_subject_name(certificate), subject, sizeof subject);
    if (hash != NULL) {
        (void)snprintf(text, sizeof text, "the certificate %s is signed with a weak hash, %s: most %s refuse it",
                       subject, hash, peers);
        add_warning(report, file, text);
    }
    if (key != NULL && EVP_PKEY_get_security_bits(key) < SECURITY_BITS_MIN) {
        (void)snprintf(text, sizeof text, "the certificate %s has a key of only %d bits: most %s refuse it", subject,
                       EVP_PKEY_get_bits(key), peers);
        add_warning(report, file, text);
    }
}

// Whether it asks for a stapled OCSP response in each handshake (RFC 7633, "must-staple").
static bool must_staple(const X509 *certificate)
{
    const long status_request = 5; // the TLS extension's number
    TLS_FEATURE *features = X509_get_ext_d2i(certificate, NID_tlsfeature, NULL, NULL);
    bool found = false;
    for (int i = 0; i < sk_ASN1_INTEGER_num(features); i++)
        found = found || ASN1_INTEGER_get(sk_ASN1_INTEGER_value(features, i)) == status_request;
    TLS_FEATURE_free(features);
    return found;
}

static void check_chain(const struct report *report, const struct named_file *file, const mbedtls_x509_crt *chain)
{
    bool is_in_order = true;
    for (const mbedtls_x509_crt *at = chain; at != NULL && at->raw.p != NULL; at = at->next) {
        const mbedtls_x509_crt *next = at->next;
        if (next != NULL && (at->issuer_raw.len != next->subject_raw.len ||
                             memcmp(at->issuer_raw.p, next->subject_raw.p, at->issuer_raw.len) != 0))
            is_in_order = false;
        X509 *certificate = certificate_read(at);
        if (certificate == NULL)
            continue;
        check_validity(report, file, certificate);
        check_strength(report, file, certificate);
        if (at == chain && report->context->role == TLS_SERVER && must_staple(certificate))
            add_warning(report, file,
                        "the certificate is to come with a stapled OCSP response (must-staple), which is never sent: "
                        "clients that insist on it, such as Firefox, refuse it");
        X509_free(certificate);
    }
    if (!is_in_order)
        add_warning(report, file, "the chain is not in order: each certificate is to follow the one it issued");
}

// More than an operator names one by one: a public bundle, which nearly always has some that have expired.
#define BUNDLE_MIN 20

static void check_authorities(const struct report *report, const struct named_file *file, const struct trust *trust)
{
    for (int i = 0; sk_X509_num(trust->authorities) < BUNDLE_MIN && i < sk_X509_num(trust->authorities); i++)
        check_validity(report, file, sk_X509_value(trust->authorities, i));
    if (trust->skipped > 0) {
        char text[96];
        (void)snprintf(text, sizeof text, "%u of the authority's certificates cannot be used, and are left out",
                       trust->skipped);
        add_warning(report, file, text);
    }
}

// Whether one of an issuer's lists says that there are deltas of it: libcrypto looks for none otherwise, unless the
// certificate says so.
static bool is_asked_for(const STACK_OF(X509_CRL) *lists, const X509_NAME *issuer)
{
    for (int i = 0; i < sk_X509_CRL_num(lists); i++) {
        const X509_CRL *list = sk_X509_CRL_value(lists, i);
        if (X509_NAME_cmp(X509_CRL_get_issuer(list), issuer) == 0 &&
            X509_CRL_get_ext_by_NID(list, NID_freshest_crl, -1) >= 0)
            return true;
    }
    return false;
}

static void check_lists(const struct report *report, const struct named_file *file, const struct trust *trust)
{
    for (int i = 0; i < sk_X509_CRL_num(trust->lists); i++) {
        const X509_CRL *list = sk_X509_CRL_value(trust->lists, i);
        char issuer[CERTIFICATE_SUBJECT_SIZE];
        char text[CERTIFICATE_SUBJECT_SIZE + 128];
        char date[CERTIFICATE_DATE_SIZE];
        if (libcrypto_is_delta(list) && !is_asked_for(trust->lists, X509_CRL_get_issuer(list))) {
            (void)snprintf(text, sizeof text,
                           "the delta of the revocation list of %s counts only for certificates that ask for it: the "
                           "list has no freshestCRL",
                           x509_name_text(X509_CRL_get_issuer(list), issuer, sizeof issuer));
            add_warning(report, file, text);
        }
        if (X509_cmp_current_time(X509_CRL_get0_nextUpdate(list)) > 0 || coverage_is_replaced(trust->lists, list))
            continue;
        (void)snprintf(text, sizeof text, "the revocation list of %s expired on %s: no certificate that it %s verifies",
                       x509_name_text(X509_CRL_get_issuer(list), issuer, sizeof issuer),
                       x509_date(X509_CRL_get0_nextUpdate(list), date),
                       coverage_is_partial(list) ? "is about" : "issued");
        add_warning(report, file, text);
    }
}

static bool is_issuer_told_of(const struct trust *trust, const X509 *certificate)
{
    char words[COVERAGE_WORDS_SIZE];
    for (int i = 0; i < sk_X509_num(trust->listed); i++) {
        const X509 *issuer = sk_X509_value(trust->listed, i);
        if (X509_NAME_cmp(X509_get_subject_name(issuer), X509_get_issuer_name(certificate)) == 0 &&
            coverage_of(trust, issuer, words) >= COVERAGE_EXPIRED)
            return true;
    }
    return false;
}

// An authority below another one is a part of all chains that lead over it.
static void check_authority_itself(const struct report *report, const struct named_file *file,
                                   const struct trust *trust, X509 *authority)
{
    char subject[CERTIFICATE_SUBJECT_SIZE];
    char words[VERIFY_REASON_SIZE];
    char text[CERTIFICATE_SUBJECT_SIZE + VERIFY_REASON_SIZE + 64];
    if (X509_NAME_cmp(X509_get_subject_name(authority), X509_get_issuer_name(authority)) == 0 ||
        tls_verify_authority(report->context, trust, authority, words) || is_issuer_told_of(trust, authority))
        return;
    (void)snprintf(text, sizeof text, "nothing that the authority %s issued verifies: %s",
                   x509_name_text(X509_get_subject_name(authority), subject, sizeof subject), words);
    add_warning(report, file, text);
}

// Once there is a revocation list, each authority needs a current one.
static void check_coverage(const struct report *report, const struct named_file *file, const struct trust *trust)
{
    for (int i = 0; i < sk_X509_num(trust->listed); i++) {
        char words[COVERAGE_WORDS_SIZE];
        char text[sizeof words + 64];
        X509 *authority = sk_X509_value(trust->listed, i);
        enum coverage coverage = coverage_of(trust, authority, words);
        // Of an expired list is warned already.
        if (coverage == COVERAGE_NONE || coverage == COVERAGE_UNCERTAIN) {
            (void)snprintf(text, sizeof text, "%s%s", words,
                           coverage == COVERAGE_NONE ? ": no certificate that it issued verifies" : "");
            add_warning(report, file, text);
        }
        check_authority_itself(report, file, trust, authority);
    }
}

static void check_entry(const struct report *report, const struct tls_entry *entry,
                        const struct certificate_config *config)
{
    if (entry->certificate_path != NULL)
        check_chain(report, &config->certificate, &entry->chain);
    if (entry->others_may_read_key)
        add_warning(report, &config->key, "every user of this host may read the key");
    if (entry->trust == NULL)
        return;
    check_authorities(report, &config->authority, entry->trust);
    check_lists(report, &config->revocation_list, entry->trust);
    check_coverage(report, &config->revocation_list, entry->trust);
}

void tls_context_check(const struct tls_context *context, const struct tls_config *config, int days, const char *proxy,
                       struct diagnostics *diagnostics)
{
    const struct report report = {.context = context, .days = days, .proxy = proxy, .diagnostics = diagnostics};
    for (size_t i = 0; i < context->entry_count; i++) {
        const struct tls_entry *entry = &context->entries[i];
        const struct certificate_config *certificate = &config->certificates[i];
        check_entry(&report, entry, certificate);
        if (context->verify_mode == VERIFY_NONE && entry->authority_path != NULL)
            add_warning(&report, &certificate->authority,
                        "the authority is not used: with verify_mode none nobody is verified");
    }
    ERR_clear_error();
}

int64_t tls_context_expiry(const struct tls_context *context)
{
    int64_t first = 0;
    for (size_t i = 0; i < context->entry_count; i++) {
        const struct tls_entry *entry = &context->entries[i];
        if (entry->certificate_path == NULL)
            continue;
        for (const mbedtls_x509_crt *at = &entry->chain; at != NULL && at->raw.p != NULL; at = at->next) {
            X509 *certificate = certificate_read(at);
            int64_t end = certificate != NULL ? seconds_of(X509_get0_notAfter(certificate)) : 0;
            first = first == 0 || (end != 0 && end < first) ? end : first;
            X509_free(certificate);
        }
    }
    return first;
}
