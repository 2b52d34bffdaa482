#include "certificate.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <mbedtls/md.h>
#include <mbedtls/oid.h>

#include "bitflow/base/compiler.h"

#define ELLIPSIS "..."

static void cut(char *out, size_t size)
{
    memcpy(out + size - sizeof ELLIPSIS, ELLIPSIS, sizeof ELLIPSIS);
}

const char *certificate_subject(const mbedtls_x509_name *name, char *out, size_t size)
{
    char whole[2048] = "";
    // What does not fit is cut by mbedTLS, too, which says so; the beginning is there.
    bool fits = mbedtls_x509_dn_gets(whole, sizeof whole, name) >= 0;
    int length = snprintf(out, size, "%s", *whole != '\0' ? whole : "(no subject)");
    if (!fits || (size_t)length >= size)
        cut(out, size);
    return out;
}

static bool is_common_name(const mbedtls_x509_name *part)
{
    return part->oid.len == MBEDTLS_OID_SIZE(MBEDTLS_OID_AT_CN) &&
           memcmp(part->oid.p, MBEDTLS_OID_AT_CN, part->oid.len) == 0;
}

void certificate_common_name(const mbedtls_x509_name *name, char *out, size_t size)
{
    *out = '\0';
    while (name != NULL && !is_common_name(name))
        name = name->next;
    if (name == NULL || name->val.len >= size || memchr(name->val.p, '\0', name->val.len) != NULL ||
        (name->val.tag != MBEDTLS_ASN1_UTF8_STRING && name->val.tag != MBEDTLS_ASN1_PRINTABLE_STRING &&
         name->val.tag != MBEDTLS_ASN1_IA5_STRING))
        return;
    memcpy(out, name->val.p, name->val.len);
    out[name->val.len] = '\0';
}

static unsigned san_kind(const mbedtls_x509_sequence *san)
{
    return (unsigned)san->buf.tag & MBEDTLS_ASN1_TAG_VALUE_MASK;
}

static void describe_name(const mbedtls_x509_sequence *san, char *out, size_t size)
{
    static const char *const kinds[] = {[MBEDTLS_X509_SAN_RFC822_NAME] = "email",
                                        [MBEDTLS_X509_SAN_DNS_NAME] = "DNS",
                                        [MBEDTLS_X509_SAN_UNIFORM_RESOURCE_IDENTIFIER] = "URI",
                                        [MBEDTLS_X509_SAN_IP_ADDRESS] = "IP"};
    unsigned kind = san_kind(san);
    char address[INET6_ADDRSTRLEN];
    *out = '\0';
    if (kind == MBEDTLS_X509_SAN_IP_ADDRESS) {
        int family = san->buf.len == 4 ? AF_INET : AF_INET6;
        if ((san->buf.len == 4 || san->buf.len == 16) && inet_ntop(family, san->buf.p, address, sizeof address) != NULL)
            (void)snprintf(out, size, "IP:%s", address);
        return;
    }
    if (san->buf.p == NULL || kind >= ARRAY_LENGTH(kinds) || kinds[kind] == NULL)
        return;
    (void)snprintf(out, size, "%s:", kinds[kind]);
    for (size_t i = 0, at = strlen(out); i < san->buf.len && at + 1 < size; i++, at++) {
        unsigned char byte = san->buf.p[i];
        out[at] = (char)(byte > ' ' && byte < 0x7f && byte != ',' ? byte : '?');
        out[at + 1] = '\0';
    }
}

const char *certificate_names(const mbedtls_x509_crt *certificate, char *out, size_t size)
{
    size_t used = 0;
    *out = '\0';
    for (const mbedtls_x509_sequence *san = &certificate->subject_alt_names; san != NULL; san = san->next) {
        char one[300];
        describe_name(san, one, sizeof one);
        if (*one == '\0')
            continue;
        int more = snprintf(out + used, size - used, "%s%s", used > 0 ? ", " : "", one);
        if (more < 0 || (size_t)more >= size - used) {
            cut(out, size);
            break;
        }
        used += (size_t)more;
    }
    return out;
}

const char *certificate_date(const mbedtls_x509_time *time, char out[CERTIFICATE_DATE_SIZE])
{
    // Parsed from digits, so that the remainders change nothing; the compiler does not know it.
    (void)snprintf(out, CERTIFICATE_DATE_SIZE, "%04u-%02u-%02u", (unsigned)time->year % 10000,
                   (unsigned)time->mon % 100, (unsigned)time->day % 100);
    return out;
}

void certificate_fingerprint(const mbedtls_x509_crt *certificate, char out[CERTIFICATE_FINGERPRINT_SIZE])
{
    unsigned char digest[32];
    *out = '\0';
    if (mbedtls_md(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), certificate->raw.p, certificate->raw.len, digest) != 0)
        return;
    for (size_t i = 0; i < sizeof digest; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

static void keep_better(enum name_match *best, enum name_match found)
{
    if (found > *best)
        *best = found;
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
