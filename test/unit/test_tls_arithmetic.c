// The products and sums of points: known answers, mbedTLS's own functions as the measure of every other case, invalid
// scalars and points, aliases, and that mbedTLS's library comes to ours.

#include "arithmetic_rig.h"

#include <dlfcn.h>

#include <mbedtls/bignum.h>
#include <mbedtls/dhm.h>
#include <mbedtls/ecdh.h>
#include <mbedtls/ecjpake.h>
#include <mbedtls/rsa.h>
#include <mbedtls/sha256.h>
#include <mbedtls/sha512.h>

static const mbedtls_ecp_group_id ours[] = {MBEDTLS_ECP_DP_CURVE25519, MBEDTLS_ECP_DP_SECP256R1,
                                            MBEDTLS_ECP_DP_SECP384R1, MBEDTLS_ECP_DP_SECP521R1};
#define WEIERSTRASS 1 // the first of them

// ---- who does it

static void test_mbedtls_calls_our_functions(void **state)
{
    (void)state;
#define OURS(function) {#function, (uintptr_t)(function)} // asked for by its name, so that it is linked
    const struct {
        const char *name;
        uintptr_t function;
    } replaced[] = {OURS(mbedtls_ecp_mul),
                    OURS(mbedtls_ecp_mul_restartable),
                    OURS(mbedtls_ecp_muladd),
                    OURS(mbedtls_ecp_muladd_restartable),
                    OURS(mbedtls_rsa_public),
                    OURS(mbedtls_rsa_private),
                    OURS(mbedtls_ecdsa_write_signature_restartable),
                    OURS(mbedtls_internal_sha256_process),
                    OURS(mbedtls_internal_sha512_process)};
    Dl_info here;
    assert_int_not_equal(dladdr((const void *)(uintptr_t)tls_arithmetic_init, &here), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(replaced); i++) {
        Dl_info info;
        void *function = dlsym(RTLD_DEFAULT, replaced[i].name);
        assert_int_equal((uintptr_t)function, replaced[i].function);
        assert_int_not_equal(dladdr(function, &info), 0);
        if (info.dli_fbase != here.dli_fbase)
            fail_msg("%s is %s's", replaced[i].name, info.dli_fname);
        assert_ptr_not_equal(function, dlsym(RTLD_NEXT, replaced[i].name));
    }
    assert_memory_equal(tls_arithmetic_provider(), "libcrypto (OpenSSL 3.", 21);
}

// A call within mbedTLS's library.
static void test_a_key_exchange_is_done_by_libcrypto(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(ours); i++) {
        struct rig_curve curve;
        rig_curve_init(&curve, ours[i]);
        rig_random_point(&curve, &curve.p);
        assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.m, RIG_RANDOM), 0);
        unsigned long before = rig_done(CURVE_PRODUCT);
        assert_int_equal(mbedtls_ecdh_compute_shared(&curve.group, &curve.n, &curve.p, &curve.m, RIG_RANDOM), 0);
        assert_int_equal(rig_done(CURVE_PRODUCT), before + 1);
        rig_curve_release(&curve);
    }
}

static void test_the_self_tests_of_mbedtls_pass(void **state)
{
    (void)state;
    const struct arithmetic_counts before = arithmetic_counts;
    assert_int_equal(mbedtls_mpi_self_test(0), 0);
    assert_int_equal(mbedtls_ecp_self_test(0), 0);
    assert_int_equal(mbedtls_ecjpake_self_test(0), 0);
    assert_int_equal(mbedtls_dhm_self_test(0), 0);
    assert_int_equal(mbedtls_rsa_self_test(0), 0);
    assert_true(arithmetic_counts.done[CURVE_PRODUCT] > before.done[CURVE_PRODUCT]);
    assert_true(arithmetic_counts.done[RSA_PUBLIC] > before.done[RSA_PUBLIC]);
    assert_true(arithmetic_counts.entered[CURVE_SUM] > before.entered[CURVE_SUM]);
    assert_true(arithmetic_counts.entered[RSA_PRIVATE] > before.entered[RSA_PRIVATE]);
}

// ---- known answers

