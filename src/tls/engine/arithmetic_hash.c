// mbedTLS's SHA-256 and SHA-512 (and so SHA-224 and SHA-384), block by block, done by libcrypto, which uses what the
// processor has for them. A handshake with TLS 1.3 hashes 160 blocks, most of them for HKDF.
//
// mbedTLS keeps a hash as eight words in the order of the machine, as FIPS 180-4 writes them, and so does libcrypto:
// they are all that goes to and fro. The layout of mbedTLS's context is part of its binary interface, since programs
// allocate it.

#define OPENSSL_SUPPRESS_DEPRECATED // OpenSSL has no other way to hash a single block

#include <string.h>

#include <mbedtls/sha256.h>
#include <mbedtls/sha512.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include "arithmetic_internal.h"

_Static_assert(sizeof((mbedtls_sha256_context *)NULL)->MBEDTLS_PRIVATE(state) == sizeof((SHA256_CTX *)NULL)->h,
               "both keep eight words of 32 bits");
_Static_assert(sizeof((mbedtls_sha512_context *)NULL)->MBEDTLS_PRIVATE(state) == sizeof((SHA512_CTX *)NULL)->h,
               "both keep eight words of 64 bits");

int mbedtls_internal_sha256_process(mbedtls_sha256_context *ctx, const unsigned char data[64])
{
    SHA256_CTX hash;
    arithmetic_counts.entered[SHA256_BLOCK]++;
    memcpy(hash.h, ctx->MBEDTLS_PRIVATE(state), sizeof hash.h);
    SHA256_Transform(&hash, data);
    memcpy(ctx->MBEDTLS_PRIVATE(state), hash.h, sizeof hash.h);
    OPENSSL_cleanse(hash.h, sizeof hash.h);
    arithmetic_counts.done[SHA256_BLOCK]++;
    return 0;
}

int mbedtls_internal_sha512_process(mbedtls_sha512_context *ctx, const unsigned char data[128])
{
    SHA512_CTX hash;
    arithmetic_counts.entered[SHA512_BLOCK]++;
    memcpy(hash.h, ctx->MBEDTLS_PRIVATE(state), sizeof hash.h);
    SHA512_Transform(&hash, data);
    memcpy(ctx->MBEDTLS_PRIVATE(state), hash.h, sizeof hash.h);
    OPENSSL_cleanse(hash.h, sizeof hash.h);
    arithmetic_counts.done[SHA512_BLOCK]++;
    return 0;
}

bool arithmetic_check_hashes(void)
{
    // FIPS 180-4's examples of one block.
    static const unsigned char message[3] = {'a', 'b', 'c'};
    static const unsigned char expected_256[32] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
                                                   0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                                                   0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    static const unsigned char expected_384[48] = {
        0xcb, 0x00, 0x75, 0x3f, 0x45, 0xa3, 0x5e, 0x8b, 0xb5, 0xa0, 0x3d, 0x69, 0x9a, 0xc6, 0x50, 0x07,
        0x27, 0x2c, 0x32, 0xab, 0x0e, 0xde, 0xd1, 0x63, 0x1a, 0x8b, 0x60, 0x5a, 0x43, 0xff, 0x5b, 0xed,
        0x80, 0x86, 0x07, 0x2b, 0xa1, 0xe7, 0xcc, 0x23, 0x58, 0xba, 0xec, 0xa1, 0x34, 0xc8, 0x25, 0xa7};
    unsigned char hash[64];
    return mbedtls_sha256(message, sizeof message, hash, 0) == 0 &&
           memcmp(hash, expected_256, sizeof expected_256) == 0 &&
           mbedtls_sha512(message, sizeof message, hash, 1) == 0 &&
           memcmp(hash, expected_384, sizeof expected_384) == 0;
}
