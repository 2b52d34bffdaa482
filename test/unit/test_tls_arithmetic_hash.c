// The hashes of mbedTLS, whose blocks libcrypto does: known answers, OpenSSL's own hashes as the measure of every
// length, hashes that are copied half way, HMAC.

#include "arithmetic_rig.h"

#include <mbedtls/md.h>
#include <mbedtls/sha256.h>
#include <mbedtls/sha512.h>
#include <openssl/evp.h>

static const struct {
    mbedtls_md_type_t type;
    const char *openssl;
    enum arithmetic block;
    size_t block_size;
} hashes[] = {
    {MBEDTLS_MD_SHA224, "SHA224", SHA256_BLOCK, 64},
    {MBEDTLS_MD_SHA256, "SHA256", SHA256_BLOCK, 64},
    {MBEDTLS_MD_SHA384, "SHA384", SHA512_BLOCK, 128},
    {MBEDTLS_MD_SHA512, "SHA512", SHA512_BLOCK, 128},
};

static void test_the_self_tests_of_mbedtls_pass(void **state)
{
    (void)state;
    unsigned long blocks_256 = rig_done(SHA256_BLOCK);
    unsigned long blocks_512 = rig_done(SHA512_BLOCK);
    assert_int_equal(mbedtls_sha256_self_test(0), 0);
    assert_int_equal(mbedtls_sha512_self_test(0), 0);
    // Each hashes a million letters, too.
    assert_true(rig_done(SHA256_BLOCK) - blocks_256 >= 1000000 / 64);
    assert_true(rig_done(SHA512_BLOCK) - blocks_512 >= 1000000 / 128);
}

// FIPS 180-4's examples of two blocks.
static void test_hashes_match_known_answers(void **state)
{
    (void)state;
    static const struct {
        mbedtls_md_type_t type;
        const char *message;
        const char *hash;
    } known[] = {
        {MBEDTLS_MD_SHA256, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {MBEDTLS_MD_SHA384,
         "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqr"
         "s"
         "tu",
         "09330c33f71147e83d192fc782cd1b4753111b173b3b05d22fa08086e3b0f712fcc7c71a557e2db966c3e9fa91746039"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(known); i++) {
        unsigned char hash[64], expected[64];
        size_t length = from_hex(known[i].hash, expected, sizeof expected);
        assert_int_equal(mbedtls_md(mbedtls_md_info_from_type(known[i].type), (const unsigned char *)known[i].message,
                                    strlen(known[i].message), hash),
                         0);
        assert_memory_equal(hash, expected, length);
    }
}

// In pieces that end within a block, at its end and behind it; the first piece's hash is gone on with in a copy.
static void test_every_length_matches_openssl(void **state)
{
    (void)state;
    unsigned char message[300];
    assert_int_equal(mbedtls_psa_get_random(MBEDTLS_PSA_RANDOM_STATE, message, sizeof message), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(hashes); i++)
        for (size_t length = 0; length <= sizeof message; length++) {
            unsigned char hash[64], expected[64];
            size_t size = 0;
            size_t first = length / 3;
            unsigned long before = rig_done(hashes[i].block);
            mbedtls_md_context_t whole, copy;
            mbedtls_md_init(&whole);
            mbedtls_md_init(&copy);
            assert_int_equal(mbedtls_md_setup(&whole, mbedtls_md_info_from_type(hashes[i].type), 0), 0);
            assert_int_equal(mbedtls_md_setup(&copy, mbedtls_md_info_from_type(hashes[i].type), 0), 0);
            assert_int_equal(mbedtls_md_starts(&whole), 0);
            assert_int_equal(mbedtls_md_update(&whole, message, first), 0);
            assert_int_equal(mbedtls_md_clone(&copy, &whole), 0);
            assert_int_equal(mbedtls_md_update(&copy, message + first, length - first), 0);
            assert_int_equal(mbedtls_md_finish(&copy, hash), 0);
            // The padding takes a bit and a count.
            size_t count = hashes[i].block_size / 8;
            assert_int_equal(rig_done(hashes[i].block) - before,
                             (length + 1 + count + hashes[i].block_size - 1) / hashes[i].block_size);
            assert_int_equal(EVP_Q_digest(NULL, hashes[i].openssl, NULL, message, length, expected, &size), 1);
            assert_memory_equal(hash, expected, size);
            mbedtls_md_free(&copy);
            mbedtls_md_free(&whole);
        }
}

static void test_hmac_matches_openssl(void **state)
{
    (void)state;
    static const size_t keys[] = {1, 32, 48, 64, 65, 128, 129, 200};
    unsigned char key[200], message[200], mac[64], expected[64];
    assert_int_equal(mbedtls_psa_get_random(MBEDTLS_PSA_RANDOM_STATE, key, sizeof key), 0);
    assert_int_equal(mbedtls_psa_get_random(MBEDTLS_PSA_RANDOM_STATE, message, sizeof message), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(hashes); i++)
        for (size_t j = 0; j < ARRAY_LENGTH(keys); j++) {
            size_t size = 0;
            assert_int_equal(
                mbedtls_md_hmac(mbedtls_md_info_from_type(hashes[i].type), key, keys[j], message, sizeof message, mac),
                0);
            assert_non_null(EVP_Q_mac(NULL, "HMAC", NULL, hashes[i].openssl, NULL, key, keys[j], message,
                                      sizeof message, expected, sizeof expected, &size));
            assert_memory_equal(mac, expected, size);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_self_tests_of_mbedtls_pass),
        cmocka_unit_test(test_hashes_match_known_answers),
        cmocka_unit_test(test_every_length_matches_openssl),
        cmocka_unit_test(test_hmac_matches_openssl),
    };
    return cmocka_run_group_tests(tests, rig_begin, NULL);
}
