#include "pem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mbedtls/ecp.h>
#include <mbedtls/error.h>
#include <mbedtls/pem.h>
#include <mbedtls/platform_util.h>
#include <mbedtls/psa_util.h>

#include "context_internal.h"

#define BEGIN_ANY "-----BEGIN "
#define BEGIN(label) BEGIN_ANY label "-----"
#define END(label) "-----END " label "-----"
#define LABEL(label) {BEGIN(label), END(label)}

const struct pem_kind pem_certificate = {
    .label = "CERTIFICATE",
    .name = "certificate",
    .labels = {LABEL("CERTIFICATE"), LABEL("TRUSTED CERTIFICATE"), LABEL("X509 CERTIFICATE")},
};
const struct pem_kind pem_revocation_list = {
    .label = "X509 CRL",
    .name = "revocation list",
    .labels = {LABEL("X509 CRL")},
};

const char *pem_path(const char *path, char out[PEM_PATH_SIZE])
{
    size_t length = strlen(path);
    bool fits = length < PEM_PATH_SIZE;
    (void)snprintf(out, PEM_PATH_SIZE, "%s%s", fits ? "" : "...", fits ? path : path + length - (PEM_PATH_SIZE - 4));
    return out;
}

static bool invalid(struct error *error, const char *path, const char *what)
{
    char shown[PEM_PATH_SIZE];
    error_set(error, ERROR_INVALID, "%s %s", pem_path(path, shown), what);
    return false;
}

void pem_text_release(struct pem_text *text)
{
    if (text->bytes != NULL)
        mbedtls_platform_zeroize(text->bytes, text->length);
    free(text->bytes);
    *text = (struct pem_text){.bytes = NULL};
}

// Makes room for as much again; realloc() would leave a copy of a key behind.
static bool grow(struct pem_text *text, size_t *room)
{
    size_t larger = *room * 2;
    unsigned char *bytes = calloc(1, larger);
    if (bytes == NULL)
        return false;
    memcpy(bytes, text->bytes, text->length);
    mbedtls_platform_zeroize(text->bytes, text->length);
    free(text->bytes);
    text->bytes = bytes;
    *room = larger;
    return true;
}

