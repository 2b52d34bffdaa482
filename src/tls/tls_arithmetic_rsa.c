// mbedTLS's RSA operations, done by libcrypto: the public one of any key, the private one of those that have a twin.
// The contracts are those of mbedtls/rsa.h. libcrypto blinds what it is given, takes the same time for every key of a
// size, and holds the result against the public key before it lets it out.

#include <stdlib.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/mutex.h"
#include "tls_arithmetic_parts.h"

#define RSA_SIZE_MAX 1024 // bytes: 8192 bits; what is longer remains with mbedTLS
#define EXPONENT_MAX 8

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
    bool is_ready = arithmetic_enter(RSA_PUBLIC, &originals);
    if (arithmetic_leave(RSA_PUBLIC, is_ready && raise(ctx, input, output)))
        return 0;
    return originals->rsa_public == NULL ? MBEDTLS_ERR_RSA_PUBLIC_FAILED : originals->rsa_public(ctx, input, output);
}

// ---- private keys

struct rsa_twin {
    const mbedtls_rsa_context *key; // mbedTLS's; what a twin is found by
    EVP_PKEY *twin;
    struct rsa_twin *next;
};

#define BUCKETS 256 // as many thousands of keys as a configuration may have are then found quickly

static struct mutex lock = MUTEX_INIT;
static struct rsa_twin *buckets[BUCKETS] GUARDED_BY(lock);

static struct rsa_twin **bucket_of(const mbedtls_rsa_context *key) REQUIRES(lock)
{
    // Addresses of what is allocated end alike.
    return &buckets[((uintptr_t)key / 16 + (uintptr_t)key / 4096) % BUCKETS];
}

// The key is in use, so its twin lives on without the lock.
static EVP_PKEY *find_twin(const mbedtls_rsa_context *key)
{
    mutex_lock(&lock);
    const struct rsa_twin *at = *bucket_of(key);
    while (at != NULL && at->key != key)
        at = at->next;
    EVP_PKEY *twin = at != NULL ? at->twin : NULL;
    mutex_unlock(&lock);
    return twin;
}

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

bool rsa_twin_create(const mbedtls_pk_context *key, struct rsa_twin **twin, struct error *error)
{
    if (mbedtls_pk_get_type(key) != MBEDTLS_PK_RSA)
        return true;
    struct rsa_twin *made = calloc(1, sizeof *made);
    if (made == NULL) {
        error_set(error, ERROR_NO_MEMORY, "no memory for a private key");
        return false;
    }
    made->key = mbedtls_pk_rsa(*key);
    made->twin = import(made->key);
    if (made->twin == NULL) {
        free(made);
        return true;
    }
    mutex_lock(&lock);
    struct rsa_twin **bucket = bucket_of(made->key);
    made->next = *bucket;
    *bucket = made;
    mutex_unlock(&lock);
    *twin = made;
    return true;
}

void rsa_twin_destroy(struct rsa_twin **twin)
{
    struct rsa_twin *gone = *twin;
    *twin = NULL;
    if (gone == NULL)
        return;
    mutex_lock(&lock);
    struct rsa_twin **at = bucket_of(gone->key);
    while (*at != gone)
        at = &(*at)->next;
    *at = gone->next;
    mutex_unlock(&lock);
    EVP_PKEY_free(gone->twin); // wipes it
    free(gone);
}

// ---- the private operation

static bool apply(EVP_PKEY *key, size_t length, const unsigned char *input, unsigned char *output)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    size_t written = length;
    bool is_good = context != NULL && EVP_PKEY_sign_init(context) == 1 &&
                   EVP_PKEY_CTX_set_rsa_padding(context, RSA_NO_PADDING) == 1 &&
                   EVP_PKEY_sign(context, output, &written, input, length) == 1 && written == length;
    EVP_PKEY_CTX_free(context);
    return is_good;
}

int mbedtls_rsa_private(mbedtls_rsa_context *ctx, int (*f_rng)(void *, unsigned char *, size_t), void *p_rng,
                        const unsigned char *input, unsigned char *output)
{
    const struct arithmetic_originals *originals;
    bool is_ready = arithmetic_enter(RSA_PRIVATE, &originals) && f_rng != NULL;
    EVP_PKEY *twin = is_ready ? find_twin(ctx) : NULL;
    if (arithmetic_leave(RSA_PRIVATE, twin != NULL && apply(twin, mbedtls_rsa_get_len(ctx), input, output)))
        return 0;
    return originals->rsa_private == NULL ? MBEDTLS_ERR_RSA_PRIVATE_FAILED
                                          : originals->rsa_private(ctx, f_rng, p_rng, input, output);
}
