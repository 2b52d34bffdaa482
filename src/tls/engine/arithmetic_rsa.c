// mbedTLS's RSA operations, done by libcrypto: the public one of any key, the private one of those that have a twin.
// The contracts are those of mbedtls/rsa.h. libcrypto blinds what it is given, and takes the same time for every key of
// a size.
//
// Blinding is what a shortage of memory can spoil. Both libraries keep its two factors with the key, and change them
// with each signature; where an allocation fails between the one and the other, they no longer fit together, and what
// is signed from then on is wrong: with mbedTLS for good, with libcrypto for up to 32 signatures, which it gives out as
// good ones (BN_BLINDING_create_param() does not report it). Each holds its result against the public key, but before
// it takes the blinding off. So every result is held against it here, and a key that has failed gets fresh factors, or
// a fresh key signs in its place.

#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include "arithmetic_internal.h"
#include "bitflow/base/compiler.h"

#define RSA_SIZE_MAX 1024 // bytes: 8192 bits, which is mbedTLS's own limit, too
// FIPS 186-5, and what public CAs go by: 256 bits. mbedTLS takes any exponent below the modulus: to verify with one of
// 8192 bits takes half a second, and whoever connects to a listener that asks for certificates could have that.
#define EXPONENT_MAX 32

// ---- the public operation

static bool raise(const mbedtls_rsa_context *key, const unsigned char *input, unsigned char *output)
{
    unsigned char modulus[RSA_SIZE_MAX];
    unsigned char exponent[EXPONENT_MAX];
    size_t length = mbedtls_rsa_get_len(key);
    if (length > sizeof modulus || mbedtls_rsa_check_pubkey(key) != 0 ||
        mbedtls_rsa_export_raw(key, modulus, length, NULL, 0, NULL, 0, NULL, 0, exponent, sizeof exponent) != 0)
        return false;
    BN_CTX *context = BN_CTX_new();
    BIGNUM *n = BN_bin2bn(modulus, (int)length, NULL);
    BIGNUM *e = BN_bin2bn(exponent, sizeof exponent, NULL);
    BIGNUM *number = BN_bin2bn(input, (int)length, NULL);
    bool is_good = context != NULL && n != NULL && e != NULL && number != NULL && BN_cmp(number, n) < 0 &&
                   BN_mod_exp_mont(number, number, e, n, context, NULL) == 1 &&
                   BN_bn2binpad(number, output, (int)length) == (int)length;
    BN_clear_free(number);
    BN_free(e);
    BN_free(n);
    BN_CTX_free(context);
    return is_good;
}

int mbedtls_rsa_public(mbedtls_rsa_context *ctx, const unsigned char *input, unsigned char *output)
{
    const struct arithmetic_originals *originals;
    unsigned char exponent[EXPONENT_MAX]; // a longer one is not written
    bool is_ready = arithmetic_enter(RSA_PUBLIC, &originals);
    if (mbedtls_rsa_export_raw(ctx, NULL, 0, NULL, 0, NULL, 0, NULL, 0, exponent, sizeof exponent) != 0)
        return MBEDTLS_ERR_RSA_BAD_INPUT_DATA;
    if (arithmetic_leave(RSA_PUBLIC, is_ready && raise(ctx, input, output)))
        return 0;
    return originals->rsa_public == NULL ? MBEDTLS_ERR_RSA_PUBLIC_FAILED : originals->rsa_public(ctx, input, output);
}

// ---- private keys

// The numbers of a private key, as mbedTLS gives them and libcrypto takes them.
enum { N, P, Q, D, E, DP, DQ, QP, NUMBER_COUNT };
static const char *const names[NUMBER_COUNT] = {
    OSSL_PKEY_PARAM_RSA_N,         OSSL_PKEY_PARAM_RSA_FACTOR1,
    OSSL_PKEY_PARAM_RSA_FACTOR2,   OSSL_PKEY_PARAM_RSA_D,
    OSSL_PKEY_PARAM_RSA_E,         OSSL_PKEY_PARAM_RSA_EXPONENT1,
    OSSL_PKEY_PARAM_RSA_EXPONENT2, OSSL_PKEY_PARAM_RSA_COEFFICIENT1,
};

static bool write_native(const mbedtls_mpi *number, unsigned char *bytes, size_t length)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return mbedtls_mpi_write_binary_le(number, bytes, length) == 0;
#else
    return mbedtls_mpi_write_binary(number, bytes, length) == 0;
