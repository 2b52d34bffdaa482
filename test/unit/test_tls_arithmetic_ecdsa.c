// ECDSA signatures by libcrypto: both libraries verify them; what is not libcrypto's remains mbedTLS's; whose keys have
// a twin, and for how long; several threads with one key; a shortage of memory.

#include "arithmetic_rig.h"

#include <pthread.h>

#include <mbedtls/ecdsa.h>
#include <mbedtls/pk.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include "failing_memory.h"

#define SIGNATURE_MAX MBEDTLS_ECDSA_MAX_LEN

static const unsigned char hash[64] = {3, 1, 4, 1, 5, 9, 2, 6, [31] = 7, [32] = 8, [63] = 9};

static void make_key(mbedtls_pk_context *key, mbedtls_ecp_group_id id)
{
    mbedtls_pk_init(key);
    assert_int_equal(mbedtls_pk_setup(key, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY)), 0);
    assert_int_equal(mbedtls_ecp_gen_key(id, mbedtls_pk_ec(*key), RIG_RANDOM), 0);
}

static struct key_twin *make_twin(const mbedtls_pk_context *key)
{
    struct error error = ERROR_INIT;
    struct key_twin *twin = NULL;
    assert_true(key_twin_create(key, &twin, &error));
    return twin;
}

static int sign(mbedtls_pk_context *key, size_t length, unsigned char *signature, size_t *written)
{
    return mbedtls_pk_sign(key, MBEDTLS_MD_SHA256, hash, length, signature, SIGNATURE_MAX, written, RIG_RANDOM);
}

static bool openssl_verifies(const mbedtls_pk_context *key, size_t length, const unsigned char *signature,
                             size_t written)
{
    unsigned char der[256];
    int size = mbedtls_pk_write_pubkey_der(key, der, sizeof der);
    assert_true(size > 0);
    const unsigned char *at = der + sizeof der - size;
    EVP_PKEY *public_key = d2i_PUBKEY(NULL, &at, size);
    assert_non_null(public_key);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(public_key, NULL);
    assert_int_equal(EVP_PKEY_verify_init(context), 1);
    bool is_good = EVP_PKEY_verify(context, signature, written, hash, length) == 1;
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(public_key);
    return is_good;
}

// Hashes shorter and longer than the curve's order.
static void test_both_libraries_verify_a_signature(void **state)
{
    (void)state;
    static const mbedtls_ecp_group_id ids[] = {MBEDTLS_ECP_DP_SECP256R1, MBEDTLS_ECP_DP_SECP384R1,
                                               MBEDTLS_ECP_DP_SECP521R1};
    static const size_t lengths[] = {1, 20, 32, 48, 64};
    for (size_t i = 0; i < ARRAY_LENGTH(ids); i++) {
        mbedtls_pk_context key;
        make_key(&key, ids[i]);
        struct key_twin *twin = make_twin(&key);
        // P-384 is mbedTLS's before OpenSSL 3.2.
        assert_int_equal(twin != NULL, ids[i] != MBEDTLS_ECP_DP_SECP384R1 || OPENSSL_VERSION_PREREQ(3, 2));
        for (size_t j = 0; j < ARRAY_LENGTH(lengths); j++) {
            unsigned char signature[SIGNATURE_MAX], another[SIGNATURE_MAX];
            size_t written, again;
            unsigned long before = rig_done(ECDSA_SIGN);
            assert_int_equal(sign(&key, lengths[j], signature, &written), 0);
            assert_int_equal(rig_done(ECDSA_SIGN) - before, twin != NULL);
            assert_true(openssl_verifies(&key, lengths[j], signature, written));
            assert_int_equal(mbedtls_pk_verify(&key, MBEDTLS_MD_SHA256, hash, lengths[j], signature, written), 0);
            // The nonce is another one each time, or the other library's: the same as mbedTLS's would be RFC 6979's.
            assert_int_equal(sign(&key, lengths[j], another, &again), 0);
            bool is_same = again == written && memcmp(another, signature, written) == 0;
            assert_int_equal(is_same, twin == NULL);
            signature[written - 1] ^= 1;
            assert_false(openssl_verifies(&key, lengths[j], signature, written));
        }
        key_twin_destroy(&twin);
        mbedtls_pk_free(&key);
    }
}

static void test_other_kinds_have_no_twin(void **state)
{
    (void)state;
    mbedtls_pk_context key;
    make_key(&key, MBEDTLS_ECP_DP_SECP256K1);
    assert_null(make_twin(&key));
    unsigned char signature[SIGNATURE_MAX];
    size_t written;
    unsigned long before = rig_done(ECDSA_SIGN);
    assert_int_equal(sign(&key, 32, signature, &written), 0);
    assert_int_equal(rig_done(ECDSA_SIGN), before);
    assert_true(openssl_verifies(&key, 32, signature, written));
    mbedtls_pk_free(&key);
}

