// Taking over mbedTLS's arithmetic: its originals, the check that its library really comes to ours, and what is said
// of it.

#include "bitflow/tls/tls_arithmetic.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <mbedtls/ecdh.h>
#include <mbedtls/ecdsa.h>
#include <mbedtls/psa_util.h>
#include <mbedtls/sha256.h>
#include <mbedtls/version.h>
#include <openssl/crypto.h>
#include <openssl/err.h>

#include "arithmetic_internal.h"
#include "bitflow/base/compiler.h"
#include "original.h"

_Thread_local struct arithmetic_counts arithmetic_counts;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct arithmetic_originals found;
static bool has_originals;
static bool is_ready;

static void prepare(void)
{
    has_originals = find_original("mbedtls_ecp_mul_restartable", &found.product) &&
                    find_original("mbedtls_ecp_muladd_restartable", &found.sum) &&
                    find_original("mbedtls_rsa_public", &found.rsa_public) &&
                    find_original("mbedtls_rsa_private", &found.rsa_private) &&
                    find_original("mbedtls_ecdsa_write_signature_restartable", &found.ecdsa_sign);
    // Other threads may be at work at the process's end, as aead.c says.
    is_ready = has_originals && OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL) == 1 && arithmetic_curves_prepare();
    ERR_clear_error();
}

bool arithmetic_enter(enum arithmetic which, const struct arithmetic_originals **originals)
{
    bool is_known = pthread_once(&once, prepare) == 0;
    *originals = &found;
    arithmetic_counts.entered[which]++;
    return is_known && is_ready;
}

bool arithmetic_leave(enum arithmetic which, bool is_done)
{
    if (is_done)
        arithmetic_counts.done[which]++;
    else
        ERR_clear_error();
    return is_done;
}

void arithmetic_leave_thread(void)
{
    OPENSSL_thread_stop();
}

// RFC 7748, 6.1: what Alice computes. Her private key is written as the curve uses it.
static bool check_curve(void)
{
    static const unsigned char private_key[32] = {0x70, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1,
                                                  0x72, 0x51, 0xb2, 0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0,
                                                  0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x6a};
    static const unsigned char point[32] = {0xde, 0x9e, 0xdb, 0x7d, 0x7b, 0x7d, 0xc1, 0xb4, 0xd3, 0x5b, 0x61,
                                            0xc2, 0xec, 0xe4, 0x35, 0x37, 0x3f, 0x83, 0x43, 0xc8, 0x5b, 0x78,
                                            0x67, 0x4d, 0xad, 0xfc, 0x7e, 0x14, 0x6f, 0x88, 0x2b, 0x4f};
    static const unsigned char expected[32] = {0x4a, 0x5d, 0x9d, 0x5b, 0xa4, 0xce, 0x2d, 0xe1, 0x72, 0x8e, 0x3b,
                                               0xf4, 0x80, 0x35, 0x0f, 0x25, 0xe0, 0x7e, 0x21, 0xc9, 0x47, 0xd1,
                                               0x9e, 0x33, 0x76, 0xf0, 0x9b, 0x3c, 0x1e, 0x16, 0x17, 0x42};
    mbedtls_ecp_group group;
    mbedtls_ecp_point peer;
    mbedtls_mpi key, shared;
    unsigned char result[32] = {0};
    mbedtls_ecp_group_init(&group);
    mbedtls_ecp_point_init(&peer);
    mbedtls_mpi_init(&key);
    mbedtls_mpi_init(&shared);
    bool is_good = mbedtls_ecp_group_load(&group, MBEDTLS_ECP_DP_CURVE25519) == 0 &&
                   mbedtls_mpi_read_binary_le(&key, private_key, sizeof private_key) == 0 &&
                   mbedtls_ecp_point_read_binary(&group, &peer, point, sizeof point) == 0 &&
                   mbedtls_ecdh_compute_shared(&group, &shared, &peer, &key, mbedtls_psa_get_random,
                                               MBEDTLS_PSA_RANDOM_STATE) == 0 &&
                   mbedtls_mpi_write_binary_le(&shared, result, sizeof result) == 0 &&
                   memcmp(result, expected, sizeof result) == 0;
    mbedtls_mpi_free(&shared);
    mbedtls_mpi_free(&key);
    mbedtls_ecp_point_free(&peer);
    mbedtls_ecp_group_free(&group);
    return is_good;
}

// A signature need not be valid for its sum of products to be calculated.
static bool check_sum(void)
{
    static const unsigned char hash[32] = {1};
    mbedtls_ecp_group group;
    mbedtls_mpi one;
    mbedtls_ecp_group_init(&group);
    mbedtls_mpi_init(&one);
    bool is_good =
        mbedtls_ecp_group_load(&group, MBEDTLS_ECP_DP_SECP256R1) == 0 && mbedtls_mpi_lset(&one, 1) == 0 &&
        mbedtls_ecdsa_verify(&group, hash, sizeof hash, &group.G, &one, &one) == MBEDTLS_ERR_ECP_VERIFY_FAILED;
    mbedtls_mpi_free(&one);
    mbedtls_ecp_group_free(&group);
    return is_good;
}