#endif
}

static EVP_PKEY *import_numbers(const mbedtls_mpi *numbers, unsigned char *room)
{
    OSSL_PARAM parameters[NUMBER_COUNT + 1];
    for (size_t i = 0; i < NUMBER_COUNT; i++) {
        size_t length = mbedtls_mpi_size(&numbers[i]);
        if (length == 0 || length > RSA_SIZE_MAX || !write_native(&numbers[i], room, length))
            return NULL;
        parameters[i] = OSSL_PARAM_construct_BN(names[i], room, length);
        room += length;
    }
    parameters[NUMBER_COUNT] = OSSL_PARAM_construct_end();
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    if (context != NULL && EVP_PKEY_fromdata_init(context) == 1)
        (void)EVP_PKEY_fromdata(context, &key, EVP_PKEY_KEYPAIR, parameters);
    EVP_PKEY_CTX_free(context);
    return key;
}

static EVP_PKEY *import(const mbedtls_rsa_context *key)
{
    mbedtls_mpi numbers[NUMBER_COUNT];
    EVP_PKEY *twin = NULL;
    const size_t size = (size_t)NUMBER_COUNT * RSA_SIZE_MAX;
    unsigned char *room = OPENSSL_malloc(size);
    for (size_t i = 0; i < NUMBER_COUNT; i++)
        mbedtls_mpi_init(&numbers[i]);
    if (room != NULL && mbedtls_rsa_export(key, &numbers[N], &numbers[P], &numbers[Q], &numbers[D], &numbers[E]) == 0 &&
        mbedtls_rsa_export_crt(key, &numbers[DP], &numbers[DQ], &numbers[QP]) == 0)
        twin = import_numbers(numbers, room);
    for (size_t i = 0; i < NUMBER_COUNT; i++)
        mbedtls_mpi_free(&numbers[i]); // wipes it
    OPENSSL_clear_free(room, size);
    return twin;
}

// ---- the private operation

enum outcome {
    OUTCOME_GOOD,
    OUTCOME_REFUSED, // no number below the modulus, which mbedTLS has its own error for; or no twin
    OUTCOME_FAILED,  // it should have: memory is short, or the result is wrong
};

static bool is_inverse(mbedtls_rsa_context *key, const unsigned char *input, const unsigned char *result)
{
    unsigned char back[RSA_SIZE_MAX];
    return mbedtls_rsa_public(key, result, back) == 0 && memcmp(back, input, mbedtls_rsa_get_len(key)) == 0;
}

static bool is_below_modulus(const mbedtls_rsa_context *key, const unsigned char *input)
{
    unsigned char modulus[RSA_SIZE_MAX];
    size_t length = mbedtls_rsa_get_len(key);
    return mbedtls_rsa_export_raw(key, modulus, length, NULL, 0, NULL, 0, NULL, 0, NULL, 0) == 0 &&
           memcmp(input, modulus, length) < 0;
}

// `result` has room for RSA_SIZE_MAX.
static enum outcome apply(EVP_PKEY *twin, mbedtls_rsa_context *key, const unsigned char *input, unsigned char *result)
{
    size_t length = mbedtls_rsa_get_len(key);
    size_t written = length;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, twin, NULL);
    bool is_good = context != NULL && EVP_PKEY_sign_init(context) == 1 &&
                   EVP_PKEY_CTX_set_rsa_padding(context, RSA_NO_PADDING) == 1 &&
                   EVP_PKEY_sign(context, result, &written, input, length) == 1 && written == length;
    EVP_PKEY_CTX_free(context);
    if (is_good && is_inverse(key, input, result))
        return OUTCOME_GOOD;
    return is_below_modulus(key, input) ? OUTCOME_FAILED : OUTCOME_REFUSED;
}

// In place of a twin whose blinding may be spoilt. Others may still be at work with that one.
static bool renew(struct key_twin *twin, const mbedtls_rsa_context *key)
{
    EVP_PKEY *fresh = import(key);
    if (fresh == NULL)
        return false;
    key_twin_replace(twin, fresh);
    return true;
}

static enum outcome sign(struct key_twin *twin, mbedtls_rsa_context *key, const unsigned char *input,
                         unsigned char *result)
{
    EVP_PKEY *held = key_twin_hold(twin);
    enum outcome outcome = held != NULL ? apply(held, key, input, result) : OUTCOME_FAILED;
    EVP_PKEY_free(held);
    return outcome;
}

