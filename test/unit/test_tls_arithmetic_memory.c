// The arithmetic when memory runs out: each allocation fails in turn, both libraries' too. What comes out is the right
// result, where mbedTLS could still do it, or an error; and all that was taken is given back.

#include "arithmetic_rig.h"

#include <mbedtls/pk.h>
#include <openssl/crypto.h>

#include "failing_memory.h"

struct operands {
    struct rig_curve curve;
    mbedtls_pk_context key;
    unsigned char input[128];
    unsigned char expected[128];
    unsigned char output[128];
};

static int multiply(struct operands *with)
{
    return mbedtls_ecp_mul(&with->curve.group, &with->curve.r, &with->curve.m, &with->curve.p, RIG_RANDOM);
}

static int multiply_base(struct operands *with)
{
    return mbedtls_ecp_mul(&with->curve.group, &with->curve.r, &with->curve.m, &with->curve.group.G, RIG_RANDOM);
}

static int add(struct operands *with)
{
    struct rig_curve *curve = &with->curve;
    return mbedtls_ecp_muladd(&curve->group, &curve->r, &curve->m, &curve->group.G, &curve->m, &curve->p);
}

static int raise(struct operands *with)
{
    return mbedtls_rsa_public(mbedtls_pk_rsa(with->key), with->input, with->output);
}

static int sign_with_twin(struct operands *with)
{
    struct error error = ERROR_INIT;
    struct key_twin *twin = NULL;
    if (!key_twin_create(&with->key, &twin, &error))
        return error.code == ERROR_NO_MEMORY ? -1 : 1;
    int status = mbedtls_rsa_private(mbedtls_pk_rsa(with->key), RIG_RANDOM, with->input, with->output);
    key_twin_destroy(&twin);
    return status;
}

// Once with the allocation `failing`; -1: none. libcrypto keeps a list of errors for each thread, which is not to be
// taken for a leak.
static int attempt(int (*run)(struct operands *), struct operands *with, long failing)
{
    OPENSSL_thread_stop();
    memory_count_begin(failing);
    int status = run(with);
    OPENSSL_thread_stop();
    (void)memory_count_end();
    return status;
}

static void assert_survives(int (*run)(struct operands *), struct operands *with, bool is_curve)
{
    struct rig_curve *curve = &with->curve;
    assert_int_equal(attempt(run, with, -1), 0);
    assert_int_equal(mbedtls_ecp_copy(&curve->expected, &curve->r), 0);
    memcpy(with->expected, with->output, sizeof with->output);
    long failing = 0;
    for (;; failing++) {
        mbedtls_ecp_point_free(&curve->r);
        memset(with->output, 0, sizeof with->output);
        int status = attempt(run, with, failing);
        if (!has_failed)
            break;
        if (status > 0)
            fail_msg("with allocation %ld failing: %d", failing, status);
        if (status == 0 && is_curve)
            assert_int_equal(mbedtls_ecp_point_cmp(&curve->r, &curve->expected), 0);
        else if (status == 0)
            assert_memory_equal(with->output, with->expected, sizeof with->output);
        is_counting = true;
        mbedtls_ecp_point_free(&curve->r);
        is_counting = false;
        if (live != 0)
            fail_msg("with allocation %ld failing: %ld blocks leaked", failing, live);
    }
    assert_true(failing > 5); // otherwise the allocator here is not the one in use
}

static void test_curves_survive_any_failing_allocation(void **state)
{
    (void)state;
    static const mbedtls_ecp_group_id ids[] = {MBEDTLS_ECP_DP_CURVE25519, MBEDTLS_ECP_DP_SECP256R1};
#ifdef HAS_THREAD_SANITIZER
    skip();
#endif
    for (size_t i = 0; i < ARRAY_LENGTH(ids); i++) {
        struct operands with;
        rig_curve_init(&with.curve, ids[i]);
        assert_int_equal(mbedtls_ecp_gen_privkey(&with.curve.group, &with.curve.m, RIG_RANDOM), 0);
        rig_random_point(&with.curve, &with.curve.p);
        assert_survives(multiply, &with, true);
        assert_survives(multiply_base, &with, true);
        if (ids[i] != MBEDTLS_ECP_DP_CURVE25519)
            assert_survives(add, &with, true);
        rig_curve_release(&with.curve);
    }
}

static void make_key(mbedtls_pk_context *key)
{
    mbedtls_pk_init(key);
    assert_int_equal(mbedtls_pk_setup(key, mbedtls_pk_info_from_type(MBEDTLS_PK_RSA)), 0);
    assert_int_equal(mbedtls_rsa_gen_key(mbedtls_pk_rsa(*key), RIG_RANDOM, 1024, 65537), 0);
}

