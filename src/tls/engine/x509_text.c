#include "x509_text.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>

#define ELLIPSIS "..."

static void cut(char *out, size_t size)
{
    memcpy(out + size - sizeof ELLIPSIS, ELLIPSIS, sizeof ELLIPSIS);
}

const char *x509_name_text(const X509_NAME *name, char *out, size_t size)
{
    // RFC 2253's way of quoting, in the order of the certificate.
    const unsigned long flags = XN_FLAG_SEP_CPLUS_SPC | XN_FLAG_FN_SN | XN_FLAG_DUMP_UNKNOWN_FIELDS |
                                ASN1_STRFLGS_ESC_2253 | ASN1_STRFLGS_ESC_CTRL | ASN1_STRFLGS_ESC_MSB |
                                ASN1_STRFLGS_UTF8_CONVERT | ASN1_STRFLGS_DUMP_UNKNOWN | ASN1_STRFLGS_DUMP_DER;
    BIO *text = BIO_new(BIO_s_mem());
    char *bytes = NULL;
    long length = 0;
    *out = '\0';
    if (text != NULL && X509_NAME_print_ex(text, name, 0, flags) >= 0)
        length = BIO_get_mem_data(text, &bytes);
    if (length <= 0)
        (void)snprintf(out, size, "(no subject)");
    else if (snprintf(out, size, "%.*s", (int)length, bytes) >= (int)size)
        cut(out, size);
    BIO_free(text);
    return out;
}

void x509_common_name(const X509_NAME *name, char *out, size_t size)
{
    *out = '\0';
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
    const ASN1_STRING *value = at >= 0 ? X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)) : NULL;
    if (value == NULL)
        return;
    const unsigned char *bytes = ASN1_STRING_get0_data(value);
    size_t length = (size_t)ASN1_STRING_length(value);
    int type = ASN1_STRING_type(value);
    if (length == 0 || length >= size || memchr(bytes, '\0', length) != NULL ||
        (type != V_ASN1_UTF8STRING && type != V_ASN1_PRINTABLESTRING && type != V_ASN1_IA5STRING))
        return;
    memcpy(out, bytes, length);
    out[length] = '\0';
}

static void describe_address(const ASN1_STRING *value, char *out, size_t size)
{
    char address[INET6_ADDRSTRLEN];
    int length = ASN1_STRING_length(value);
    if ((length == 4 || length == 16) &&
        inet_ntop(length == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(value), address, sizeof address) != NULL)
        (void)snprintf(out, size, "IP:%s", address);
}

static void describe_name(const GENERAL_NAME *san, char *out, size_t size)
{
    int type;
    const ASN1_STRING *value = GENERAL_NAME_get0_value(san, &type);
    const char *kind = type == GEN_DNS ? "DNS" : type == GEN_EMAIL ? "email" : type == GEN_URI ? "URI" : NULL;
    *out = '\0';
    if (type == GEN_IPADD)
        describe_address(value, out, size);
    if (kind == NULL)
        return;
    (void)snprintf(out, size, "%s:", kind);
    const unsigned char *bytes = ASN1_STRING_get0_data(value);
    size_t length = (size_t)ASN1_STRING_length(value);
    for (size_t i = 0, at = strlen(out); i < length && at + 1 < size; i++, at++) {
        out[at] = (char)(bytes[i] > ' ' && bytes[i] < 0x7f && bytes[i] != ',' ? bytes[i] : '?');
        out[at + 1] = '\0';
    }
}

const char *x509_names(const X509 *certificate, char *out, size_t size)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    size_t used = 0;
    *out = '\0';
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        char one[300];
        describe_name(sk_GENERAL_NAME_value(names, i), one, sizeof one);
        if (*one == '\0')
            continue;
        int more = snprintf(out + used, size - used, "%s%s", used > 0 ? ", " : "", one);
        if (more < 0 || (size_t)more >= size - used) {
            cut(out, size);
            break;
        }
        used += (size_t)more;
    }
    GENERAL_NAMES_free(names);
    return out;
}

const char *x509_date(const ASN1_TIME *time, char out[CERTIFICATE_DATE_SIZE])
{
    struct tm parts;
    if (time == NULL || ASN1_TIME_to_tm(time, &parts) != 1 ||
        strftime(out, CERTIFICATE_DATE_SIZE, "%Y-%m-%d", &parts) == 0)
        (void)snprintf(out, CERTIFICATE_DATE_SIZE, "(no date)");
    return out;
}

void x509_fingerprint(const X509 *certificate, char out[CERTIFICATE_FINGERPRINT_SIZE])
{
    unsigned char digest[32];
    *out = '\0';
    if (X509_digest(certificate, EVP_sha256(), digest, NULL) != 1)
        return;
    for (size_t i = 0; i < sizeof digest; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", digest[i]);
}