// RFC 7748, 5.2, with the scalars as the curve uses them, and 6.1; RFC 5903, 8. A point that is NULL is the base.
static const struct {
    mbedtls_ecp_group_id id;
    const char *scalar;
    const char *point;
    const char *product;
} known[] = {
    {MBEDTLS_ECP_DP_CURVE25519, "a046e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449a44",
     "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
     "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
    {MBEDTLS_ECP_DP_CURVE25519, "4866e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba4d",
     "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a413",
     "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"},
    {MBEDTLS_ECP_DP_CURVE25519, "70076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c6a", NULL,
     "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"},
    {MBEDTLS_ECP_DP_SECP256R1, "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433", NULL,
     "04dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180"
     "5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3"},
    {MBEDTLS_ECP_DP_SECP256R1, "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
     "04d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63"
     "56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
     "04d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"
     "522bde0af0d8585b8def9c183b5ae38f50235206a8674ecb5d98edb20eb153a2"},
    {MBEDTLS_ECP_DP_SECP384R1,
     "099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655e35b538041e649ee3faef896783ab194", NULL,
     "04667842d7d180ac2cde6f74f37551f55755c7645c20ef73e31634fe72b4c55ee6de3ac808acb4bdb4c88732aee95f41aa"
     "9482ed1fc0eeb9cafc4984625ccfc23f65032149e0e144ada024181535a0f38eeb9fcff3c2c947dae69b4c634573a81c"},
    {MBEDTLS_ECP_DP_SECP384R1,
     "099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655e35b538041e649ee3faef896783ab194",
     "04e558dbef53eecde3d3fccfc1aea08a89a987475d12fd950d83cfa41732bc509d0d1ac43a0336def96fda41d0774a3571"
     "dcfbec7aacf3196472169e838430367f66eebe3c6e70c416dd5f0c68759dd1fff83fa40142209dff5eaad96db9e6386c",
     "0411187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4d603135569b9e9d09cf5d4a270f59746"
     "a2a9f38ef5cafbe2347cf7ec24bdd5e624bc93bfa82771f40d1b65d06256a852c983135d4669f8792f2c1d55718afbb4"},
    {MBEDTLS_ECP_DP_SECP521R1,
     "0037ade9319a89f4dabdb3ef411aaccca5123c61acab57b5393dce47608172a095aa85a30fe1c2952c6771d937ba9777f595"
     "7b2639bab072462f68c27a57382d4a52",
     NULL,
     "040015417e84dbf28c0ad3c278713349dc7df153c897a1891bd98bab4357c9ecbee1e3bf42e00b8e380aeae57c2d10756494"
     "1885942af5a7f4601723c4195d176ced3e"
     "017cae20b6641d2eeb695786d8c946146239d099e18e1d5a514c739d7cb4a10ad8a788015ac405d7799dc75e7b7d5b6cf226"
     "1a6a7f1507438bf01beb6ca3926f9582"},
    {MBEDTLS_ECP_DP_SECP521R1,
     "0037ade9319a89f4dabdb3ef411aaccca5123c61acab57b5393dce47608172a095aa85a30fe1c2952c6771d937ba9777f595"
     "7b2639bab072462f68c27a57382d4a52",
     "0400d0b3975ac4b799f5bea16d5e13e9af971d5e9b984c9f39728b5e5739735a219b97c356436adc6e95bb0352f6be64a6c2"
     "912d4ef2d0433ced2b6171640012d9460f"
     "015c68226383956e3bd066e797b623c27ce0eac2f551a10c2c724d9852077b87220b6536c5c408a1d2aebb8e86d678ae49cb"
     "57091f4732296579ab44fcd17f0fc56a",
     "0401144c7d79ae6956bc8edb8e7c787c4521cb086fa64407f97894e5e6b2d79b04d1427e73ca4baa240a34786859810c06b3"
     "c715a3a8cc3151f2bee417996d19f3ddea"
     "01b901e6b17db2947ac017d853ef1c1674e5cfe59cda18d078e05d1b5242adaa9ffc3c63ea05edb1e13ce5b3a8e50c3eb622"
     "e8da1b38e0bdd1f88569d6c99baffa43"},
};

static void test_products_match_known_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(known); i++) {
        struct rig_curve curve;
        uint8_t bytes[256];
        uint8_t result[256];
        size_t length = from_hex(known[i].scalar, bytes, sizeof bytes);
        rig_curve_init(&curve, known[i].id);
        if (known[i].id == MBEDTLS_ECP_DP_CURVE25519)
            assert_int_equal(mbedtls_mpi_read_binary_le(&curve.m, bytes, length), 0);
        else
            assert_int_equal(mbedtls_mpi_read_binary(&curve.m, bytes, length), 0);
        const mbedtls_ecp_point *point = &curve.group.G;
        if (known[i].point != NULL) {
            length = from_hex(known[i].point, bytes, sizeof bytes);
            assert_int_equal(mbedtls_ecp_point_read_binary(&curve.group, &curve.p, bytes, length), 0);
            point = &curve.p;
        }
        assert_int_equal(mbedtls_ecp_mul(&curve.group, &curve.r, &curve.m, point, RIG_RANDOM), 0);
        size_t written;
        length = from_hex(known[i].product, bytes, sizeof bytes);
        assert_int_equal(mbedtls_ecp_point_write_binary(&curve.group, &curve.r, MBEDTLS_ECP_PF_UNCOMPRESSED, &written,
                                                        result, sizeof result),
                         0);
        assert_int_equal(written, length);
        assert_memory_equal(result, bytes, length);
        rig_curve_release(&curve);
    }
}

