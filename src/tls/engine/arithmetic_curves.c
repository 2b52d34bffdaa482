// mbedTLS's products and sums of points, done by libcrypto: X25519, P-256, P-384 and P-521. The contracts are those of
// mbedtls/ecp.h; libcrypto's products take the same time for every scalar.
//
// What a call needs is made for it and wiped after it: it takes less than 1 us of the 12 to 1000 that a product takes,
// and nothing secret stays behind, nor memory with a connection's thread.

#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/obj_mac.h>

#include "arithmetic_internal.h"
#include "bitflow/base/compiler.h"

#define COORDINATE_MAX 66 // P-521
#define POINT_MAX (1 + 2 * COORDINATE_MAX)
#define X25519_SIZE 32

struct curve {
    mbedtls_ecp_group_id id;
    int nid;
    size_t length;           // of a coordinate and of a scalar, in bytes
    unsigned long base_from; // the first OpenSSL that multiplies the base point faster than mbedTLS does
    EC_GROUP *group;
};

// P-384 as any curve, as it is before 3.2: 980 us, with mbedTLS's table of the base point 544.
static struct curve curves[] = {
    {MBEDTLS_ECP_DP_SECP256R1, NID_X9_62_prime256v1, 32, 0, NULL},
    {MBEDTLS_ECP_DP_SECP384R1, NID_secp384r1, 48, 0x30200000UL, NULL},
    {MBEDTLS_ECP_DP_SECP521R1, NID_secp521r1, COORDINATE_MAX, 0, NULL},
};

// Unlike the others it is a provider's, and a policy in libcrypto's configuration may leave it out.
static bool has_x25519;

bool arithmetic_curves_prepare(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(curves); i++) {
        curves[i].group = EC_GROUP_new_by_curve_name(curves[i].nid);
        if (curves[i].group == NULL)
            return false;
    }
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "X25519", NULL);
    has_x25519 = context != NULL;
    EVP_PKEY_CTX_free(context);
    return has_x25519 || ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_UNSUPPORTED;
}

bool arithmetic_has_x25519(void)
{
    return has_x25519;
}

static const struct curve *find_curve(mbedtls_ecp_group_id id)
{
    for (size_t i = 0; i < ARRAY_LENGTH(curves); i++)
        if (curves[i].id == id)
            return &curves[i];
    return NULL;
}

// A signature is a product of the base point, for the most part.
bool arithmetic_signs_on(const mbedtls_ecp_keypair *key)
{
    const struct curve *curve = find_curve(mbedtls_ecp_keypair_get_group_id(key));
    return curve != NULL && OpenSSL_version_num() >= curve->base_from;
}

static bool is_base(const mbedtls_ecp_group *group, const mbedtls_ecp_point *point)
{
    return mbedtls_ecp_point_cmp(point, &group->G) == 0;
}

static bool is_valid(const mbedtls_ecp_group *group, const mbedtls_mpi *scalar, const mbedtls_ecp_point *point)
{
    return mbedtls_ecp_check_privkey(group, scalar) == 0 && mbedtls_ecp_check_pubkey(group, point) == 0;
}

// What one product or sum needs of libcrypto.
struct work {
    const struct curve *curve;
    BN_CTX *context;
    BIGNUM *scalar;
    EC_POINT *point;
    EC_POINT *result;
};

static bool work_init(struct work *work, const struct curve *curve)
{
    *work = (struct work){.curve = curve,
                          .context = BN_CTX_new(),
                          .scalar = BN_new(),
                          .point = EC_POINT_new(curve->group),
                          .result = EC_POINT_new(curve->group)};
    return work->context != NULL && work->scalar != NULL && work->point != NULL && work->result != NULL;
}

static void work_release(struct work *work)
{
    EC_POINT_clear_free(work->result);
    EC_POINT_free(work->point);
    BN_clear_free(work->scalar);
    BN_CTX_free(work->context);
}

// BN_bin2bn() skips zeros in front one by one, which would tell of a secret's size: a one goes before all of them, and
// is taken away afterwards.
static bool take_scalar(const struct curve *curve, const mbedtls_mpi *from, BIGNUM *to)
{
    unsigned char bytes[1 + COORDINATE_MAX] = {1};
    bool is_good = mbedtls_mpi_write_binary(from, bytes + 1, curve->length) == 0 &&
                   BN_bin2bn(bytes, (int)(1 + curve->length), to) != NULL &&
                   BN_clear_bit(to, (int)(8 * curve->length)) == 1;
    OPENSSL_cleanse(bytes, sizeof bytes);
    BN_set_flags(to, BN_FLG_CONSTTIME);
    return is_good;
}

static bool take_point(struct work *work, const mbedtls_ecp_group *group, const mbedtls_ecp_point *from)
{
    unsigned char bytes[POINT_MAX];
    size_t length;
    return mbedtls_ecp_point_write_binary(group, from, MBEDTLS_ECP_PF_UNCOMPRESSED, &length, bytes, sizeof bytes) ==
               0 &&
           EC_POINT_oct2point(work->curve->group, work->point, bytes, length, work->context) == 1;
}

