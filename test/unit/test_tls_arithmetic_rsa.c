// RSA: what libcrypto computes in mbedTLS's place, mbedTLS's own functions as the measure; whose keys have a twin, and
// for how long; several threads with one key.

#include "arithmetic_rig.h"

#include <pthread.h>

#include <mbedtls/bignum.h>
#include <mbedtls/pk.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#define SIZE_MAX_TESTED 512

// A key made by OpenSSL, and read by mbedTLS.
static EVP_PKEY *make_key(size_t bits, mbedtls_pk_context *key)
{
    EVP_PKEY *made = EVP_PKEY_Q_keygen(NULL, NULL, "RSA", bits);
    assert_non_null(made);
    unsigned char *der = NULL;
    int length = i2d_PrivateKey(made, &der);
    assert_true(length > 0);
    mbedtls_pk_init(key);
    assert_int_equal(mbedtls_pk_parse_key(key, der, (size_t)length, NULL, 0, RIG_RANDOM), 0);
    OPENSSL_free(der);
    return made;
}

static struct key_twin *make_twin(const mbedtls_pk_context *key)
{
    struct error error = ERROR_INIT;
    struct key_twin *twin = NULL;
    assert_true(key_twin_create(key, &twin, &error));
    return twin;
}

static void compare(mbedtls_rsa_context *key, const unsigned char *input, bool is_done)
{
    unsigned char output[SIZE_MAX_TESTED];
    unsigned char expected[SIZE_MAX_TESTED];
    memset(output, 0x5a, sizeof output);
    const struct arithmetic_counts before = arithmetic_counts;
    int status = rig_originals->rsa_private(key, RIG_RANDOM, input, expected);
    assert_int_equal(mbedtls_rsa_private(key, RIG_RANDOM, input, output), status);
    if (status == 0)
        assert_memory_equal(output, expected, mbedtls_rsa_get_len(key));
    else
        assert_int_equal(output[0], 0x5a);
    assert_int_equal(rig_done(RSA_PRIVATE) - before.done[RSA_PRIVATE], is_done);
    const unsigned long public_before = rig_done(RSA_PUBLIC); // each signature is checked, too
    memset(output, 0x5a, sizeof output);
    status = rig_originals->rsa_public(key, input, expected);
    assert_int_equal(mbedtls_rsa_public(key, input, output), status);
    if (status == 0)
        assert_memory_equal(output, expected, mbedtls_rsa_get_len(key));
    else
        assert_int_equal(output[0], 0x5a);
    assert_int_equal(rig_done(RSA_PUBLIC) - public_before, is_done);
}

static void test_both_operations_match_those_of_mbedtls(void **state)
{
    (void)state;
    // 2056: a length that is none of words; 2050: one that isn't even one of bytes.
    static const size_t sizes[] = {1024, 2048, 2056, 2050, 4096};
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        mbedtls_pk_context key;
        EVP_PKEY_free(make_key(sizes[i], &key));
        struct key_twin *twin = make_twin(&key);
        assert_non_null(twin);
        mbedtls_rsa_context *rsa = mbedtls_pk_rsa(key);
        size_t length = mbedtls_rsa_get_len(rsa);
        unsigned char input[SIZE_MAX_TESTED];
        for (int round = 0; round < 3; round++) {
            assert_int_equal(mbedtls_psa_get_random(MBEDTLS_PSA_RANDOM_STATE, input, length), 0);
            input[0] = 0;
            compare(rsa, input, true);
        }
        mbedtls_mpi n;
        mbedtls_mpi_init(&n);
        assert_int_equal(mbedtls_rsa_export(rsa, &n, NULL, NULL, NULL, NULL), 0);
        for (int distance = -2; distance <= 2; distance++) {
            // Numbers that the modulus does not leave room for are refused, and so is it itself.
            assert_int_equal(mbedtls_mpi_add_int(&n, &n, distance), 0);
            assert_int_equal(mbedtls_mpi_write_binary(&n, input, length), 0);
            assert_int_equal(mbedtls_mpi_sub_int(&n, &n, distance), 0);
            compare(rsa, input, distance < 0);
            memset(input, 0, length);
            input[length - 1] = (unsigned char)(distance + 2);
            compare(rsa, input, true);
        }
        mbedtls_mpi_free(&n);
        key_twin_destroy(&twin);
        mbedtls_pk_free(&key);
    }
}

