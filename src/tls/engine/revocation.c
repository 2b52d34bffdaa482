#include "revocation.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <mbedtls/asn1.h>
#include <mbedtls/md.h>
#include <mbedtls/pk.h>

#include "bitflow/base/compiler.h"
#include "certificate.h"

// The less that is wrong with a list, the later it stands: of several, the one that comes nearest is told of.
static const uint32_t order[] = {MBEDTLS_X509_BADCRL_BAD_KEY, MBEDTLS_X509_BADCRL_NOT_TRUSTED,
                                 MBEDTLS_X509_BADCRL_BAD_MD,  MBEDTLS_X509_BADCRL_FUTURE,
                                 MBEDTLS_X509_BADCRL_EXPIRED, 0,
                                 MBEDTLS_X509_BADCERT_REVOKED};

static size_t rank(uint32_t flag)
{
    size_t i = 0;
    while (i + 1 < ARRAY_LENGTH(order) && order[i] != flag)
        i++;
    return i;
}

static bool is_text(const mbedtls_x509_buf *value)
{
    return value->tag == MBEDTLS_ASN1_UTF8_STRING || value->tag == MBEDTLS_ASN1_PRINTABLE_STRING;
}

// Names are the same for mbedTLS if they differ in case or in the kind of string; so a list is found by the same rule
// as its issuer.
static bool is_same_name(const mbedtls_x509_name *a, const mbedtls_x509_name *b)
{
    for (; a != NULL && b != NULL; a = a->next, b = b->next) {
        bool is_same_value = a->val.len == b->val.len && a->val.tag == b->val.tag &&
                             (a->val.len == 0 || memcmp(a->val.p, b->val.p, a->val.len) == 0);
        bool is_same_text = a->val.len == b->val.len && is_text(&a->val) && is_text(&b->val) &&
                            strncasecmp((const char *)a->val.p, (const char *)b->val.p, a->val.len) == 0;
        if (a->oid.tag != b->oid.tag || a->oid.len != b->oid.len || memcmp(a->oid.p, b->oid.p, a->oid.len) != 0 ||
            (!is_same_value && !is_same_text) || a->MBEDTLS_PRIVATE(next_merged) != b->MBEDTLS_PRIVATE(next_merged))
            return false;
    }
    return a == NULL && b == NULL;
}

static bool is_signed_by(const mbedtls_x509_crl *list, mbedtls_x509_crt *issuer)
{
    unsigned char hash[MBEDTLS_MD_MAX_SIZE];
    const mbedtls_md_info_t *md = mbedtls_md_info_from_type(list->MBEDTLS_PRIVATE(sig_md));
    return md != NULL && mbedtls_md(md, list->tbs.p, list->tbs.len, hash) == 0 &&
           mbedtls_pk_verify_ext(list->MBEDTLS_PRIVATE(sig_pk), list->MBEDTLS_PRIVATE(sig_opts), &issuer->pk,
                                 list->MBEDTLS_PRIVATE(sig_md), hash, mbedtls_md_get_size(md),
                                 list->MBEDTLS_PRIVATE(sig).p, list->MBEDTLS_PRIVATE(sig).len) == 0;
}

// What one list of the issuer's name says.
static uint32_t judge(const mbedtls_x509_crl *list, const mbedtls_x509_crt *certificate, mbedtls_x509_crt *issuer)
{
    const mbedtls_x509_crt_profile *profile = &mbedtls_x509_crt_profile_default;
    if (mbedtls_x509_crt_check_key_usage(issuer, MBEDTLS_X509_KU_CRL_SIGN) != 0)
        return MBEDTLS_X509_BADCRL_BAD_KEY;
    if ((profile->allowed_mds & MBEDTLS_X509_ID_FLAG(list->MBEDTLS_PRIVATE(sig_md))) == 0 ||
        (profile->allowed_pks & MBEDTLS_X509_ID_FLAG(list->MBEDTLS_PRIVATE(sig_pk))) == 0)
        return MBEDTLS_X509_BADCRL_BAD_MD;
    if (!is_signed_by(list, issuer))
        return MBEDTLS_X509_BADCRL_NOT_TRUSTED;
    // Also an old list has it right: what is revoked stays so.
    if (certificate != NULL && mbedtls_x509_crt_is_revoked(certificate, list) != 0)
        return MBEDTLS_X509_BADCERT_REVOKED;
    if (mbedtls_x509_time_is_future(&list->this_update))
        return MBEDTLS_X509_BADCRL_FUTURE;
    return mbedtls_x509_time_is_past(&list->next_update) ? MBEDTLS_X509_BADCRL_EXPIRED : 0;
}

