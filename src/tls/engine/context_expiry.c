// What is right today and may be wrong tomorrow, or is odd: told to the log and by --check, never an error.

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "certificate.h"
#include "context_internal.h"
#include "revocation.h"

struct report {
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

static void check_certificate(const struct report *report, const struct named_file *file,
                              const mbedtls_x509_crt *certificate)
{
    mbedtls_x509_time soon;
    char subject[CERTIFICATE_SUBJECT_SIZE];
    char text[CERTIFICATE_SUBJECT_SIZE + 64];
    char date[CERTIFICATE_DATE_SIZE];
    const char *what;
    time_t horizon = time(NULL) + (time_t)report->days * 24 * 3600;
    if (mbedtls_x509_time_is_past(&certificate->valid_to))
        what = "expired on";
    else if (mbedtls_x509_time_is_future(&certificate->valid_from))
        what = "is not valid before";
    else if (mbedtls_x509_time_gmtime(horizon, &soon) == 0 && mbedtls_x509_time_cmp(&certificate->valid_to, &soon) < 0)
        what = "expires on";
    else
        return;
    const mbedtls_x509_time *when = *what == 'i' ? &certificate->valid_from : &certificate->valid_to;
    (void)snprintf(text, sizeof text, "the certificate %s %s %s",
                   certificate_subject(&certificate->subject, subject, sizeof subject), what,
                   certificate_date(when, date));
    add_warning(report, file, text);
}

static void check_chain(const struct report *report, const struct named_file *file, const mbedtls_x509_crt *chain)
{
    bool is_in_order = true;
    for (const mbedtls_x509_crt *at = chain; at != NULL && at->raw.p != NULL; at = at->next) {
        check_certificate(report, file, at);
        const mbedtls_x509_crt *next = at->next;
        if (next != NULL && (at->issuer_raw.len != next->subject_raw.len ||
                             memcmp(at->issuer_raw.p, next->subject_raw.p, at->issuer_raw.len) != 0))
            is_in_order = false;
    }
    if (!is_in_order)
        add_warning(report, file, "the chain is not in order: each certificate is to follow the one it issued");
}

static bool has_current(const mbedtls_x509_crl *lists, const mbedtls_x509_buf *issuer)
{
    for (const mbedtls_x509_crl *list = lists; list != NULL && list->raw.p != NULL; list = list->next)
        if (list->issuer_raw.len == issuer->len && memcmp(list->issuer_raw.p, issuer->p, issuer->len) == 0 &&
            !mbedtls_x509_time_is_past(&list->next_update))
            return true;
    return false;
}

static void check_lists(const struct report *report, const struct named_file *file, const mbedtls_x509_crl *lists)
{
    for (const mbedtls_x509_crl *list = lists; list != NULL && list->raw.p != NULL; list = list->next) {
        char issuer[CERTIFICATE_SUBJECT_SIZE];
        char text[CERTIFICATE_SUBJECT_SIZE + 96];
        char date[CERTIFICATE_DATE_SIZE];
        if (has_current(lists, &list->issuer_raw))
            continue;
        (void)snprintf(
            text, sizeof text, "the revocation list of %s expired on %s: no certificate that it issued verifies",
            certificate_subject(&list->issuer, issuer, sizeof issuer), certificate_date(&list->next_update, date));
        add_warning(report, file, text);
    }
}

// Once there is a revocation list, each authority needs a current one.
static void check_coverage(const struct report *report, const struct named_file *file, const struct tls_entry *entry)
{
    for (const mbedtls_x509_crt *at = &entry->authorities; at != NULL && at->raw.p != NULL; at = at->next) {
        char words[160];
        char text[sizeof words + 64];
        struct revocation found = revocation_check(&entry->revoked, NULL, (mbedtls_x509_crt *)at);
        // A certificate that is not a CA's has issued nothing; an expired list has been warned of already.
        if (mbedtls_x509_crt_get_ca_istrue(at) != 1 || found.flag == 0 || found.flag == MBEDTLS_X509_BADCRL_EXPIRED)
            continue;
        (void)snprintf(text, sizeof text, "%s: no certificate that it issued verifies",
                       revocation_words(&found, at, words, sizeof words));
        add_warning(report, file, text);
    }
}

static void check_entry(const struct report *report, const struct tls_entry *entry,
                        const struct certificate_config *config)
{
    if (entry->certificate_path != NULL)
        check_chain(report, &config->certificate, &entry->chain);
    if (entry->others_may_read_key)
        add_warning(report, &config->key, "every user of this host may read the key");
    if (entry->skipped_authorities > 0) {
        char text[96];
        (void)snprintf(text, sizeof text, "%u of the authority's certificates cannot be used, and are left out",
                       entry->skipped_authorities);
        add_warning(report, &config->authority, text);
    }
    for (const mbedtls_x509_crt *at = &entry->authorities; at != NULL && at->raw.p != NULL; at = at->next)
        check_certificate(report, &config->authority, at);
    check_lists(report, &config->revocation_list, &entry->revoked);
    if (entry->revocation_list_path != NULL)
        check_coverage(report, &config->revocation_list, entry);
}

void tls_context_check(const struct tls_context *context, const struct tls_config *config, int days, const char *proxy,
                       struct diagnostics *diagnostics)
{
    const struct report report = {.days = days, .proxy = proxy, .diagnostics = diagnostics};
    for (size_t i = 0; i < context->entry_count; i++) {
        const struct tls_entry *entry = &context->entries[i];
        const struct certificate_config *certificate = &config->certificates[i];
        check_entry(&report, entry, certificate);
        if (context->verify_mode == VERIFY_NONE && entry->authority_path != NULL)
            add_warning(&report, &certificate->authority,
                        "the authority is not used: with verify_mode none nobody is verified");
    }
}

static int64_t seconds_of(const mbedtls_x509_time *time)
{
    struct tm parts = {.tm_year = time->year - 1900,
                       .tm_mon = time->mon - 1,
                       .tm_mday = time->day,
                       .tm_hour = time->hour,
                       .tm_min = time->min,
                       .tm_sec = time->sec};
    return (int64_t)timegm(&parts);
}

int64_t tls_context_expiry(const struct tls_context *context)
{
    int64_t first = 0;
    for (size_t i = 0; i < context->entry_count; i++) {
        const struct tls_entry *entry = &context->entries[i];
        if (entry->certificate_path == NULL)
            continue;
        for (const mbedtls_x509_crt *at = &entry->chain; at != NULL && at->raw.p != NULL; at = at->next) {
            int64_t end = seconds_of(&at->valid_to);
            first = first == 0 || end < first ? end : first;
        }
    }
    return first;
}