// PKCS #1 v1.5 leaves nothing to chance: both libraries make the same signature.
static void test_a_signature_is_the_one_that_openssl_makes(void **state)
{
    (void)state;
    static const unsigned char hash[32] = {3, 1, 4, 1, 5, 9, 2, 6};
    unsigned char expected[256], signature[256];
    size_t length = sizeof expected;
    mbedtls_pk_context key;
    EVP_PKEY *made = make_key(2048, &key);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(made, NULL);
    assert_int_equal(EVP_PKEY_sign_init(context), 1);
    assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING), 1);
    assert_int_equal(EVP_PKEY_CTX_set_signature_md(context, EVP_sha256()), 1);
    assert_int_equal(EVP_PKEY_sign(context, expected, &length, hash, sizeof hash), 1);
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(made);
    struct key_twin *twin = make_twin(&key);
    const struct arithmetic_counts before = arithmetic_counts;
    size_t written;
    assert_int_equal(
        mbedtls_pk_sign(&key, MBEDTLS_MD_SHA256, hash, sizeof hash, signature, sizeof signature, &written, RIG_RANDOM),
        0);
    assert_int_equal(written, length);
    assert_memory_equal(signature, expected, length);
    // PSS as TLS 1.3 asks for it: another way to the same operation.
    assert_int_equal(mbedtls_pk_sign_ext(MBEDTLS_PK_RSASSA_PSS, &key, MBEDTLS_MD_SHA256, hash, sizeof hash, signature,
                                         sizeof signature, &written, RIG_RANDOM),
                     0);
    const mbedtls_pk_rsassa_pss_options options = {.mgf1_hash_id = MBEDTLS_MD_SHA256, .expected_salt_len = 32};
    assert_int_equal(mbedtls_pk_verify_ext(MBEDTLS_PK_RSASSA_PSS, &options, &key, MBEDTLS_MD_SHA256, hash, sizeof hash,
                                           signature, written),
                     0);
    assert_true(rig_done(RSA_PRIVATE) - before.done[RSA_PRIVATE] == 2);
    assert_true(rig_done(RSA_PUBLIC) - before.done[RSA_PUBLIC] >= 1);
    key_twin_destroy(&twin);
    mbedtls_pk_free(&key);
}

static void test_a_signature_without_random_numbers_is_refused(void **state)
{
    (void)state;
    mbedtls_pk_context key;
    EVP_PKEY_free(make_key(2048, &key));
    struct key_twin *twin = make_twin(&key);
    unsigned char bytes[256] = {0};
    assert_int_equal(mbedtls_rsa_private(mbedtls_pk_rsa(key), NULL, NULL, bytes, bytes),
                     MBEDTLS_ERR_RSA_BAD_INPUT_DATA);
    key_twin_destroy(&twin);
    mbedtls_pk_free(&key);
}

// A key that is not whole, and none at all.
static void test_a_key_that_is_not_whole_is_refused(void **state)
{
    (void)state;
    static const unsigned char even[16] = {0x80, [15] = 2};
    static const unsigned char three[1] = {3};
    unsigned char input[16] = {0};
    unsigned char output[16];
    mbedtls_rsa_context key;
    mbedtls_rsa_init(&key);
    assert_int_equal(mbedtls_rsa_public(&key, input, output), MBEDTLS_ERR_RSA_BAD_INPUT_DATA);
    assert_int_equal(mbedtls_rsa_import_raw(&key, even, sizeof even, NULL, 0, NULL, 0, NULL, 0, three, 1), 0);
    assert_int_equal(mbedtls_rsa_public(&key, input, output), MBEDTLS_ERR_RSA_BAD_INPUT_DATA);
    assert_int_equal(mbedtls_rsa_private(&key, RIG_RANDOM, input, output), MBEDTLS_ERR_RSA_BAD_INPUT_DATA);
    mbedtls_rsa_free(&key);
}

// The longest take as long as a private key, and come from whoever connects.
static void test_an_exponent_beyond_32_bytes_is_refused(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 3, 8, 9, 31, 32, 33, 128};
    unsigned char modulus[128], exponent[128], input[128] = {0, 1, 2, 3}, output[128], expected[128];
    memset(modulus, 0xff, sizeof modulus);
    memset(exponent, 0x7f, sizeof exponent);
    for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
        mbedtls_rsa_context key;
        mbedtls_rsa_init(&key);
        assert_int_equal(
            mbedtls_rsa_import_raw(&key, modulus, sizeof modulus, NULL, 0, NULL, 0, NULL, 0, exponent, sizes[i]), 0);
        assert_int_equal(mbedtls_rsa_complete(&key), 0);
        const unsigned long before = rig_done(RSA_PUBLIC);
        bool is_taken = sizes[i] <= 32;
        assert_int_equal(mbedtls_rsa_public(&key, input, output), is_taken ? 0 : MBEDTLS_ERR_RSA_BAD_INPUT_DATA);
        assert_int_equal(rig_done(RSA_PUBLIC) - before, is_taken);
        assert_int_equal(rig_originals->rsa_public(&key, input, expected), 0);
        if (is_taken)
            assert_memory_equal(output, expected, sizeof output);
        mbedtls_rsa_free(&key);
    }
}