static void test_rsa_survives_any_failing_allocation(void **state)
{
    (void)state;
#ifdef HAS_THREAD_SANITIZER
    skip();
#endif
    struct operands with = {.input = {0, 1, 2, 3}};
    rig_curve_init(&with.curve, MBEDTLS_ECP_DP_SECP256R1);
    make_key(&with.key);
    // mbedTLS's own keep something in the key the first time.
    assert_int_equal(rig_originals->rsa_public(mbedtls_pk_rsa(with.key), with.input, with.output), 0);
    assert_int_equal(rig_originals->rsa_private(mbedtls_pk_rsa(with.key), RIG_RANDOM, with.input, with.output), 0);
    assert_survives(raise, &with, false);
    assert_survives(sign_with_twin, &with, false);
    mbedtls_pk_free(&with.key);
    rig_curve_release(&with.curve);
}

// ---- a key outlives a shortage

#define RENEWAL 31 // the signature with which libcrypto makes its blinding anew: every 32nd, the trial included

static const unsigned char message[128] = {0, 1, 2, 3};

// Signs often, once with the allocation `failing`. False: there was no such allocation.
static bool sign_through(const mbedtls_pk_context *key, int when, long failing)
{
    unsigned char signature[128], back[128];
    bool has_found = false;
    for (int i = 0; i < when + 3; i++) {
        if (i == when)
            OPENSSL_thread_stop();
        memory_count_begin(i == when ? failing : -1);
        int status = mbedtls_rsa_private(mbedtls_pk_rsa(*key), RIG_RANDOM, message, signature);
        (void)memory_count_end();
        has_found = has_found || has_failed;
        if (status != 0 && i != when)
            fail_msg("with allocation %ld of signature %d failing: %d at %d", failing, when, status, i);
        if (status != 0)
            continue;
        assert_int_equal(mbedtls_rsa_public(mbedtls_pk_rsa(*key), signature, back), 0);
        if (memcmp(back, message, sizeof back) != 0)
            fail_msg("with allocation %ld of signature %d failing, signature %d is wrong", failing, when, i);
    }
    return has_found;
}

static void assert_outlives(const mbedtls_pk_context *made, bool has_twin, int when)
{
    bool has_found = true;
    long failing = 0;
    for (; has_found; failing++) {
        mbedtls_pk_context key; // with no blinding yet
        struct key_twin *twin = NULL;
        struct error error = ERROR_INIT;
        mbedtls_pk_init(&key);
        assert_int_equal(mbedtls_pk_setup(&key, mbedtls_pk_info_from_type(MBEDTLS_PK_RSA)), 0);
        assert_int_equal(mbedtls_rsa_copy(mbedtls_pk_rsa(key), mbedtls_pk_rsa(*made)), 0);
        assert_true(!has_twin || key_twin_create(&key, &twin, &error));
        assert_int_equal(twin != NULL, has_twin);
        has_found = sign_through(&key, when, failing);
        key_twin_destroy(&twin);
        mbedtls_pk_free(&key);
    }
    assert_true(failing > 10);
}

// With a shortage of one allocation, and with one that lasts.
static void for_each_shortage(void (*check)(const mbedtls_pk_context *key))
{
#ifdef HAS_THREAD_SANITIZER
    skip();
#endif
    mbedtls_pk_context key;
    make_key(&key);
    for (int lasting = 0; lasting < 2; lasting++) {
        memory_fail_lastingly(lasting != 0);
        check(&key);
    }
    memory_fail_lastingly(false);
    mbedtls_pk_free(&key);
}

static void check_signatures(const mbedtls_pk_context *key)
{
    // The first makes the blinding, the second changes it.
    static const int with_twin[] = {0, 1, RENEWAL - 1, RENEWAL, RENEWAL + 1};
    for (size_t i = 0; i < ARRAY_LENGTH(with_twin); i++)
        assert_outlives(key, true, with_twin[i]);
    assert_outlives(key, false, 0);
    assert_outlives(key, false, 1);
}

static void test_no_signature_is_spoilt(void **state)
{
    (void)state;
    for_each_shortage(check_signatures);
}

static void check_twins(const mbedtls_pk_context *key)
{
    long failing = 0;
    for (bool has_found = true; has_found; failing++) {
        struct key_twin *twin = NULL;
        struct error error = ERROR_INIT;
        OPENSSL_thread_stop();
        memory_count_begin(failing);
        bool is_good = key_twin_create(key, &twin, &error);
        (void)memory_count_end();
        has_found = has_failed;
        if (is_good != (twin != NULL) || (!is_good && error.code != ERROR_NO_MEMORY))
            fail_msg("with allocation %ld failing: %d, and %s twin: %s", failing, is_good, twin != NULL ? "a" : "no",
                     error.text);
        key_twin_destroy(&twin);
    }
    assert_true(failing > 10);
}

// Else a shortage at a reload would leave the key with mbedTLS, and every handshake slow.
static void test_no_twin_is_forgone(void **state)
{
    (void)state;
    for_each_shortage(check_twins);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_curves_survive_any_failing_allocation),
        cmocka_unit_test(test_rsa_survives_any_failing_allocation),
        cmocka_unit_test(test_no_signature_is_spoilt),
        cmocka_unit_test(test_no_twin_is_forgone),
    };
    return cmocka_run_group_tests(tests, rig_begin, NULL);
}
