#include "identity.h"

#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/x509v3.h>

#include "bitflow/base/peer_name.h"
#include "bitflow/base/text.h"

#define ELLIPSIS "..."
#define DIGEST_SIZE 32
#define PIN_SIZE (sizeof PEER_NAME_PIN + sizeof "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")

// What is read of a certificate once, however many names it is held against.
struct subject {
    X509 *certificate;
    GENERAL_NAMES *names; // NULL: none
    unsigned uris;
    bool is_host;
    char pin[PIN_SIZE]; // empty: not made yet
};

static const int san_types[] = {[PEER_NAME_DNS] = GEN_DNS, [PEER_NAME_URI] = GEN_URI};

static void tell(enum peer_name_kind kind, const char *bytes, size_t length, char out[IDENTITY_SIZE])
{
    int needed = snprintf(out, IDENTITY_SIZE, "%s%.*s", peer_name_prefix(kind), (int)length, bytes);
    if (needed >= IDENTITY_SIZE)
        memcpy(out + text_cut(out, IDENTITY_SIZE - sizeof ELLIPSIS), ELLIPSIS, sizeof ELLIPSIS);
}

// The bytes of its n-th name of that kind. NULL: it is of another.
static const char *san_of(const struct subject *subject, enum peer_name_kind kind, int n, size_t *length)
{
    int type;
    const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(subject->names, n), &type);
    if (type != san_types[kind])
        return NULL;
    *length = (size_t)ASN1_STRING_length(value);
    return (const char *)ASN1_STRING_get0_data(value);
}

// The only common name, as text of one byte or UTF-8. NULL: there is none, or there are several.
static const char *common_name(const X509 *certificate, size_t *length)
{
    const X509_NAME *name = X509_get_subject_name(certificate);
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
    if (at < 0 || X509_NAME_get_index_by_NID(name, NID_commonName, at) >= 0)
        return NULL;
    const ASN1_STRING *value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));
    int type = ASN1_STRING_type(value);
    if (type != V_ASN1_UTF8STRING && type != V_ASN1_PRINTABLESTRING && type != V_ASN1_IA5STRING)
        return NULL;
    *length = (size_t)ASN1_STRING_length(value);
    return (const char *)ASN1_STRING_get0_data(value);
}

// "sha256/" and the digest in base64. False: libcrypto has failed.
static bool make_pin(struct subject *subject)
{
    unsigned char digest[DIGEST_SIZE];
    unsigned char *der = NULL;
    int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(subject->certificate), &der);
    bool is_good = length > 0 && EVP_Digest(der, (size_t)length, digest, NULL, EVP_sha256(), NULL) == 1;
    OPENSSL_free(der);
    if (!is_good)
        return false;
    memcpy(subject->pin, PEER_NAME_PIN, sizeof PEER_NAME_PIN);
    (void)EVP_EncodeBlock((unsigned char *)subject->pin + sizeof PEER_NAME_PIN - 1, digest, sizeof digest);
    return true;
}

static void begin(struct subject *subject, X509 *certificate, bool is_host)
{
    *subject = (struct subject){.certificate = certificate, .is_host = is_host};
    subject->names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    size_t length;
    for (int i = 0; i < sk_GENERAL_NAME_num(subject->names); i++)
        subject->uris += san_of(subject, PEER_NAME_URI, i, &length) != NULL;
}

static bool may_be_svid(const struct subject *subject)
{
    uint32_t usage = X509_get_key_usage(subject->certificate); // UINT32_MAX: it has no such extension
    bool signs_others = usage != UINT32_MAX && (usage & (KU_KEY_CERT_SIGN | KU_CRL_SIGN)) != 0;
    return subject->uris == 1 && X509_check_ca(subject->certificate) == 0 && !signs_others;
}

static bool has_san(const struct subject *subject, const char *wanted, char out[IDENTITY_SIZE])
{
    enum peer_name_kind kind = peer_name_kind_of(wanted);
    if (peer_name_is_spiffe(wanted) && !may_be_svid(subject))
        return false;
    for (int i = 0; i < sk_GENERAL_NAME_num(subject->names); i++) {
        size_t length;
        const char *bytes = san_of(subject, kind, i, &length);
        if (bytes == NULL || !peer_name_matches(wanted, bytes, length, subject->is_host))
            continue;
        tell(kind, bytes, length, out);
        return true;
    }
    return false;
}

static int has_name(struct subject *subject, const char *wanted, char out[IDENTITY_SIZE])
{
    size_t length = 0;
    const char *bytes;
    switch (peer_name_kind_of(wanted)) {
    case PEER_NAME_DNS:
    case PEER_NAME_URI:
        return has_san(subject, wanted, out);
    case PEER_NAME_CN:
        bytes = common_name(subject->certificate, &length);
        break;
    default:
        if (*subject->pin == '\0' && !make_pin(subject))
            return -1;
        bytes = subject->pin;
        length = strlen(subject->pin);
        break;
    }
    if (bytes == NULL || !peer_name_matches(wanted, bytes, length, subject->is_host))
        return 0;
    tell(peer_name_kind_of(wanted), bytes, length, out);
    return 1;
}

int identity_find(X509 *certificate, const char *const *names, bool is_host, char out[IDENTITY_SIZE])
{
    struct subject subject;
    int found = 0;
    begin(&subject, certificate, is_host);
    for (; found == 0 && *names != NULL; names++)
        found = has_name(&subject, *names, out);
    GENERAL_NAMES_free(subject.names);
    return found;
}

static bool describe_san(const struct subject *subject, enum peer_name_kind kind, char out[IDENTITY_SIZE])
{
    for (int i = 0; i < sk_GENERAL_NAME_num(subject->names); i++) {
        size_t length;
        const char *bytes = san_of(subject, kind, i, &length);
        if (bytes == NULL || !peer_name_is_plain(kind, bytes, length))
            continue;
        tell(kind, bytes, length, out);
        return true;
    }
    return false;
}

void identity_describe(X509 *certificate, char out[IDENTITY_SIZE])
{
    struct subject subject;
    size_t length;
    *out = '\0';
    begin(&subject, certificate, false);
    if (!describe_san(&subject, PEER_NAME_URI, out) && !describe_san(&subject, PEER_NAME_DNS, out)) {
        const char *bytes = common_name(certificate, &length);
        if (bytes != NULL && peer_name_is_plain(PEER_NAME_CN, bytes, length))
            tell(PEER_NAME_CN, bytes, length, out);
    }
    GENERAL_NAMES_free(subject.names);
}