// RFC 6979, A.2.5: "sample" with SHA-256.
static void test_a_key_without_a_twin_is_signed_with_by_mbedtls(void **state)
{
    (void)state;
    unsigned char bytes[80], signature[SIGNATURE_MAX], expected[SIGNATURE_MAX];
    size_t written;
    mbedtls_pk_context key;
    mbedtls_pk_init(&key);
    assert_int_equal(mbedtls_pk_setup(&key, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY)), 0);
    size_t length = from_hex("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721", bytes, sizeof bytes);
    assert_int_equal(mbedtls_ecp_read_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(key), bytes, length), 0);
    length = from_hex("af2bdbe1aa9b6ec1e2ade1d694f41fc71a831d0268e9891562113d8a62add1bf", bytes, sizeof bytes);
    assert_int_equal(
        mbedtls_pk_sign(&key, MBEDTLS_MD_SHA256, bytes, length, signature, sizeof signature, &written, RIG_RANDOM), 0);
    length = from_hex("3046022100efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
                      "022100f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
                      expected, sizeof expected);
    assert_int_equal(written, length);
    assert_memory_equal(signature, expected, length);
    mbedtls_pk_free(&key);
}

// What mbedTLS refuses is refused with its own error, and nothing is written.
static void test_bad_arguments_have_mbedtls_own_errors(void **state)
{
    (void)state;
    static const struct {
        mbedtls_md_type_t type;
        size_t hash_length;
        size_t room;
        bool has_random;
    } bad[] = {
        {MBEDTLS_MD_NONE, 32, SIGNATURE_MAX, true},
        {MBEDTLS_MD_SHA256, 32, 8, true},
        {MBEDTLS_MD_SHA256, 32, SIGNATURE_MAX, false},
    };
    mbedtls_pk_context key;
    make_key(&key, MBEDTLS_ECP_DP_SECP256R1);
    struct key_twin *twin = make_twin(&key);
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        unsigned char signature[SIGNATURE_MAX], expected[SIGNATURE_MAX];
        size_t written = 12345, other = 12345;
        memset(signature, 0x5a, sizeof signature);
        mbedtls_f_rng_t *random = bad[i].has_random ? mbedtls_psa_get_random : NULL;
        int status = rig_originals->ecdsa_sign(mbedtls_pk_ec(key), bad[i].type, hash, bad[i].hash_length, expected,
                                               bad[i].room, &other, random, MBEDTLS_PSA_RANDOM_STATE, NULL);
        assert_int_not_equal(status, 0);
        assert_int_equal(mbedtls_ecdsa_write_signature(mbedtls_pk_ec(key), bad[i].type, hash, bad[i].hash_length,
                                                       signature, bad[i].room, &written, random,
                                                       MBEDTLS_PSA_RANDOM_STATE),
                         status);
        assert_int_equal(written, other);
        assert_int_equal(signature[bad[i].room - 1], 0x5a);
    }
    key_twin_destroy(&twin);
    mbedtls_pk_free(&key);
}

// Two keys, one after the other in the same place: the second must not be signed for with the first.
static void test_a_twin_goes_with_its_key(void **state)
{
    (void)state;
    unsigned char signature[SIGNATURE_MAX];
    size_t written;
    mbedtls_pk_context key;
    make_key(&key, MBEDTLS_ECP_DP_SECP256R1);
    struct key_twin *twin = make_twin(&key);
    assert_int_equal(sign(&key, 32, signature, &written), 0);
    key_twin_destroy(&twin);
    assert_null(twin);
    assert_int_equal(mbedtls_ecp_gen_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(key), RIG_RANDOM), 0);
    assert_false(openssl_verifies(&key, 32, signature, written));
    unsigned long before = rig_done(ECDSA_SIGN);
    assert_int_equal(sign(&key, 32, signature, &written), 0);
    assert_int_equal(rig_done(ECDSA_SIGN), before);
    assert_true(openssl_verifies(&key, 32, signature, written));
    twin = make_twin(&key);
    assert_int_equal(sign(&key, 32, signature, &written), 0);
    assert_int_equal(rig_done(ECDSA_SIGN), before + 1);
    assert_true(openssl_verifies(&key, 32, signature, written));
    key_twin_destroy(&twin);
    mbedtls_pk_free(&key);
}

// ---- threads

#define SIGNERS 4
#define SIGNATURES 24