struct revocation revocation_check(const mbedtls_x509_crl *lists, const mbedtls_x509_crt *certificate,
                                   mbedtls_x509_crt *issuer)
{
    struct revocation result = {.flag = MBEDTLS_X509_BADCRL_NOT_TRUSTED};
    for (const mbedtls_x509_crl *list = lists; list != NULL && list->version != 0; list = list->next) {
        if (!is_same_name(&list->issuer, &issuer->subject))
            continue;
        uint32_t flag = judge(list, certificate, issuer);
        if (result.list == NULL || rank(flag) > rank(result.flag))
            result = (struct revocation){.flag = flag, .list = list};
    }
    return result;
}

bool revocation_is_partial(const mbedtls_x509_crl *list)
{
    static const unsigned char extensions[2] = {0x55, 0x1d}; // 2.5.29, of X.509's extensions
    enum { SEQUENCE = MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE, DELTA = 27, DISTRIBUTION_POINT = 28 };
    unsigned char *at = list->crl_ext.p;
    size_t length;
    if (at == NULL || mbedtls_asn1_get_tag(&at, at + list->crl_ext.len, &length, SEQUENCE) != 0)
        return false;
    unsigned char *end = at + length;
    while (at < end && mbedtls_asn1_get_tag(&at, end, &length, SEQUENCE) == 0) {
        unsigned char *next = at + length;
        if (mbedtls_asn1_get_tag(&at, next, &length, MBEDTLS_ASN1_OID) == 0 && length == 3 &&
            memcmp(at, extensions, sizeof extensions) == 0 && (at[2] == DELTA || at[2] == DISTRIBUTION_POINT))
            return true;
        at = next;
    }
    return false;
}

const char *revocation_words(const struct revocation *revocation, const mbedtls_x509_crt *issuer, char *out,
                             size_t size)
{
    char name[80];
    char date[CERTIFICATE_DATE_SIZE];
    (void)certificate_subject(&issuer->subject, name, sizeof name);
    const mbedtls_x509_crl *list = revocation->list;
    if (list == NULL) {
        (void)snprintf(out, size, "there is no revocation list of %s", name);
        return out;
    }
    switch (revocation->flag) {
    case MBEDTLS_X509_BADCRL_EXPIRED:
        if (list->next_update.year == 0)
            (void)snprintf(out, size, "the revocation list of %s does not say until when it holds (nextUpdate)", name);
        else
            (void)snprintf(out, size, "the revocation list of %s expired on %s", name,
                           certificate_date(&list->next_update, date));
        break;
    case MBEDTLS_X509_BADCRL_FUTURE:
        (void)snprintf(out, size, "the revocation list of %s is not valid before %s", name,
                       certificate_date(&list->this_update, date));
        break;
    case MBEDTLS_X509_BADCRL_BAD_MD:
        (void)snprintf(out, size, "the revocation list of %s is signed with too weak a hash", name);
        break;
    case MBEDTLS_X509_BADCRL_BAD_KEY:
        (void)snprintf(out, size, "%s is not for the signing of revocation lists (key usage)", name);
        break;
    default:
        (void)snprintf(out, size, "the revocation list of %s is signed by another key than the authority's", name);
    }
    return out;
}