// ---- mbedTLS's own functions as the measure

// `is_done`: libcrypto must have had the result.
static void compare_product(struct rig_curve *curve, const mbedtls_ecp_point *point, bool is_done)
{
    unsigned long before = rig_done(CURVE_PRODUCT);
    int expected = rig_originals->product(&curve->group, &curve->expected, &curve->m, point, RIG_RANDOM, NULL);
    int status = mbedtls_ecp_mul(&curve->group, &curve->r, &curve->m, point, RIG_RANDOM);
    assert_int_equal(status, expected);
    if (status == 0)
        assert_int_equal(mbedtls_ecp_point_cmp(&curve->r, &curve->expected), 0);
    if (is_done)
        assert_int_equal(rig_done(CURVE_PRODUCT), before + 1);
}

static void test_random_products_match_those_of_mbedtls(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(ours); i++) {
        struct rig_curve curve;
        rig_curve_init(&curve, ours[i]);
        for (int round = 0; round < 40; round++) {
            assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.m, RIG_RANDOM), 0);
            rig_random_point(&curve, &curve.p);
            compare_product(&curve, &curve.p, true);
            // Of P-384 before OpenSSL 3.2, mbedTLS multiplies the base point.
            compare_product(&curve, &curve.group.G,
                            ours[i] != MBEDTLS_ECP_DP_SECP384R1 || OPENSSL_VERSION_PREREQ(3, 2));
        }
        rig_curve_release(&curve);
    }
}

static void test_scalars_at_the_edges_match_mbedtls(void **state)
{
    (void)state;
    for (size_t i = WEIERSTRASS; i < ARRAY_LENGTH(ours); i++) {
        struct rig_curve curve;
        rig_curve_init(&curve, ours[i]);
        rig_random_point(&curve, &curve.p);
        for (int scalar = -2; scalar <= 4; scalar++) {
            assert_int_equal(mbedtls_mpi_lset(&curve.m, scalar), 0);
            compare_product(&curve, &curve.p, scalar >= 1);
            compare_product(&curve, &curve.group.G, false);
            // From the order on upwards, and below it.
            assert_int_equal(mbedtls_mpi_add_int(&curve.m, &curve.group.N, scalar), 0);
            compare_product(&curve, &curve.p, scalar < 0);
            compare_product(&curve, &curve.group.G, false);
        }
        for (size_t bit = 0; bit < curve.group.nbits; bit += 13) {
            assert_int_equal(mbedtls_mpi_lset(&curve.m, 1), 0);
            assert_int_equal(mbedtls_mpi_shift_l(&curve.m, bit), 0);
            compare_product(&curve, &curve.p, true);
        }
        rig_curve_release(&curve);
    }
}