EVP_PKEY *arithmetic_import_rsa(mbedtls_rsa_context *key)
{
    static const unsigned char trial[RSA_SIZE_MAX] = {0, 1};
    unsigned char result[RSA_SIZE_MAX];
    if (mbedtls_rsa_get_len(key) > RSA_SIZE_MAX)
        return NULL;
    EVP_PKEY *twin = import(key);
    if (twin != NULL && apply(twin, key, trial, result) == OUTCOME_GOOD)
        return twin;
    EVP_PKEY_free(twin);
    return NULL;
}

// ---- what mbedTLS calls

// A key with the same numbers, and no blinding yet.
static int import_fresh(const mbedtls_rsa_context *key, mbedtls_rsa_context *fresh)
{
    mbedtls_mpi numbers[E + 1];
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++)
        mbedtls_mpi_init(&numbers[i]);
    int status = mbedtls_rsa_export(key, &numbers[N], &numbers[P], &numbers[Q], &numbers[D], &numbers[E]);
    if (status == 0)
        status = mbedtls_rsa_import(fresh, &numbers[N], &numbers[P], &numbers[Q], &numbers[D], &numbers[E]);
    if (status == 0)
        status = mbedtls_rsa_complete(fresh);
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++)
        mbedtls_mpi_free(&numbers[i]); // wipes it
    return status;
}

// By mbedTLS itself, with a result that is held against the public key.
static int sign_once(const struct arithmetic_originals *originals, mbedtls_rsa_context *key,
                     int (*random)(void *, unsigned char *, size_t), void *argument, const unsigned char *input,
                     unsigned char *result)
{
    int status = originals->rsa_private(key, random, argument, input, result);
    return status != 0 || is_inverse(key, input, result) ? status : MBEDTLS_ERR_RSA_PRIVATE_FAILED;
}

// Nobody but mbedTLS can give a key fresh blinding: from when it is spoilt, each signature takes a key of its own.
static int sign_with_original(const struct arithmetic_originals *originals, mbedtls_rsa_context *key,
                              int (*random)(void *, unsigned char *, size_t), void *argument,
                              const unsigned char *input, unsigned char *result)
{
    if (originals->rsa_private == NULL || mbedtls_rsa_get_len(key) > RSA_SIZE_MAX)
        return MBEDTLS_ERR_RSA_PRIVATE_FAILED;
    int status = sign_once(originals, key, random, argument, input, result);
    if (status == 0 || status == MBEDTLS_ERR_RSA_BAD_INPUT_DATA) // as for what is not a key
        return status;
    mbedtls_rsa_context fresh;
    mbedtls_rsa_init(&fresh);
    if (import_fresh(key, &fresh) == 0)
        status = sign_once(originals, &fresh, random, argument, input, result);
    mbedtls_rsa_free(&fresh); // wipes it
    return status;
}

int mbedtls_rsa_private(mbedtls_rsa_context *ctx, int (*f_rng)(void *, unsigned char *, size_t), void *p_rng,
                        const unsigned char *input, unsigned char *output)
{
    const struct arithmetic_originals *originals;
    unsigned char result[RSA_SIZE_MAX];
    bool is_ready = arithmetic_enter(RSA_PRIVATE, &originals) && f_rng != NULL;
    struct key_twin *twin = is_ready ? key_twin_find(ctx) : NULL;
    enum outcome outcome = twin != NULL ? sign(twin, ctx, input, result) : OUTCOME_REFUSED;
    if (outcome == OUTCOME_FAILED && renew(twin, ctx)) {
        ERR_clear_error();
        outcome = sign(twin, ctx, input, result);
    }
    (void)arithmetic_leave(RSA_PRIVATE, outcome == OUTCOME_GOOD);
    // A failure is this connection's alone. The original would fare no better, and has blinding to spoil, too.
    int status = outcome == OUTCOME_GOOD     ? 0
                 : outcome == OUTCOME_FAILED ? MBEDTLS_ERR_RSA_PRIVATE_FAILED + MBEDTLS_ERR_MPI_ALLOC_FAILED
                                             : sign_with_original(originals, ctx, f_rng, p_rng, input, result);
    if (status == 0)
        memcpy(output, result, mbedtls_rsa_get_len(ctx));
    OPENSSL_cleanse(result, sizeof result);
    return status;
}
