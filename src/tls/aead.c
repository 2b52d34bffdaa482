// A `struct aead` is an EVP_CIPHER_CTX that has had its key; a record sets the nonce only, and nothing is allocated.

#include "bitflow/tls/aead.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/conf.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

// Far above a TLS record; libcrypto counts in int.
#define LENGTH_MAX ((size_t)INT_MAX / 2)

size_t aead_key_size(enum aead_algorithm algorithm)
{
    return algorithm == AEAD_AES_128_GCM ? 16 : 32;
}

const char *aead_name(enum aead_algorithm algorithm)
{
    static const char *const names[AEAD_ALGORITHM_COUNT] = {[AEAD_AES_128_GCM] = "AES-128-GCM",
                                                            [AEAD_AES_256_GCM] = "AES-256-GCM",
                                                            [AEAD_CHACHA20_POLY1305] = "ChaCha20-Poly1305"};
    return names[algorithm];
}

// Looking a cipher up by name takes longer than sealing a record: once for the process, kept until its end. Written by
// aead_prepare() before there is another thread. NULL: a policy has left it out.
static EVP_CIPHER *ciphers[AEAD_ALGORITHM_COUNT];

// libcrypto's errors are a list: the first one is the cause of the others. It is empty afterwards. False.
static bool fail(struct error *error, const char *what)
{
    const char *data;
    int flags;
    char text[160] = "no reason is given";
    unsigned long code = ERR_peek_error_all(NULL, NULL, NULL, &data, &flags);
    const char *reason = ERR_SYSTEM_ERROR(code) ? strerrordesc_np(ERR_GET_REASON(code)) : ERR_reason_error_string(code);
    bool has_data = code != 0 && (flags & ERR_TXT_STRING) != 0 && *data != '\0';
    if (reason != NULL)
        (void)snprintf(text, sizeof text, "%s%s%s", reason, has_data ? ", " : "", has_data ? data : "");
    // It may be what stands in a file, whatever that is.
    for (char *at = text; *at != '\0'; at++)
        if (*at < ' ' || *at == 0x7f)
            *at = '?';
    bool is_memory = false;
    while ((code = ERR_get_error()) != 0)
        is_memory = is_memory || ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE;
    if (is_memory)
        error_set(error, ERROR_NO_MEMORY, "out of memory: %s", what);
    else
        error_set(error, ERROR_SYSTEM, "%s: %s", what, text);
    return false;
}

// By itself libcrypto would pass over what is wrong with its configuration, and go on without the policy in it.
static bool read_configuration(struct error *error)
{
    char what[160];
    unsigned long flags = CONF_MFLAGS_DEFAULT_SECTION;
    const char *asked = secure_getenv("OPENSSL_CONF"); // only what is asked for has to be there
    if (asked == NULL || *asked == '\0')
        flags |= CONF_MFLAGS_IGNORE_MISSING_FILE;
    char *path = CONF_get1_default_config_file();
    OPENSSL_INIT_SETTINGS *settings = OPENSSL_INIT_new();
    (void)snprintf(what, sizeof what, "libcrypto cannot use its configuration %s", path != NULL ? path : "");
    if (settings != NULL)
        OPENSSL_INIT_set_config_file_flags(settings, flags);
    bool is_read = path != NULL && settings != NULL && OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG, settings) == 1;
    OPENSSL_INIT_free(settings);
    OPENSSL_free(path);
    return is_read || fail(error, what);
}

// False: nobody can tell whether there is one. `missing`: there is none, and why.
static bool fetch(enum aead_algorithm algorithm, struct error *missing, struct error *error)
{
    char what[64];
    struct error why = ERROR_INIT;
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, aead_name(algorithm), NULL);
    bool is_unknown = cipher == NULL && ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_UNSUPPORTED;
    (void)snprintf(what, sizeof what, "libcrypto cannot provide %s", aead_name(algorithm));
    if (cipher == NULL)
        (void)fail(&why, what);
    ciphers[algorithm] = cipher;
    error_pass(is_unknown && why.code != ERROR_NO_MEMORY ? missing : error, &why);
    return cipher != NULL || (is_unknown && why.code != ERROR_NO_MEMORY);
}

bool aead_is_available(enum aead_algorithm algorithm)
{
    return ciphers[algorithm] != NULL;
}

static EVP_CIPHER_CTX *context_of(struct aead *aead)
{
    return (EVP_CIPHER_CTX *)aead;
}

struct aead *aead_create(enum aead_algorithm algorithm, const uint8_t *key, struct error *error)
{
    if (ciphers[algorithm] == NULL) {
        error_set(error, ERROR_SYSTEM, "libcrypto has no %s (is its configuration limiting it?)", aead_name(algorithm));
        return NULL;
    }
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context == NULL) {
        error_set(error, ERROR_NO_MEMORY, "no memory for a cipher's key");
        return NULL;
    }
    if (EVP_CipherInit_ex2(context, ciphers[algorithm], key, NULL, 1, NULL) != 1) {
        error_set(error, ERROR_SYSTEM, "libcrypto does not take a cipher's key");
        EVP_CIPHER_CTX_free(context);
        return NULL;
    }
    return (struct aead *)context;
}