static void test_the_other_curves_remain_with_mbedtls(void **state)
{
    (void)state;
    unsigned others = 0;
    for (const mbedtls_ecp_curve_info *info = mbedtls_ecp_curve_list(); info->grp_id != MBEDTLS_ECP_DP_NONE; info++) {
        bool is_ours = false;
        for (size_t i = 0; i < ARRAY_LENGTH(ours); i++)
            is_ours = is_ours || ours[i] == info->grp_id;
        if (is_ours)
            continue;
        struct rig_curve curve;
        rig_curve_init(&curve, info->grp_id);
        assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.m, RIG_RANDOM), 0);
        rig_random_point(&curve, &curve.p);
        unsigned long before = rig_done(CURVE_PRODUCT);
        compare_product(&curve, &curve.p, false);
        assert_int_equal(rig_done(CURVE_PRODUCT), before);
        rig_curve_release(&curve);
        others++;
    }
    assert_true(others > 0);
}

// ---- what is refused

static void expect_refusal(struct rig_curve *curve, const mbedtls_ecp_point *point, int status)
{
    compare_product(curve, point, false);
    assert_int_equal(mbedtls_ecp_mul_restartable(&curve->group, &curve->r, &curve->m, point, RIG_RANDOM, NULL), status);
}

static void test_invalid_points_are_refused(void **state)
{
    (void)state;
    for (size_t i = WEIERSTRASS; i < ARRAY_LENGTH(ours); i++) {
        struct rig_curve curve;
        rig_curve_init(&curve, ours[i]);
        assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.m, RIG_RANDOM), 0);
        assert_int_equal(mbedtls_ecp_set_zero(&curve.p), 0);
        expect_refusal(&curve, &curve.p, MBEDTLS_ERR_ECP_INVALID_KEY);
        rig_random_point(&curve, &curve.p);
        mbedtls_mpi *x = &curve.p.MBEDTLS_PRIVATE(X);
        mbedtls_mpi *y = &curve.p.MBEDTLS_PRIVATE(Y);
        mbedtls_mpi *z = &curve.p.MBEDTLS_PRIVATE(Z);
        assert_int_equal(mbedtls_mpi_lset(z, 2), 0); // not affine
        expect_refusal(&curve, &curve.p, MBEDTLS_ERR_ECP_INVALID_KEY);
        assert_int_equal(mbedtls_mpi_lset(z, 1), 0);
        compare_product(&curve, &curve.p, true);
        assert_int_equal(mbedtls_mpi_add_int(y, y, 1), 0); // beside the curve
        expect_refusal(&curve, &curve.p, MBEDTLS_ERR_ECP_INVALID_KEY);
        assert_int_equal(mbedtls_mpi_sub_int(y, y, 1), 0);
        assert_int_equal(mbedtls_mpi_add_mpi(x, x, &curve.group.P), 0); // the same point, not reduced
        expect_refusal(&curve, &curve.p, MBEDTLS_ERR_ECP_INVALID_KEY);
        assert_int_equal(mbedtls_mpi_sub_mpi(x, x, &curve.group.P), 0);
        assert_int_equal(mbedtls_mpi_sub_mpi(y, y, &curve.group.P), 0); // the same one, negative
        expect_refusal(&curve, &curve.p, MBEDTLS_ERR_ECP_INVALID_KEY);
        rig_curve_release(&curve);
    }
}

// https://cr.yp.to/ecdh.html#validate: every point of small order, also as it is written with p added.
static void test_x25519_points_of_small_order_are_refused(void **state)
{
    (void)state;
    static const char *const points[] = {
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    };
    struct rig_curve curve;
    rig_curve_init(&curve, MBEDTLS_ECP_DP_CURVE25519);
    assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.m, RIG_RANDOM), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(points); i++) {
        uint8_t bytes[32];
        assert_int_equal(from_hex(points[i], bytes, sizeof bytes), sizeof bytes);
        assert_int_equal(mbedtls_ecp_point_read_binary(&curve.group, &curve.p, bytes, sizeof bytes), 0);
        expect_refusal(&curve, &curve.p, MBEDTLS_ERR_ECP_INVALID_KEY);
    }
    // On the twist, or not reduced: both are as good as any other (RFC 7748, 5 and 7).
    for (uint8_t first = 0xef; first != 0; first++) {
        uint8_t bytes[32];
        memset(bytes, 0xff, sizeof bytes);
        bytes[0] = first;
        bytes[31] = 0x7f;
        assert_int_equal(mbedtls_ecp_point_read_binary(&curve.group, &curve.p, bytes, sizeof bytes), 0);
        compare_product(&curve, &curve.p, true);
    }
    rig_curve_release(&curve);
}