// What has been computed, as mbedTLS reads it: 0, or mbedTLS's error, and then `to` holds nothing.
static int give(const mbedtls_ecp_group *group, mbedtls_ecp_point *to, const unsigned char *bytes, size_t length)
{
    int status = mbedtls_ecp_point_read_binary(group, to, bytes, length);
    if (status != 0)
        mbedtls_ecp_point_free(to);
    return status;
}

// False: libcrypto refuses, or the result is the point at infinity. `bytes` has room for POINT_MAX.
static bool write_result(const struct work *work, unsigned char *bytes)
{
    size_t length = 1 + 2 * work->curve->length;
    return EC_POINT_point2oct(work->curve->group, work->result, POINT_CONVERSION_UNCOMPRESSED, bytes, POINT_MAX,
                              work->context) == length;
}

static bool multiply_on(const struct curve *curve, const mbedtls_ecp_group *group, const mbedtls_mpi *scalar,
                        const mbedtls_ecp_point *point, unsigned char *bytes)
{
    struct work work;
    bool is_good = work_init(&work, curve) && take_scalar(curve, scalar, work.scalar);
    if (is_good && is_base(group, point))
        is_good = EC_POINT_mul(curve->group, work.result, work.scalar, NULL, NULL, work.context) == 1;
    else
        is_good = is_good && take_point(&work, group, point) &&
                  EC_POINT_mul(curve->group, work.result, NULL, work.point, work.scalar, work.context) == 1;
    is_good = is_good && write_result(&work, bytes);
    work_release(&work);
    return is_good;
}

// A key of libcrypto's. `public_key` may be NULL beside a private one, and is computed then.
static EVP_PKEY *import_x25519(const unsigned char *private_key, const unsigned char *public_key)
{
    OSSL_PARAM parameters[3];
    size_t count = 0;
    if (private_key != NULL)
        parameters[count++] =
            OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PRIV_KEY, (void *)private_key, X25519_SIZE);
    if (public_key != NULL)
        parameters[count++] =
            OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)public_key, X25519_SIZE);
    parameters[count] = OSSL_PARAM_construct_end();
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "X25519", NULL);
    if (context != NULL && EVP_PKEY_fromdata_init(context) == 1)
        (void)EVP_PKEY_fromdata(context, &key, private_key != NULL ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY,
                                parameters);
    EVP_PKEY_CTX_free(context);
    return key;
}

static bool multiply_x25519_base(const unsigned char *scalar, unsigned char *bytes)
{
    size_t length = X25519_SIZE;
    EVP_PKEY *key = import_x25519(scalar, NULL);
    bool is_good = key != NULL && EVP_PKEY_get_raw_public_key(key, bytes, &length) == 1 && length == X25519_SIZE;
    EVP_PKEY_free(key);
    return is_good;
}

// The private key is given a public one that isn't its own: it would cost a second product to compute, and to derive
// a secret takes the private one and the peer's. (tls_arithmetic_init() sees that it does.)
static bool multiply_x25519_point(const unsigned char *scalar, const unsigned char *point, unsigned char *bytes)
{
    size_t length = X25519_SIZE;
    EVP_PKEY *key = import_x25519(scalar, point);
    EVP_PKEY *peer = import_x25519(NULL, point);
    EVP_PKEY_CTX *context = key != NULL ? EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL) : NULL;
    bool is_good = context != NULL && peer != NULL && EVP_PKEY_derive_init(context) == 1 &&
                   EVP_PKEY_derive_set_peer(context, peer) == 1 && EVP_PKEY_derive(context, bytes, &length) == 1 &&
                   length == X25519_SIZE;
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(peer);
    EVP_PKEY_free(key);
    return is_good;
}

static bool multiply_x25519(const mbedtls_ecp_group *group, const mbedtls_mpi *scalar, const mbedtls_ecp_point *point,
                            unsigned char *bytes)
{
    unsigned char secret[X25519_SIZE];
    unsigned char peer[X25519_SIZE];
    size_t length;
    bool is_good = mbedtls_mpi_write_binary_le(scalar, secret, sizeof secret) == 0;
    if (is_good && is_base(group, point))
        is_good = multiply_x25519_base(secret, bytes);
    else
        is_good = is_good &&
                  mbedtls_ecp_point_write_binary(group, point, MBEDTLS_ECP_PF_UNCOMPRESSED, &length, peer,
                                                 sizeof peer) == 0 &&
                  multiply_x25519_point(secret, peer, bytes);
    OPENSSL_cleanse(secret, sizeof secret);
    return is_good;
}

