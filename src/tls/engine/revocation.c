#include "revocation.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <mbedtls/asn1.h>
#include <mbedtls/md.h>
#include <mbedtls/oid.h>
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

static bool is_text(unsigned char tag)
{
    return tag == MBEDTLS_ASN1_UTF8_STRING || tag == MBEDTLS_ASN1_PRINTABLE_STRING;
}

// Names are the same for mbedTLS if they differ in case or in the kind of string; so a list is found by the same rule
// as its issuer. Both are DER, which mbedTLS has parsed: SEQUENCE OF SET OF SEQUENCE of a type and a value.
static bool is_same_name(const mbedtls_x509_buf *a, const mbedtls_x509_buf *b)
{
    unsigned char *at = a->p;
    unsigned char *other = b->p;
    const unsigned char *end = a->p + a->len;
    const unsigned char *other_end = b->p + b->len;
    while (at < end && other < other_end) {
        unsigned char tag = *at++;
        unsigned char other_tag = *other++;
        size_t length;
        size_t other_length;
        if (mbedtls_asn1_get_len(&at, end, &length) != 0 ||
            mbedtls_asn1_get_len(&other, other_end, &other_length) != 0 || length != other_length)
            return false;
        bool is_text_twice = is_text(tag) && is_text(other_tag);
        if (tag != other_tag && !is_text_twice)
            return false;
        if ((tag & MBEDTLS_ASN1_CONSTRUCTED) != 0)
            continue; // what is in it comes next
        if (memcmp(at, other, length) != 0 &&
            !(is_text_twice && strncasecmp((const char *)at, (const char *)other, length) == 0))
            return false;
        at += length;
        other += length;
    }
    return at == end && other == other_end;
}

// ---- the signature of a list, which mbedTLS has parsed and keeps to itself

struct list_signature {
    mbedtls_pk_type_t kind;
    mbedtls_md_type_t hash;
    mbedtls_pk_rsassa_pss_options pss; // of MBEDTLS_PK_RSASSA_PSS
    const unsigned char *bytes;
    size_t length;
};

// An optional field, with an explicit tag: where it ends. NULL: it is not there.
static const unsigned char *enter_field(unsigned char **at, const unsigned char *end, int number)
{
    size_t length;
    int tag = MBEDTLS_ASN1_CONTEXT_SPECIFIC | MBEDTLS_ASN1_CONSTRUCTED | number;
    return mbedtls_asn1_get_tag(at, end, &length, tag) == 0 ? *at + length : NULL;
}

// RFC 4055, 3.1: RSASSA-PSS-params, with its defaults.
static bool read_pss(const mbedtls_asn1_buf *parameters, struct list_signature *signature)
{
    mbedtls_asn1_buf algorithm;
    mbedtls_asn1_buf hash = {.tag = MBEDTLS_ASN1_OID};
    unsigned char *at = parameters->p;
    const unsigned char *end = at + parameters->len;
    signature->hash = MBEDTLS_MD_SHA1;
    signature->pss = (mbedtls_pk_rsassa_pss_options){.mgf1_hash_id = MBEDTLS_MD_SHA1, .expected_salt_len = 20};
    if (parameters->tag != (MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE))
        return false;
    const unsigned char *field = enter_field(&at, end, 0);
    if (field != NULL && (mbedtls_asn1_get_alg_null(&at, field, &algorithm) != 0 ||
                          mbedtls_oid_get_md_alg(&algorithm, &signature->hash) != 0))
        return false;
    field = enter_field(&at, end, 1); // MGF1, of which the parameters are again an algorithm: a hash
    if (field != NULL) {
        mbedtls_asn1_buf inner;
        if (mbedtls_asn1_get_alg(&at, field, &algorithm, &inner) != 0)
            return false;
        hash.p = inner.p;
        if (mbedtls_asn1_get_tag(&hash.p, inner.p + inner.len, &hash.len, MBEDTLS_ASN1_OID) != 0 ||
            mbedtls_oid_get_md_alg(&hash, &signature->pss.mgf1_hash_id) != 0)
            return false;
    }
    field = enter_field(&at, end, 2);
    return field == NULL || mbedtls_asn1_get_int(&at, field, &signature->pss.expected_salt_len) == 0;
}

// RFC 5280, 5.1: what follows the part that is signed.
static bool read_signature(const mbedtls_x509_crl *list, struct list_signature *signature)
{
    mbedtls_asn1_buf algorithm;
    mbedtls_asn1_buf parameters;
    unsigned char *at = list->tbs.p + list->tbs.len;
    const unsigned char *end = list->raw.p + list->raw.len;
    if (mbedtls_asn1_get_alg(&at, end, &algorithm, &parameters) != 0 ||
        mbedtls_oid_get_sig_alg(&algorithm, &signature->hash, &signature->kind) != 0 ||
        (signature->kind == MBEDTLS_PK_RSASSA_PSS && !read_pss(&parameters, signature)) ||
        mbedtls_asn1_get_bitstring_null(&at, end, &signature->length) != 0)
        return false;
    signature->bytes = at;
    return true;
}

static bool is_signed_by(const mbedtls_x509_crl *list, const struct list_signature *signature, mbedtls_x509_crt *issuer)
{
    unsigned char hash[MBEDTLS_MD_MAX_SIZE];
    const mbedtls_md_info_t *md = mbedtls_md_info_from_type(signature->hash);
    const void *options = signature->kind == MBEDTLS_PK_RSASSA_PSS ? &signature->pss : NULL;
    return md != NULL && mbedtls_md(md, list->tbs.p, list->tbs.len, hash) == 0 &&
           mbedtls_pk_verify_ext(signature->kind, options, &issuer->pk, signature->hash, hash, mbedtls_md_get_size(md),
                                 signature->bytes, signature->length) == 0;
}

// What one list of the issuer's name says.
static uint32_t judge(const mbedtls_x509_crl *list, const mbedtls_x509_crt *certificate, mbedtls_x509_crt *issuer)
{
    const mbedtls_x509_crt_profile *profile = &mbedtls_x509_crt_profile_default;
    struct list_signature signature;
    if (mbedtls_x509_crt_check_key_usage(issuer, MBEDTLS_X509_KU_CRL_SIGN) != 0)
        return MBEDTLS_X509_BADCRL_BAD_KEY;
    if (!read_signature(list, &signature))
        return MBEDTLS_X509_BADCRL_NOT_TRUSTED;
    if ((profile->allowed_mds & MBEDTLS_X509_ID_FLAG(signature.hash)) == 0 ||
        (profile->allowed_pks & MBEDTLS_X509_ID_FLAG(signature.kind)) == 0)
        return MBEDTLS_X509_BADCRL_BAD_MD;
    if (!is_signed_by(list, &signature, issuer))
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
        if (!is_same_name(&list->issuer_raw, &issuer->subject_raw))
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
        (void)snprintf(out, size, "%s may not sign revocation lists (key usage)", name);
        break;
    default:
        (void)snprintf(out, size, "the revocation list of %s is not signed with the authority's key", name);
    }
    return out;
}