static void test_unclamped_x25519_scalars_are_refused(void **state)
{
    (void)state;
    struct rig_curve curve;
    rig_curve_init(&curve, MBEDTLS_ECP_DP_CURVE25519);
    rig_random_point(&curve, &curve.p);
    static const struct {
        size_t bit;
        unsigned char value;
    } wrong[] = {{0, 1}, {1, 1}, {2, 1}, {254, 0}, {255, 1}};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.m, RIG_RANDOM), 0);
        assert_int_equal(mbedtls_mpi_set_bit(&curve.m, wrong[i].bit, wrong[i].value), 0);
        expect_refusal(&curve, &curve.p, MBEDTLS_ERR_ECP_INVALID_KEY);
        expect_refusal(&curve, &curve.group.G, MBEDTLS_ERR_ECP_INVALID_KEY);
    }
    rig_curve_release(&curve);
}

static void test_a_product_without_random_numbers_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(ours); i++) {
        struct rig_curve curve;
        rig_curve_init(&curve, ours[i]);
        assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.m, RIG_RANDOM), 0);
        assert_int_equal(mbedtls_ecp_mul(&curve.group, &curve.r, &curve.m, &curve.group.G, NULL, NULL),
                         MBEDTLS_ERR_ECP_BAD_INPUT_DATA);
        rig_curve_release(&curve);
    }
}

// ---- sums

static void compare_sum(struct rig_curve *curve, const mbedtls_ecp_point *p, const mbedtls_ecp_point *q)
{
    int expected = rig_originals->sum(&curve->group, &curve->expected, &curve->m, p, &curve->n, q, NULL);
    int status = mbedtls_ecp_muladd(&curve->group, &curve->r, &curve->m, p, &curve->n, q);
    assert_int_equal(status, expected);
    if (status != 0)
        return;
    assert_int_equal(mbedtls_ecp_is_zero(&curve->r), mbedtls_ecp_is_zero(&curve->expected));
    if (!mbedtls_ecp_is_zero(&curve->r))
        assert_int_equal(mbedtls_ecp_point_cmp(&curve->r, &curve->expected), 0);
}

static void test_random_sums_match_those_of_mbedtls(void **state)
{
    (void)state;
    for (size_t i = WEIERSTRASS; i < ARRAY_LENGTH(ours); i++) {
        struct rig_curve curve;
        rig_curve_init(&curve, ours[i]);
        for (int round = 0; round < 10; round++) {
            assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.m, RIG_RANDOM), 0);
            assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.n, RIG_RANDOM), 0);
            rig_random_point(&curve, &curve.p);
            rig_random_point(&curve, &curve.q);
            unsigned long before = rig_done(CURVE_SUM);
            compare_sum(&curve, &curve.group.G, &curve.q);
            compare_sum(&curve, &curve.p, &curve.group.G);
            assert_int_equal(rig_done(CURVE_SUM), before + 2);
            compare_sum(&curve, &curve.p, &curve.q);
        }
        rig_curve_release(&curve);
    }
}

