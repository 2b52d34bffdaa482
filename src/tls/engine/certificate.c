#include "certificate.h"

#include <string.h>

#include <mbedtls/oid.h>
#include <openssl/err.h>

static bool is_common_name(const mbedtls_x509_name *part)
{
    return part->oid.len == MBEDTLS_OID_SIZE(MBEDTLS_OID_AT_CN) &&
           memcmp(part->oid.p, MBEDTLS_OID_AT_CN, part->oid.len) == 0;
}

static unsigned san_kind(const mbedtls_x509_sequence *san)
{
    return (unsigned)san->buf.tag & MBEDTLS_ASN1_TAG_VALUE_MASK;
}

static void keep_better(enum name_match *best, enum name_match found)
{
    if (found > *best)
        *best = found;
}

size_t certificate_message_size(const mbedtls_x509_crt *chain)
{
    enum { MESSAGE_HEADER = 4, REQUEST_CONTEXT = 1, LIST_LENGTH = 3, LENGTH = 3, EXTENSIONS_LENGTH = 2 };
    size_t size = MESSAGE_HEADER + REQUEST_CONTEXT + LIST_LENGTH;
    for (; chain != NULL; chain = chain->next)
        size += LENGTH + chain->raw.len + EXTENSIONS_LENGTH;
    return size;
}

enum name_match certificate_matches_name(const mbedtls_x509_crt *certificate, const char *name)
{
    enum name_match best = NAME_DIFFERS;
    if (mbedtls_x509_crt_has_ext_type(certificate, MBEDTLS_X509_EXT_SUBJECT_ALT_NAME)) {
        for (const mbedtls_x509_sequence *san = &certificate->subject_alt_names; san != NULL; san = san->next) {
            if (san_kind(san) != MBEDTLS_X509_SAN_DNS_NAME || san->buf.p == NULL)
                continue;
            keep_better(&best, host_name_match((const char *)san->buf.p, san->buf.len, name));
        }
        return best;
    }
    for (const mbedtls_x509_name *part = &certificate->subject; part != NULL; part = part->next) {
        if (is_common_name(part))
            keep_better(&best, host_name_match((const char *)part->val.p, part->val.len, name));
    }
    return best;
}

bool certificate_matches_address(const mbedtls_x509_crt *certificate, const uint8_t *address, size_t length)
{
    for (const mbedtls_x509_sequence *san = &certificate->subject_alt_names; san != NULL; san = san->next)
        if (san_kind(san) == MBEDTLS_X509_SAN_IP_ADDRESS && san->buf.p != NULL && san->buf.len == length &&
            memcmp(san->buf.p, address, length) == 0)
            return true;
    return false;
}

X509 *certificate_read(const mbedtls_x509_crt *certificate)
{
    const unsigned char *at = certificate->raw.p;
    X509 *read = d2i_X509(NULL, &at, (long)certificate->raw.len);
    ERR_clear_error();
    return read;
}

static bool covers_name(const mbedtls_x509_crt *certificate, const unsigned char *name, size_t length)
{
    char text[HOST_NAME_MAX_LENGTH + 1];
    if (name == NULL || length >= sizeof text || memchr(name, '\0', length) != NULL)
        return false;
    memcpy(text, name, length);
    text[length] = '\0';
    return certificate_matches_name(certificate, text) != NAME_DIFFERS;
}

bool certificate_covers(const mbedtls_x509_crt *certificate, const mbedtls_x509_crt *other)
{
    bool has_name = false;
    bool has_sans = mbedtls_x509_crt_has_ext_type(other, MBEDTLS_X509_EXT_SUBJECT_ALT_NAME) != 0;
    for (const mbedtls_x509_sequence *san = &other->subject_alt_names; has_sans && san != NULL; san = san->next) {
        bool is_name = san_kind(san) == MBEDTLS_X509_SAN_DNS_NAME;
        bool is_address = san_kind(san) == MBEDTLS_X509_SAN_IP_ADDRESS;
        if ((is_name && !covers_name(certificate, san->buf.p, san->buf.len)) ||
            (is_address && !certificate_matches_address(certificate, san->buf.p, san->buf.len)))
            return false;
        has_name = has_name || is_name || is_address;
    }
    for (const mbedtls_x509_name *part = &other->subject; !has_sans && part != NULL; part = part->next) {
        if (!is_common_name(part))
            continue;
        if (!covers_name(certificate, part->val.p, part->val.len))
            return false;
        has_name = true;
    }
    return has_name;
}
