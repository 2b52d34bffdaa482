// What there is to tell of a context's files that have been loaded anew.

#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/asn1.h>
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/x509.h>

#include "certificate.h"
#include "context_internal.h"
#include "x509_text.h"

struct teller {
    void (*tell)(void *argument, const struct tls_news *news);
    void *argument;
};

// Keeps the earlier one.
static void note_end(struct tls_news *news, const ASN1_TIME *time)
{
    struct tm parts;
    char text[sizeof news->valid_until];
    if (time == NULL || ASN1_TIME_to_tm(time, &parts) != 1 ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        return;
    if (*news->valid_until == '\0' || strcmp(text, news->valid_until) < 0)
        memcpy(news->valid_until, text, sizeof text);
}

static void describe_serial(const X509 *certificate, char *out, size_t size)
{
    BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), NULL);
    char *text = number != NULL ? BN_bn2hex(number) : NULL;
    (void)snprintf(out, size, "%s", text != NULL ? text : "");
    OPENSSL_free(text);
    BN_free(number);
}

// The first of a file.
static void describe(struct tls_news *news, const X509 *certificate)
{
    (void)x509_name_text(X509_get_subject_name(certificate), news->subject, sizeof news->subject);
    (void)x509_names(certificate, news->names, sizeof news->names);
    x509_fingerprint(certificate, news->fingerprint);
    describe_serial(certificate, news->serial, sizeof news->serial);
}

static bool is_same_chain(const mbedtls_x509_crt *a, const mbedtls_x509_crt *b)
{
    for (; a != NULL && b != NULL; a = a->next, b = b->next)
        if (a->raw.len != b->raw.len || memcmp(a->raw.p, b->raw.p, a->raw.len) != 0)
            return false;
    return a == b;
}

static void tell_chain(const struct teller *teller, const struct tls_entry *entry)
{
    struct tls_news news = {.what = "certificate", .path = entry->certificate_path};
    for (const mbedtls_x509_crt *part = &entry->chain; part != NULL; part = part->next) {
        X509 *certificate = certificate_read(part);
        if (certificate == NULL)
            continue; // mbedTLS takes some that libcrypto does not
        if (part == &entry->chain)
            describe(&news, certificate);
        note_end(&news, X509_get0_notAfter(certificate));
        news.count++;
        X509_free(certificate);
    }
    teller->tell(teller->argument, &news);
}

static void tell_authorities(const struct teller *teller, const char *path, const struct trust *trust)
{
    struct tls_news news = {.what = "authority", .path = path, .count = (unsigned)sk_X509_num(trust->authorities)};
    for (int i = 0; i < sk_X509_num(trust->authorities); i++)
        note_end(&news, X509_get0_notAfter(sk_X509_value(trust->authorities, i)));
    if (news.count > 0)
        describe(&news, sk_X509_value(trust->authorities, 0));
    *news.names = '\0';
    teller->tell(teller->argument, &news);
}

static void tell_lists(const struct teller *teller, const char *path, const struct trust *trust)
{
    struct tls_news news = {.what = "revocation list", .path = path, .count = (unsigned)sk_X509_CRL_num(trust->lists)};
    for (int i = 0; i < sk_X509_CRL_num(trust->lists); i++)
        note_end(&news, X509_CRL_get0_nextUpdate(sk_X509_CRL_value(trust->lists, i)));
    if (news.count > 0)
        (void)x509_name_text(X509_CRL_get_issuer(sk_X509_CRL_value(trust->lists, 0)), news.subject,
                             sizeof news.subject);
    teller->tell(teller->argument, &news);
}

// A trust's name has the hash of its authorities, and behind a slash that of its lists.
static size_t authorities_length(const struct trust *trust)
{
    return strcspn(trust->shared.name, "/");
}

static void compare_trust(const struct teller *teller, const struct tls_entry *entry, const struct tls_entry *before)
{
    const struct trust *now = entry->trust;
    const struct trust *then = before->trust;
    if (now == NULL || then == NULL || now == then)
        return;
    size_t length = authorities_length(now);
    if (length != authorities_length(then) || memcmp(now->shared.name, then->shared.name, length) != 0)
        tell_authorities(teller, entry->authority_path, now);
    if (entry->revocation_list_path != NULL &&
        strcmp(now->shared.name + length, then->shared.name + authorities_length(then)) != 0)
        tell_lists(teller, entry->revocation_list_path, now);
}

void tls_context_compare(const struct tls_context *context, const struct tls_context *before,
                         void (*tell)(void *argument, const struct tls_news *news), void *argument)
{
    const struct teller teller = {.tell = tell, .argument = argument};
    bool has_own_trust = false;
    for (size_t i = 0; i < context->entry_count && i < before->entry_count; i++) {
        const struct tls_entry *entry = &context->entries[i];
        if (entry->certificate_path != NULL && !is_same_chain(&entry->chain, &before->entries[i].chain))
            tell_chain(&teller, entry);
        compare_trust(&teller, entry, &before->entries[i]);
        has_own_trust = has_own_trust || entry->trust != NULL;
    }
    if (!has_own_trust && context->trust != NULL && context->trust != before->trust)
        tell_authorities(&teller, tls_system_authorities(), context->trust);
    ERR_clear_error();
}