void aead_destroy(struct aead **aead)
{
    EVP_CIPHER_CTX_free(context_of(*aead)); // wipes the key
    *aead = NULL;
}

static bool begin(EVP_CIPHER_CTX *context, bool is_sealing, const uint8_t *nonce, const uint8_t *additional,
                  size_t additional_length)
{
    int written;
    return EVP_CipherInit_ex2(context, NULL, NULL, nonce, is_sealing, NULL) == 1 &&
           (additional_length == 0 ||
            EVP_CipherUpdate(context, NULL, &written, additional, (int)additional_length) == 1);
}

static bool update(EVP_CIPHER_CTX *context, const uint8_t *in, size_t length, uint8_t *out)
{
    int written;
    return length == 0 || (EVP_CipherUpdate(context, out, &written, in, (int)length) == 1 && (size_t)written == length);
}

// `last`, if not NULL, is one more byte of plaintext.
static bool seal(struct aead *aead, const uint8_t *nonce, const uint8_t *additional, size_t additional_length,
                 const uint8_t *plain, size_t length, const uint8_t *last, uint8_t *out)
{
    EVP_CIPHER_CTX *context = context_of(aead);
    if (additional_length > LENGTH_MAX || length > LENGTH_MAX)
        return false;
    if (!begin(context, true, nonce, additional, additional_length) || !update(context, plain, length, out))
        return false;
    if (last != NULL && !update(context, last, 1, out + length++))
        return false;
    int written;
    return EVP_CipherFinal_ex(context, out + length, &written) == 1 && written == 0 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_SIZE, out + length) == 1;
}

bool aead_seal(struct aead *aead, const uint8_t nonce[AEAD_NONCE_SIZE], const uint8_t *additional,
               size_t additional_length, const uint8_t *plain, size_t length, uint8_t *out)
{
    return seal(aead, nonce, additional, additional_length, plain, length, NULL, out);
}

bool aead_seal_ending(struct aead *aead, const uint8_t nonce[AEAD_NONCE_SIZE], const uint8_t *additional,
                      size_t additional_length, const uint8_t *plain, size_t length, uint8_t last, uint8_t *out)
{
    return seal(aead, nonce, additional, additional_length, plain, length, &last, out);
}

bool aead_open(struct aead *aead, const uint8_t nonce[AEAD_NONCE_SIZE], const uint8_t *additional,
               size_t additional_length, const uint8_t *sealed, size_t length, uint8_t *out)
{
    EVP_CIPHER_CTX *context = context_of(aead);
    uint8_t tag[AEAD_TAG_SIZE];
    if (additional_length > LENGTH_MAX || length > LENGTH_MAX || length < AEAD_TAG_SIZE)
        return false;
    size_t plain = length - AEAD_TAG_SIZE;
    memcpy(tag, sealed + plain, sizeof tag);
    int written;
    uint8_t none[1]; // where Final could write, but these are stream ciphers
    bool is_good = begin(context, false, nonce, additional, additional_length) &&
                   EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_SIZE, tag) == 1 &&
                   update(context, sealed, plain, out) && EVP_CipherFinal_ex(context, none, &written) == 1;
    // Nobody is to get at what a forged record decrypts to.
    if (!is_good)
        memset(out, 0, plain);
    return is_good;
}

// What a provider makes only when it is needed, a self-test included, is made now.
static bool try_out(enum aead_algorithm algorithm, struct error *error)
{
    static const uint8_t key[AEAD_KEY_MAX];
    static const uint8_t nonce[AEAD_NONCE_SIZE];
    static const uint8_t plain[AEAD_TAG_SIZE];
    uint8_t out[sizeof plain + AEAD_TAG_SIZE];
    char what[64];
    struct aead *aead = aead_create(algorithm, key, error);
    if (aead == NULL)
        return false;
    bool works = aead_seal(aead, nonce, plain, sizeof plain, plain, sizeof plain, out) &&
                 aead_open(aead, nonce, plain, sizeof plain, out, sizeof out, out) &&
                 memcmp(out, plain, sizeof plain) == 0;
    aead_destroy(&aead);
    (void)snprintf(what, sizeof what, "libcrypto's %s does not work", aead_name(algorithm));
    return works || fail(error, what);
}

bool aead_prepare(struct error *error)
{
    struct error missing = ERROR_INIT;
    bool has_any = false;
    // At the process's end other threads may still be at work with it, or about to give back what is theirs of it: then
    // it must not clean up under their feet. It takes this only from whoever is the first to use it.
    if (OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL) != 1)
        return fail(error, "libcrypto cannot start");
    if (!read_configuration(error))
        return false;
    for (int i = 0; i < AEAD_ALGORITHM_COUNT; i++) {
        enum aead_algorithm algorithm = (enum aead_algorithm)i;
        if (ciphers[i] == NULL && !fetch(algorithm, &missing, error))
            return false;
        if (ciphers[i] != NULL && !try_out(algorithm, error))
            return false;
        has_any = has_any || ciphers[i] != NULL;
    }
    if (!has_any)
        error_set(error, ERROR_SYSTEM, "there is no cipher to protect TLS records with: %s", missing.text);
    return has_any;
}
