// AEADs: known answers, every size, forgeries, and that a record allocates nothing.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/crypto.h>

#include "bitflow/base/compiler.h"
#include "bitflow/tls/aead.h"
#include "hex.h"

#define SIZE_MAX_TESTED 17000

// McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 4 and 16; RFC 8439 2.8.2.
static const struct {
    enum aead_algorithm algorithm;
    const char *key;
    const char *nonce;
    const char *additional;
    const char *plain;
    const char *sealed;
} known[] = {
    {AEAD_AES_128_GCM, "feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
     "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657"
     "ba637b39",
     "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac97"
     "3d58e0915bc94fbc3221a5db94fae95ae7121a47"},
    {AEAD_AES_256_GCM, "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
     "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657"
     "ba637b39",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0a"
     "bcc9f66276fc6ece0f4e1768cddf8853bb2d551b"},
    {AEAD_CHACHA20_POLY1305, "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
     "070000004041424344454647", "50515253c0c1c2c3c4c5c6c7",
     "4c616469657320616e642047656e746c656d656e206f662074686520636c617373206f66202739393a204966204920636f756c64206f6666"
     "657220796f75206f6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73637265656e20776f756c642062652069"
     "742e",
     "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b29"
     "05d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b"
     "61161ae10b594f09e26a7e902ecbd0600691"},
};

static void test_known_answers_are_sealed_and_opened(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(known); i++) {
        uint8_t key[32];
        uint8_t nonce[12];
        uint8_t additional[32];
        uint8_t plain[128];
        uint8_t sealed[144];
        uint8_t out[144];
        assert_int_equal(from_hex(known[i].key, key, sizeof key), aead_key_size(known[i].algorithm));
        assert_int_equal(from_hex(known[i].nonce, nonce, sizeof nonce), sizeof nonce);
        size_t additional_length = from_hex(known[i].additional, additional, sizeof additional);
        size_t length = from_hex(known[i].plain, plain, sizeof plain);
        size_t sealed_length = length + AEAD_TAG_SIZE;
        assert_int_equal(from_hex(known[i].sealed, sealed, sizeof sealed), sealed_length);
        struct aead *aead = aead_create(known[i].algorithm, key, NULL);
        assert_non_null(aead);
        // Twice: a key outlives a nonce, also that of a forged record.
        for (int round = 0; round < 2; round++) {
            assert_true(aead_seal(aead, nonce, additional, additional_length, plain, length, out));
            assert_memory_equal(out, sealed, sealed_length);
            assert_true(aead_open(aead, nonce, additional, additional_length, out, sealed_length, out));
            assert_memory_equal(out, plain, length);
            assert_false(aead_open(aead, nonce, additional, additional_length - 1, sealed, sealed_length, out));
        }
        assert_true(
            aead_seal_ending(aead, nonce, additional, additional_length, plain, length - 1, plain[length - 1], out));
        assert_memory_equal(out, sealed, sealed_length);
        aead_destroy(&aead);
    }
}

static void fill(uint8_t *bytes, size_t length, uint8_t from)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(from + i * 7);
}

// Each size is sealed by one and opened by another with the same key, in place and not.
static void test_every_size_is_opened_as_it_was_sealed(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4096, 16383, 16384, 16385};
    static uint8_t plain[SIZE_MAX_TESTED];
    static uint8_t first[SIZE_MAX_TESTED];
    static uint8_t second[SIZE_MAX_TESTED];
    uint8_t key[32];
    uint8_t nonce[12];
    uint8_t additional[16];
    fill(plain, sizeof plain, 1);
    fill(key, sizeof key, 2);
    fill(additional, sizeof additional, 3);
    for (int algorithm = AEAD_AES_128_GCM; algorithm <= AEAD_CHACHA20_POLY1305; algorithm++) {
        struct aead *mine = aead_create((enum aead_algorithm)algorithm, key, NULL);
        struct aead *its = aead_create((enum aead_algorithm)algorithm, key, NULL);
        for (size_t i = 0; i < ARRAY_LENGTH(sizes); i++) {
            size_t length = sizes[i];
            size_t known_length = i % 3 == 0 ? 0 : i % 14;
            fill(nonce, sizeof nonce, (uint8_t)i);
            assert_true(aead_seal(mine, nonce, additional, known_length, plain, length, first));
            memcpy(second, plain, length);
            assert_true(aead_seal(its, nonce, additional, known_length, second, length, second));
            assert_memory_equal(first, second, length + AEAD_TAG_SIZE);
            assert_true(aead_open(its, nonce, additional, known_length, first, length + AEAD_TAG_SIZE, first));
            assert_memory_equal(first, plain, length);
            // One more byte, given apart.
            assert_true(aead_seal_ending(mine, nonce, additional, known_length, plain, length, plain[length], first));
            assert_true(aead_open(its, nonce, additional, known_length, first, length + 1 + AEAD_TAG_SIZE, second));
            assert_memory_equal(second, plain, length + 1);
        }
        aead_destroy(&mine);
        aead_destroy(&its);
    }
}