// Returns the length of the result in `bytes` (POINT_MAX); 0: the original is to do it.
static size_t multiply(const mbedtls_ecp_group *group, const mbedtls_mpi *scalar, const mbedtls_ecp_point *point,
                       unsigned char *bytes)
{
    if (group->id == MBEDTLS_ECP_DP_CURVE25519)
        return has_x25519 && is_valid(group, scalar, point) && multiply_x25519(group, scalar, point, bytes)
                   ? X25519_SIZE
                   : 0;
    const struct curve *curve = find_curve(group->id);
    if (curve == NULL || !is_valid(group, scalar, point))
        return 0;
    if (is_base(group, point) && OpenSSL_version_num() < curve->base_from)
        return 0;
    return multiply_on(curve, group, scalar, point, bytes) ? 1 + 2 * curve->length : 0;
}

// One of the points is the base, as in every verification of a signature: `base_scalar` is that one's.
static bool add_on(const struct curve *curve, const mbedtls_ecp_group *group, const mbedtls_mpi *base_scalar,
                   const mbedtls_mpi *scalar, const mbedtls_ecp_point *point, unsigned char *bytes)
{
    struct work work;
    BIGNUM *first = BN_new();
    bool is_good = work_init(&work, curve) && first != NULL && take_scalar(curve, base_scalar, first) &&
                   take_scalar(curve, scalar, work.scalar) && take_point(&work, group, point) &&
                   EC_POINT_mul(curve->group, work.result, first, work.point, work.scalar, work.context) == 1 &&
                   write_result(&work, bytes);
    BN_clear_free(first);
    work_release(&work);
    return is_good;
}

// Returns the length of the result in `bytes` (POINT_MAX); 0: the original is to do it.
static size_t add(const mbedtls_ecp_group *group, const mbedtls_mpi *m, const mbedtls_ecp_point *p,
                  const mbedtls_mpi *n, const mbedtls_ecp_point *q, unsigned char *bytes)
{
    const struct curve *curve = find_curve(group->id);
    if (curve == NULL || !is_valid(group, m, p) || !is_valid(group, n, q))
        return 0;
    bool is_done = is_base(group, p) ? add_on(curve, group, m, n, q, bytes)
                                     : is_base(group, q) && add_on(curve, group, n, m, p, bytes);
    return is_done ? 1 + 2 * curve->length : 0;
}

// Parameters are called as in mbedtls/ecp.h.
// NOLINTBEGIN(readability-identifier-naming)

int mbedtls_ecp_mul_restartable(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m,
                                const mbedtls_ecp_point *P, int (*f_rng)(void *, unsigned char *, size_t), void *p_rng,
                                mbedtls_ecp_restart_ctx *rs_ctx)
{
    const struct arithmetic_originals *originals;
    unsigned char bytes[POINT_MAX];
    bool is_ready = arithmetic_enter(CURVE_PRODUCT, &originals) && f_rng != NULL && rs_ctx == NULL;
    size_t length = is_ready ? multiply(grp, m, P, bytes) : 0;
    int status;
    if (arithmetic_leave(CURVE_PRODUCT, length > 0))
        status = give(grp, R, bytes, length);
    else if (originals->product != NULL)
        status = originals->product(grp, R, m, P, f_rng, p_rng, rs_ctx);
    else
        status = MBEDTLS_ERR_ECP_FEATURE_UNAVAILABLE;
    OPENSSL_cleanse(bytes, sizeof bytes);
    return status;
}

int mbedtls_ecp_mul(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m, const mbedtls_ecp_point *P,
                    int (*f_rng)(void *, unsigned char *, size_t), void *p_rng)
{
    return mbedtls_ecp_mul_restartable(grp, R, m, P, f_rng, p_rng, NULL);
}

int mbedtls_ecp_muladd_restartable(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m,
                                   const mbedtls_ecp_point *P, const mbedtls_mpi *n, const mbedtls_ecp_point *Q,
                                   mbedtls_ecp_restart_ctx *rs_ctx)
{
    const struct arithmetic_originals *originals;
    unsigned char bytes[POINT_MAX];
    bool is_ready = arithmetic_enter(CURVE_SUM, &originals) && rs_ctx == NULL;
    size_t length = is_ready ? add(grp, m, P, n, Q, bytes) : 0;
    if (arithmetic_leave(CURVE_SUM, length > 0))
        return give(grp, R, bytes, length);
    if (originals->sum == NULL)
        return MBEDTLS_ERR_ECP_FEATURE_UNAVAILABLE;
    return originals->sum(grp, R, m, P, n, Q, rs_ctx);
}

int mbedtls_ecp_muladd(mbedtls_ecp_group *grp, mbedtls_ecp_point *R, const mbedtls_mpi *m, const mbedtls_ecp_point *P,
                       const mbedtls_mpi *n, const mbedtls_ecp_point *Q)
{
    return mbedtls_ecp_muladd_restartable(grp, R, m, P, n, Q, NULL);
}

// NOLINTEND(readability-identifier-naming)