// Two keys, one after the other in the same place: the second must not be signed for with the first.
static void test_a_twin_goes_with_its_key(void **state)
{
    (void)state;
    mbedtls_pk_context first, second;
    EVP_PKEY_free(make_key(1024, &first));
    EVP_PKEY_free(make_key(1024, &second));
    struct key_twin *twin = make_twin(&first);
    mbedtls_rsa_context *place = mbedtls_pk_rsa(first);
    unsigned char input[128] = {0, 1, 2, 3};
    compare(place, input, true);
    key_twin_destroy(&twin);
    assert_null(twin);
    const struct arithmetic_counts before = arithmetic_counts;
    unsigned char output[128];
    assert_int_equal(mbedtls_rsa_private(place, RIG_RANDOM, input, output), 0);
    assert_int_equal(rig_done(RSA_PRIVATE), before.done[RSA_PRIVATE]);
    mbedtls_rsa_free(place);
    mbedtls_rsa_init(place);
    assert_int_equal(mbedtls_rsa_copy(place, mbedtls_pk_rsa(second)), 0);
    twin = make_twin(&first);
    assert_non_null(twin);
    compare(place, input, true);
    key_twin_destroy(&twin);
    mbedtls_pk_free(&first);
    mbedtls_pk_free(&second);
}

// ---- threads

#define SIGNERS 4
#define SIGNATURES 24

struct signer {
    pthread_t thread;
    mbedtls_rsa_context *key;
    unsigned char id;
    bool is_good;
};

static void *sign(void *argument)
{
    struct signer *signer = argument;
    unsigned char input[128] = {0, signer->id};
    unsigned char signature[128], back[128];
    signer->is_good = true;
    for (unsigned char i = 0; i < SIGNATURES; i++) {
        input[127] = i;
        signer->is_good = signer->is_good && mbedtls_rsa_private(signer->key, RIG_RANDOM, input, signature) == 0 &&
                          mbedtls_rsa_public(signer->key, signature, back) == 0 &&
                          memcmp(input, back, sizeof back) == 0;
    }
    signer->is_good = signer->is_good && rig_done(RSA_PRIVATE) == SIGNATURES;
    return NULL;
}

// While one key is signed with, others come and go, as a reload does it.
static void test_threads_may_share_a_key(void **state)
{
    (void)state;
    mbedtls_pk_context key, other;
    EVP_PKEY_free(make_key(1024, &key));
    EVP_PKEY_free(make_key(1024, &other));
    struct key_twin *twin = make_twin(&key);
    struct signer signers[SIGNERS];
    for (unsigned char i = 0; i < SIGNERS; i++) {
        signers[i] = (struct signer){.key = mbedtls_pk_rsa(key), .id = i};
        assert_int_equal(pthread_create(&signers[i].thread, NULL, sign, &signers[i]), 0);
    }
    for (int i = 0; i < 50; i++) {
        struct key_twin *passing = make_twin(&other);
        assert_non_null(passing);
        key_twin_destroy(&passing);
    }
    for (int i = 0; i < SIGNERS; i++) {
        assert_int_equal(pthread_join(signers[i].thread, NULL), 0);
        assert_true(signers[i].is_good);
    }
    key_twin_destroy(&twin);
    mbedtls_pk_free(&key);
    mbedtls_pk_free(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_operations_match_those_of_mbedtls),
        cmocka_unit_test(test_a_signature_is_the_one_that_openssl_makes),
        cmocka_unit_test(test_a_signature_without_random_numbers_is_refused),
        cmocka_unit_test(test_a_key_that_is_not_whole_is_refused),
        cmocka_unit_test(test_an_exponent_beyond_32_bytes_is_refused),
        cmocka_unit_test(test_a_twin_goes_with_its_key),
        cmocka_unit_test(test_threads_may_share_a_key),
    };
    return cmocka_run_group_tests(tests, rig_begin, NULL);
}