struct signer {
    pthread_t thread;
    mbedtls_pk_context *key;
    bool is_good;
};

static void *sign_often(void *argument)
{
    struct signer *signer = argument;
    unsigned char signature[SIGNATURE_MAX];
    size_t written;
    signer->is_good = true;
    for (int i = 0; i < SIGNATURES; i++)
        signer->is_good = signer->is_good && sign(signer->key, 32, signature, &written) == 0 &&
                          openssl_verifies(signer->key, 32, signature, written);
    signer->is_good = signer->is_good && rig_done(ECDSA_SIGN) == SIGNATURES;
    OPENSSL_thread_stop();
    return NULL;
}

// While one key is signed with, others come and go, as a reload does it.
static void test_threads_may_share_a_key(void **state)
{
    (void)state;
    mbedtls_pk_context key, other;
    make_key(&key, MBEDTLS_ECP_DP_SECP256R1);
    make_key(&other, MBEDTLS_ECP_DP_SECP256R1);
    struct key_twin *twin = make_twin(&key);
    struct signer signers[SIGNERS];
    for (size_t i = 0; i < SIGNERS; i++) {
        signers[i] = (struct signer){.key = &key};
        assert_int_equal(pthread_create(&signers[i].thread, NULL, sign_often, &signers[i]), 0);
    }
    for (int i = 0; i < 50; i++) {
        struct key_twin *passing = make_twin(&other);
        assert_non_null(passing);
        key_twin_destroy(&passing);
    }
    for (size_t i = 0; i < SIGNERS; i++) {
        assert_int_equal(pthread_join(signers[i].thread, NULL), 0);
        assert_true(signers[i].is_good);
    }
    key_twin_destroy(&twin);
    mbedtls_pk_free(&key);
    mbedtls_pk_free(&other);
}

// ---- memory

// A signature comes out, or an error; never one that does not verify. All that was taken is given back.
static void test_signing_survives_any_failing_allocation(void **state)
{
    (void)state;
#ifdef HAS_THREAD_SANITIZER
    skip();
#endif
    mbedtls_pk_context key;
    make_key(&key, MBEDTLS_ECP_DP_SECP256R1);
    struct key_twin *twin = make_twin(&key);
    long failing = 0;
    for (bool has_found = true; has_found; failing++) {
        unsigned char signature[SIGNATURE_MAX];
        size_t written;
        OPENSSL_thread_stop();
        memory_count_begin(failing);
        int status = sign(&key, 32, signature, &written);
        OPENSSL_thread_stop();
        long leaked = memory_count_end();
        has_found = has_failed;
        if (status == 0 && !openssl_verifies(&key, 32, signature, written))
            fail_msg("with allocation %ld failing the signature is wrong", failing);
        if (status > 0 || leaked != 0)
            fail_msg("with allocation %ld failing: %d, %ld blocks leaked", failing, status, leaked);
    }
    assert_true(failing > 10);
    key_twin_destroy(&twin);
    mbedtls_pk_free(&key);
}

// Else a shortage at a reload would leave the key with mbedTLS, and every handshake slow.
static void test_no_twin_is_forgone(void **state)
{
    (void)state;
#ifdef HAS_THREAD_SANITIZER
    skip();
#endif
    mbedtls_pk_context key;
    make_key(&key, MBEDTLS_ECP_DP_SECP256R1);
    long failing = 0;
    for (bool has_found = true; has_found; failing++) {
        struct key_twin *twin = NULL;
        struct error error = ERROR_INIT;
        OPENSSL_thread_stop();
        memory_count_begin(failing);
        bool is_good = key_twin_create(&key, &twin, &error);
        (void)memory_count_end();
        has_found = has_failed;
        if (is_good != (twin != NULL) || (!is_good && error.code != ERROR_NO_MEMORY))
            fail_msg("with allocation %ld failing: %d, and %s twin: %s", failing, is_good, twin != NULL ? "a" : "no",
                     error.text);
        key_twin_destroy(&twin);
    }
    assert_true(failing > 10);
    mbedtls_pk_free(&key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_libraries_verify_a_signature),
        cmocka_unit_test(test_other_kinds_have_no_twin),
        cmocka_unit_test(test_a_key_without_a_twin_is_signed_with_by_mbedtls),
        cmocka_unit_test(test_bad_arguments_have_mbedtls_own_errors),
        cmocka_unit_test(test_a_twin_goes_with_its_key),
        cmocka_unit_test(test_threads_may_share_a_key),
        cmocka_unit_test(test_signing_survives_any_failing_allocation),
        cmocka_unit_test(test_no_twin_is_forgone),
    };
    return cmocka_run_group_tests(tests, rig_begin, NULL);
}