// Zero, one, their likes below and above zero and the order, with every kind of point on either side; among them sums
// at infinity, and doublings.
static void test_sums_at_the_edges_match_mbedtls(void **state)
{
    (void)state;
    struct rig_curve curve;
    rig_curve_init(&curve, MBEDTLS_ECP_DP_SECP256R1);
    mbedtls_ecp_point zero, beside, opposite;
    mbedtls_ecp_point *const made[] = {&zero, &beside, &opposite};
    for (size_t i = 0; i < ARRAY_LENGTH(made); i++)
        mbedtls_ecp_point_init(made[i]);
    rig_random_point(&curve, &curve.p);
    assert_int_equal(mbedtls_ecp_set_zero(&zero), 0);
    assert_int_equal(mbedtls_ecp_copy(&beside, &curve.p), 0);
    assert_int_equal(mbedtls_mpi_add_int(&beside.MBEDTLS_PRIVATE(X), &beside.MBEDTLS_PRIVATE(X), 1), 0);
    assert_int_equal(mbedtls_mpi_sub_int(&curve.m, &curve.group.N, 1), 0);
    assert_int_equal(rig_originals->product(&curve.group, &opposite, &curve.m, &curve.group.G, RIG_RANDOM, NULL), 0);
    const mbedtls_ecp_point *const points[] = {&curve.group.G, &curve.p, &opposite, &zero, &beside};
    for (int m = 0; m < 10; m++)
        for (int n = 0; n < 10; n++) {
            // -2 to 2, then as far from the order.
            assert_int_equal(
                m < 5 ? mbedtls_mpi_lset(&curve.m, m - 2) : mbedtls_mpi_add_int(&curve.m, &curve.group.N, m - 7), 0);
            assert_int_equal(
                n < 5 ? mbedtls_mpi_lset(&curve.n, n - 2) : mbedtls_mpi_add_int(&curve.n, &curve.group.N, n - 7), 0);
            for (size_t i = 0; i < ARRAY_LENGTH(points); i++) {
                compare_sum(&curve, &curve.group.G, points[i]);
                compare_sum(&curve, points[i], &curve.group.G);
            }
        }
    for (size_t i = 0; i < ARRAY_LENGTH(made); i++)
        mbedtls_ecp_point_free(made[i]);
    rig_curve_release(&curve);
}

static void test_sums_of_montgomery_points_are_refused(void **state)
{
    (void)state;
    struct rig_curve curve;
    rig_curve_init(&curve, MBEDTLS_ECP_DP_CURVE25519);
    assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.m, RIG_RANDOM), 0);
    assert_int_equal(mbedtls_ecp_muladd(&curve.group, &curve.r, &curve.m, &curve.group.G, &curve.m, &curve.group.G),
                     MBEDTLS_ERR_ECP_FEATURE_UNAVAILABLE);
    rig_curve_release(&curve);
}

static void test_the_result_may_be_an_operand(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(ours); i++) {
        struct rig_curve curve;
        rig_curve_init(&curve, ours[i]);
        assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.m, RIG_RANDOM), 0);
        assert_int_equal(mbedtls_ecp_gen_privkey(&curve.group, &curve.n, RIG_RANDOM), 0);
        rig_random_point(&curve, &curve.p);
        compare_product(&curve, &curve.p, true);
        assert_int_equal(mbedtls_ecp_mul(&curve.group, &curve.p, &curve.m, &curve.p, RIG_RANDOM), 0);
        assert_int_equal(mbedtls_ecp_point_cmp(&curve.p, &curve.expected), 0);
        if (i >= WEIERSTRASS) {
            compare_sum(&curve, &curve.group.G, &curve.p);
            assert_int_equal(mbedtls_ecp_muladd(&curve.group, &curve.p, &curve.m, &curve.group.G, &curve.n, &curve.p),
                             0);
            assert_int_equal(mbedtls_ecp_point_cmp(&curve.p, &curve.expected), 0);
        }
        rig_curve_release(&curve);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mbedtls_calls_our_functions),
        cmocka_unit_test(test_a_key_exchange_is_done_by_libcrypto),
        cmocka_unit_test(test_the_self_tests_of_mbedtls_pass),
        cmocka_unit_test(test_products_match_known_answers),
        cmocka_unit_test(test_random_products_match_those_of_mbedtls),
        cmocka_unit_test(test_scalars_at_the_edges_match_mbedtls),
        cmocka_unit_test(test_the_other_curves_remain_with_mbedtls),
        cmocka_unit_test(test_invalid_points_are_refused),
        cmocka_unit_test(test_x25519_points_of_small_order_are_refused),
        cmocka_unit_test(test_unclamped_x25519_scalars_are_refused),
        cmocka_unit_test(test_a_product_without_random_numbers_is_refused),
        cmocka_unit_test(test_random_sums_match_those_of_mbedtls),
        cmocka_unit_test(test_sums_at_the_edges_match_mbedtls),
        cmocka_unit_test(test_sums_of_montgomery_points_are_refused),
        cmocka_unit_test(test_the_result_may_be_an_operand),
    };
    return cmocka_run_group_tests(tests, rig_begin, NULL);
}