// There and back again with the smallest key that mbedTLS takes.
static bool check_rsa(void)
{
    static const unsigned char p[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc5}; // 2^64 - 59
    static const unsigned char q[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xad}; // 2^64 - 83
    static const unsigned char e[3] = {1, 0, 1};
    static const unsigned char message[5] = {'t', 'h', 'e', 'r', 'e'};
    unsigned char hidden[16], back[16];
    size_t length = 0;
    mbedtls_rsa_context key;
    mbedtls_rsa_init(&key);
    bool is_good = mbedtls_rsa_import_raw(&key, NULL, 0, p, sizeof p, q, sizeof q, NULL, 0, e, sizeof e) == 0 &&
                   mbedtls_rsa_complete(&key) == 0 &&
                   mbedtls_rsa_pkcs1_encrypt(&key, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE, sizeof message,
                                             message, hidden) == 0 &&
                   mbedtls_rsa_pkcs1_decrypt(&key, mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE, &length, hidden,
                                             back, sizeof back) == 0 &&
                   length == sizeof message && memcmp(back, message, sizeof message) == 0;
    mbedtls_rsa_free(&key);
    return is_good;
}

// RFC 6979, A.2.5: the signature of "sample" by P-256 with SHA-256. It is the original that makes it, the key having no
// twin.
static bool check_signature(void)
{
    static const unsigned char private_key[32] = {0xc9, 0xaf, 0xa9, 0xd8, 0x45, 0xba, 0x75, 0x16, 0x6b, 0x5c, 0x21,
                                                  0x57, 0x67, 0xb1, 0xd6, 0x93, 0x4e, 0x50, 0xc3, 0xdb, 0x36, 0xe8,
                                                  0x9b, 0x12, 0x7b, 0x8a, 0x62, 0x2b, 0x12, 0x0f, 0x67, 0x21};
    static const unsigned char r[32] = {0xef, 0xd4, 0x8b, 0x2a, 0xac, 0xb6, 0xa8, 0xfd, 0x11, 0x40, 0xdd,
                                        0x9c, 0xd4, 0x5e, 0x81, 0xd6, 0x9d, 0x2c, 0x87, 0x7b, 0x56, 0xaa,
                                        0xf9, 0x91, 0xc3, 0x4d, 0x0e, 0xa8, 0x4e, 0xaf, 0x37, 0x16};
    static const unsigned char message[6] = {'s', 'a', 'm', 'p', 'l', 'e'};
    unsigned char hash[32], signature[MBEDTLS_ECDSA_MAX_LEN];
    size_t length = 0;
    mbedtls_pk_context key;
    mbedtls_pk_init(&key);
    bool is_good =
        mbedtls_sha256(message, sizeof message, hash, 0) == 0 &&
        mbedtls_pk_setup(&key, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY)) == 0 &&
        mbedtls_ecp_read_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(key), private_key, sizeof private_key) == 0 &&
        mbedtls_pk_sign(&key, MBEDTLS_MD_SHA256, hash, sizeof hash, signature, sizeof signature, &length,
                        mbedtls_psa_get_random, MBEDTLS_PSA_RANDOM_STATE) == 0;
    // A sequence of two integers, the first of which has a zero in front.
    is_good = is_good && length > 5 + sizeof r && memcmp(signature + 5, r, sizeof r) == 0;
    mbedtls_pk_free(&key);
    return is_good;
}

static char provider[64] = "unknown";

// What mbedTLS's library calls is decided when it is loaded, and can be seen only by calling it.
static bool is_called(const struct arithmetic_counts *before)
{
    for (size_t i = 0; i < ARITHMETIC_COUNT; i++)
        if (arithmetic_counts.entered[i] == before->entered[i])
            return false;
    return arithmetic_counts.done[CURVE_SUM] > before->done[CURVE_SUM];
}

bool tls_arithmetic_init(struct error *error)
{
    if (pthread_once(&once, prepare) != 0 || !is_ready) {
        error_set(error, ERROR_SYSTEM, "the cryptographic libraries do not fit together: %s",
                  has_originals ? "libcrypto does not give P-256, P-384 and P-521"
                                : "mbedTLS's own functions are not found");
        return false;
    }
    const struct arithmetic_counts before = arithmetic_counts;
    if (!check_curve() || !check_sum() || !check_rsa() || !check_signature() || !arithmetic_check_hashes()) {
        error_set(error, ERROR_SYSTEM, "the cryptographic libraries do not compute what they should");
        return false;
    }
    if (is_called(&before)) {
        (void)snprintf(provider, sizeof provider, "libcrypto (OpenSSL %s)",
                       OpenSSL_version(OPENSSL_FULL_VERSION_STRING));
    } else {
        char version[9]; // as mbedTLS wants it
        mbedtls_version_get_string(version);
        (void)snprintf(provider, sizeof provider, "mbedTLS %s", version);
    }
    return true;
}

const char *tls_arithmetic_provider(void)
{
    return provider;
}