// A bit of anything changed, and it does not open; nothing of it is left to be seen.
static void test_a_forgery_leaves_nothing_of_the_plaintext(void **state)
{
    (void)state;
    uint8_t key[32];
    uint8_t nonce[12];
    uint8_t additional[13];
    uint8_t plain[40];
    uint8_t sealed[56];
    uint8_t out[40];
    static const uint8_t zeros[40];
    fill(key, sizeof key, 2);
    fill(nonce, sizeof nonce, 4);
    fill(additional, sizeof additional, 3);
    fill(plain, sizeof plain, 1);
    for (int algorithm = AEAD_AES_128_GCM; algorithm <= AEAD_CHACHA20_POLY1305; algorithm++) {
        struct aead *aead = aead_create((enum aead_algorithm)algorithm, key, NULL);
        assert_true(aead_seal(aead, nonce, additional, sizeof additional, plain, 40, sealed));
        uint8_t *const parts[] = {sealed, nonce, additional};
        const size_t lengths[] = {sizeof sealed, sizeof nonce, sizeof additional};
        for (size_t part = 0; part < ARRAY_LENGTH(parts); part++) {
            for (size_t bit = 0; bit < lengths[part] * 8; bit++) {
                parts[part][bit / 8] ^= (uint8_t)(1 << bit % 8);
                memset(out, 0xee, sizeof out);
                assert_false(aead_open(aead, nonce, additional, sizeof additional, sealed, sizeof sealed, out));
                assert_memory_equal(out, zeros, sizeof out);
                parts[part][bit / 8] ^= (uint8_t)(1 << bit % 8);
            }
        }
        assert_true(aead_open(aead, nonce, additional, sizeof additional, sealed, sizeof sealed, out));
        aead_destroy(&aead);
    }
}

static void test_sizes_beyond_the_limits_are_refused(void **state)
{
    (void)state;
    uint8_t key[32] = {1};
    uint8_t nonce[12] = {2};
    uint8_t sealed[3 + AEAD_TAG_SIZE];
    uint8_t out[3];
    assert_true(aead_prepare(NULL));
    for (int i = 0; i < AEAD_ALGORITHM_COUNT; i++)
        assert_true(aead_is_available((enum aead_algorithm)i));
    assert_string_equal(aead_name(AEAD_CHACHA20_POLY1305), "ChaCha20-Poly1305");
    assert_int_equal(aead_key_size(AEAD_AES_128_GCM), 16);
    assert_int_equal(aead_key_size(AEAD_AES_256_GCM), 32);
    assert_int_equal(aead_key_size(AEAD_CHACHA20_POLY1305), 32);
    struct error error = ERROR_INIT;
    struct aead *aead = aead_create(AEAD_AES_256_GCM, key, &error);
    assert_non_null(aead);
    assert_true(aead_seal_ending(aead, nonce, NULL, 0, (const uint8_t *)"ab", 2, 'c', sealed));
    assert_true(aead_open(aead, nonce, NULL, 0, sealed, sizeof sealed, out));
    assert_memory_equal(out, "abc", 3);
    assert_true(aead_seal(aead, nonce, NULL, 0, (const uint8_t *)"abd", 3, sealed));
    assert_true(aead_open(aead, nonce, NULL, 0, sealed, sizeof sealed, out));
    assert_memory_equal(out, "abd", 3);
    for (size_t length = 0; length < sizeof sealed; length++)
        assert_false(aead_open(aead, nonce, NULL, 0, sealed, length, out));
    assert_false(aead_seal(aead, nonce, NULL, 0, key, SIZE_MAX, out));
    assert_false(aead_seal(aead, nonce, key, SIZE_MAX, key, 0, out));
    assert_false(aead_open(aead, nonce, NULL, 0, sealed, SIZE_MAX, out));
    aead_destroy(&aead);
    assert_null(aead);
    aead_destroy(&aead);
}

static size_t allocations;

static void *counting_malloc(size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    allocations++;
    return malloc(size);
}

static void *counting_realloc(void *block, size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    allocations++;
    return realloc(block, size);
}

static void counting_free(void *block, const char *file, int line)
{
    (void)file;
    (void)line;
    free(block);
}

static void test_records_cost_no_allocation(void **state)
{
    (void)state;
    static uint8_t bytes[1024 + AEAD_TAG_SIZE];
    static const uint8_t key[32];
    uint8_t nonce[12] = {0};
    for (int algorithm = AEAD_AES_128_GCM; algorithm <= AEAD_CHACHA20_POLY1305; algorithm++) {
        size_t before = allocations;
        struct aead *aead = aead_create((enum aead_algorithm)algorithm, key, NULL);
        assert_true(allocations > before);
        before = allocations;
        for (nonce[0] = 0; nonce[0] < 100; nonce[0]++) {
            assert_true(aead_seal(aead, nonce, key, 13, bytes, 1024, bytes));
            assert_true(aead_open(aead, nonce, key, 13, bytes, sizeof bytes, bytes));
            assert_false(aead_open(aead, nonce, key, 13, bytes, sizeof bytes, bytes));
        }
        assert_int_equal(allocations, before);
        aead_destroy(&aead);
    }
}

int main(void)
{
    // Has to come before anything else of libcrypto.
    if (CRYPTO_set_mem_functions(counting_malloc, counting_realloc, counting_free) != 1 || !aead_prepare(NULL))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_cost_no_allocation),
        cmocka_unit_test(test_known_answers_are_sealed_and_opened),
        cmocka_unit_test(test_every_size_is_opened_as_it_was_sealed),
        cmocka_unit_test(test_a_forgery_leaves_nothing_of_the_plaintext),
        cmocka_unit_test(test_sizes_beyond_the_limits_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