// 0, or an errno.
static int read_all(int fd, struct pem_text *text)
{
    size_t room = 16384;
    text->length = 0;
    text->bytes = calloc(1, room);
    if (text->bytes == NULL)
        return ENOMEM;
    for (;;) {
        if (text->length + 1 == room && (room >= PEM_FILE_MAX || !grow(text, &room)))
            return room >= PEM_FILE_MAX ? EFBIG : ENOMEM;
        ssize_t got = read(fd, text->bytes + text->length, room - text->length - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno;
        if (got == 0)
            return 0;
        text->length += (size_t)got;
    }
}

bool pem_text_read(const char *path, struct pem_text *text, struct error *error)
{
    char shown[PEM_PATH_SIZE];
    struct pem_text read = {.bytes = NULL};
    struct stat status;
    // A FIFO or a device might make a reload wait for ever.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    bool is_open = fd >= 0 && fstat(fd, &status) == 0;
    bool is_regular = is_open && S_ISREG(status.st_mode);
    int failure = is_open ? 0 : errno;
    if (is_regular)
        failure = read_all(fd, &read);
    if (is_open && !is_regular) {
        (void)invalid(error, path, S_ISDIR(status.st_mode) ? "is a directory" : "is not a regular file");
    } else if (failure != 0) {
        error_set_errno(error, failure, "cannot read %s", pem_path(path, shown));
        pem_text_release(&read);
    } else {
        read.others_may_read = (status.st_mode & S_IROTH) != 0;
        *text = read;
    }
    if (fd >= 0)
        (void)close(fd);
    return is_regular && failure == 0;
}

// mbedTLS reads up to the first zero byte only.
static bool has_zeros(const struct pem_text *text)
{
    return strlen((const char *)text->bytes) != text->length;
}

// Says what is there in place of a block "-----BEGIN `wanted`-----".
static bool describe_contents(const char *path, const struct pem_text *text, const char *wanted, struct error *error)
{
    if (text->length == 0)
        return invalid(error, path, "is empty");
    if (text->bytes[0] == 0x30 && has_zeros(text))
        return invalid(error, path, "is DER; it must be PEM");
    if (has_zeros(text))
        return invalid(error, path, "is not a PEM file: it has zero bytes in it");
    const char *label = strstr((const char *)text->bytes, BEGIN_ANY);
    if (label == NULL)
        return invalid(error, path, "is not a PEM file");
    label += strlen(BEGIN_ANY);
    char shown[PEM_PATH_SIZE];
    error_set(error, ERROR_INVALID, "%s holds a %.*s, not a %s", pem_path(path, shown),
              (int)(strcspn(label, "-\r\n") % 40), label, wanted);
    return false;
}

// What certificates and keys may be of that mbedTLS does not know: found by its object identifier.
static const char *unsupported_kind(const unsigned char *der, size_t length)
{
    static const struct {
        const char *oid;
        size_t length;
        const char *name;
    } kinds[] = {
        {"\x06\x03\x2b\x65\x70", 5, "Ed25519"},
        {"\x06\x03\x2b\x65\x71", 5, "Ed448"},
        {"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a", 11, "RSASSA-PSS in place of plain RSA"},
        {"\x06\x07\x2a\x86\x48\xce\x38\x04\x01", 9, "DSA"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++)
        if (memmem(der, length, kinds[i].oid, kinds[i].length) != NULL)
            return kinds[i].name;
    return NULL;
}

// `what`: "certificate 2". The DER is that of the PEM block, empty if there is none.
static bool unusable(struct error *error, const char *path, const char *what, int status, const unsigned char *der,
                     size_t length)
{
    char shown[PEM_PATH_SIZE];
    const char *kind = length > 0 ? unsupported_kind(der, length) : NULL;
    const char *why = mbedtls_high_level_strerr(status);
    if (why == NULL)
        why = "unknown format";
    else if (strncmp(why, "PEM - ", 6) == 0)
        why = "its base64 is damaged";
    if (tls_is_memory_error(status))
        error_set(error, ERROR_NO_MEMORY, "%s: out of memory", pem_path(path, shown));
    else if (kind != NULL)
        error_set(error, ERROR_INVALID, "%s: %s uses %s, which is not supported", pem_path(path, shown), what, kind);
    else
        error_set(error, ERROR_INVALID, "%s: %s cannot be read (%.60s)", pem_path(path, shown), what, why);
    return false;
}

static bool has_cut_block(const char *path, const unsigned char *rest, const char *begin, struct error *error)
{
    return strstr((const char *)rest, begin) != NULL &&
           !invalid(error, path, "is cut short: its last block has no end");
}

// Moves on to the next block of the kind. NULL: there is none.
static const struct pem_label *find_block(const struct pem_kind *kind, const unsigned char **at)
{
    const char *found = (const char *)*at;
    for (; (found = strstr(found, BEGIN_ANY)) != NULL; found += strlen(BEGIN_ANY))
        for (const struct pem_label *label = kind->labels; label->begin != NULL; label++)
            if (strncmp(found, label->begin, strlen(label->begin)) == 0) {
                *at = (const unsigned char *)found;
                return label;
            }
    return NULL;
}

struct block_reader {
    const char *path;
    const struct pem_kind *kind;
    pem_take *take;
    void *into;
    unsigned count;
    unsigned bad;
    struct error first; // of the bad ones
};

// Takes the block at `*at`, and goes on behind it. False: nothing behind it is to be read.
static bool read_block(struct block_reader *reader, const struct pem_label *label, const unsigned char **at)
{
    mbedtls_pem_context pem;
    mbedtls_pem_init(&pem);
    size_t used = 0;
    size_t length = 0;
    int status = mbedtls_pem_read_buffer(&pem, label->begin, label->end, *at, NULL, 0, &used);
    bool has_end = status != MBEDTLS_ERR_PEM_NO_HEADER_FOOTER_PRESENT;
    const unsigned char *der = status == 0 ? mbedtls_pem_get_buffer(&pem, &length) : NULL;
    if (status == 0)
        status = reader->take(reader->into, der, length);
    if (has_end)
        reader->count++;
    if (has_end && status != 0) {
        char what[32];
        reader->bad++;
        (void)snprintf(what, sizeof what, "%s %u", reader->kind->name, reader->count);
        (void)unusable(&reader->first, reader->path, what, status, der, length);
    }
    mbedtls_pem_free(&pem);
    *at += used;
    return has_end && used > 0 && !tls_is_memory_error(status);
}

bool pem_parse_blocks(const char *path, const struct pem_text *text, const struct pem_kind *kind, pem_take *take,
                      void *into, unsigned *skipped, struct error *error)
{
    const unsigned char *at = text->bytes;
    struct block_reader reader = {.path = path, .kind = kind, .take = take, .into = into, .first = ERROR_INIT};
    if (has_zeros(text))
        return describe_contents(path, text, kind->label, error);
    const struct pem_label *label = find_block(kind, &at);
    while (label != NULL && read_block(&reader, label, &at))
        label = find_block(kind, &at);
    if (reader.first.code != ERROR_NO_MEMORY && label != NULL && has_cut_block(path, at, label->begin, error))
        return false;
    if (reader.count == 0)
        return describe_contents(path, text, kind->label, error);
    if (reader.bad == reader.count || (reader.bad > 0 && skipped == NULL) || reader.first.code == ERROR_NO_MEMORY) {
        error_set(error, reader.first.code, "%s", reader.first.text);
        return false;
    }
    if (skipped != NULL)
        *skipped = reader.bad;
    return true;
}

static int take_own(void *into, const unsigned char *der, size_t length)
{
    return mbedtls_x509_crt_parse_der(into, der, length);
}

bool pem_parse_certificates(const char *path, const struct pem_text *text, mbedtls_x509_crt *chain, struct error *error)
{
    return pem_parse_blocks(path, text, &pem_certificate, take_own, chain, NULL, error);
}

// A PKCS #8 key's DER names its kind.
static bool unusable_key(const char *path, const struct pem_text *text, int status, struct error *error)
{
    mbedtls_pem_context pem;
    mbedtls_pem_init(&pem);
    size_t used = 0;
    size_t length = 0;
    const unsigned char *der = NULL;
    if (mbedtls_pem_read_buffer(&pem, BEGIN("PRIVATE KEY"), END("PRIVATE KEY"), text->bytes, NULL, 0, &used) == 0)
        der = mbedtls_pem_get_buffer(&pem, &length);
    (void)unusable(error, path, "the key", status, der, length);
    mbedtls_pem_free(&pem);
    return false;
}

static const char *key_kind(const mbedtls_pk_context *key)
{
    const mbedtls_ecp_curve_info *curve = NULL;
    if (mbedtls_pk_get_type(key) == MBEDTLS_PK_ECKEY || mbedtls_pk_get_type(key) == MBEDTLS_PK_ECKEY_DH)
        curve = mbedtls_ecp_curve_info_from_grp_id(mbedtls_ecp_keypair_get_group_id(mbedtls_pk_ec(*key)));
    return curve != NULL ? curve->name : mbedtls_pk_get_name(key);
}

// Whether TLS, as it is spoken here, has signatures for it.
static bool is_usable_key(const char *path, const mbedtls_pk_context *key, struct error *error)
{
    psa_key_attributes_t attributes = PSA_KEY_ATTRIBUTES_INIT;
    char shown[PEM_PATH_SIZE];
    bool is_known = mbedtls_pk_get_psa_attributes(key, PSA_KEY_USAGE_SIGN_HASH, &attributes) == 0;
    psa_key_type_t type = psa_get_key_type(&attributes);
    size_t bits = psa_get_key_bits(&attributes);
    bool is_rsa = is_known && type == PSA_KEY_TYPE_RSA_KEY_PAIR;
    bool is_curve = is_known && type == PSA_KEY_TYPE_ECC_KEY_PAIR(PSA_ECC_FAMILY_SECP_R1) &&
                    (bits == 256 || bits == 384 || bits == 521);
    psa_reset_key_attributes(&attributes);
    if (is_rsa && bits < 2048)
        error_set(error, ERROR_INVALID, "%s: the key is too short: RSA with %zu bits, at least 2048 are needed",
                  pem_path(path, shown), bits);
    else if (!is_rsa && !is_curve)
        error_set(error, ERROR_INVALID, "%s: keys of the kind %s are not supported; RSA, P-256, P-384 and P-521 are",
                  pem_path(path, shown), key_kind(key));
    else
        return true;
    return false;
}

bool pem_parse_key(const char *path, const struct pem_text *text, mbedtls_pk_context *key, struct error *error)
{
    if (text->length == 0 || has_zeros(text) || strstr((const char *)text->bytes, "PRIVATE KEY-----") == NULL)
        return describe_contents(path, text, "PRIVATE KEY", error);
    int status = mbedtls_pk_parse_key(key, text->bytes, text->length + 1, NULL, 0, mbedtls_psa_get_random,
                                      MBEDTLS_PSA_RANDOM_STATE);
    if (status == MBEDTLS_ERR_PK_PASSWORD_REQUIRED || status == MBEDTLS_ERR_PK_PASSWORD_MISMATCH)
        return invalid(error, path, "holds an encrypted key; it must be one without a password");
    if (status == MBEDTLS_ERR_PK_KEY_INVALID_FORMAT && strstr((const char *)text->bytes, "-----END") == NULL)
        return invalid(error, path, "is cut short: its last block has no end");
    if (status != 0)
        return unusable_key(path, text, status, error);
    return is_usable_key(path, key, error);
}
