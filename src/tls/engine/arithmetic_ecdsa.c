// mbedTLS's ECDSA signatures, made by libcrypto with the keys that have a twin. The contract is that of mbedtls/ecdsa.h
// but for one thing: the same hash gets another signature each time. libcrypto makes its nonce of the private key, the
// hash and random numbers together, so that bad random numbers alone do not tell the key either.
//
// mbedTLS's own spends most of its time on what is not a product of points: the inverse of the nonce takes seven times
// as many instructions as the product, with libcrypto beneath it.

#include <string.h>

#include <mbedtls/ecdsa.h>
#include <mbedtls/md.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include "arithmetic_internal.h"

#define KEY_DER_MAX 512 // more than a key of P-521 takes

// Returns the signature's length, in `signature` with room for MBEDTLS_ECDSA_MAX_LEN; 0: libcrypto does not make one.
static size_t make(EVP_PKEY *twin, const unsigned char *hash, size_t length, unsigned char *signature)
{
    size_t written = MBEDTLS_ECDSA_MAX_LEN;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, twin, NULL);
    bool is_good = context != NULL && EVP_PKEY_sign_init(context) == 1 &&
                   EVP_PKEY_sign(context, signature, &written, hash, length) == 1;
    EVP_PKEY_CTX_free(context);
    return is_good ? written : 0;
}

EVP_PKEY *arithmetic_import_ecdsa(const mbedtls_pk_context *key, mbedtls_ecp_keypair *pair)
{
    static const unsigned char trial[32] = {1};
    unsigned char der[KEY_DER_MAX]; // written at the end
    unsigned char signature[MBEDTLS_ECDSA_MAX_LEN];
    int length = mbedtls_pk_write_key_der(key, der, sizeof der);
    const unsigned char *at = der + sizeof der - (length > 0 ? length : 0);
    EVP_PKEY *twin = length > 0 ? d2i_PrivateKey_ex(EVP_PKEY_EC, NULL, &at, length, NULL, NULL) : NULL;
    OPENSSL_cleanse(der, sizeof der);
    size_t written = twin != NULL ? make(twin, trial, sizeof trial, signature) : 0;
    if (written > 0 && mbedtls_ecdsa_read_signature(pair, trial, sizeof trial, signature, written) == 0)
        return twin;
    EVP_PKEY_free(twin);
    return NULL;
}

static size_t sign(const mbedtls_ecdsa_context *key, const unsigned char *hash, size_t length, unsigned char *signature)
{
    struct key_twin *twin = key_twin_find(key);
    EVP_PKEY *held = twin != NULL ? key_twin_hold(twin) : NULL;
    size_t written = held != NULL ? make(held, hash, length, signature) : 0;
    EVP_PKEY_free(held);
    return written;
}

// Parameters are those of mbedtls/ecdsa.h, and called so. mbedtls_ecdsa_write_signature() comes here, too.
// NOLINTBEGIN(readability-identifier-naming,readability-function-size)

int mbedtls_ecdsa_write_signature_restartable(mbedtls_ecdsa_context *ctx, mbedtls_md_type_t md_alg,
                                              const unsigned char *hash, size_t hlen, unsigned char *sig,
                                              size_t sig_size, size_t *slen, mbedtls_f_rng_t *f_rng, void *p_rng,
                                              mbedtls_ecdsa_restart_ctx *rs_ctx)
{
    const struct arithmetic_originals *originals;
    unsigned char signature[MBEDTLS_ECDSA_MAX_LEN];
    bool is_ready = arithmetic_enter(ECDSA_SIGN, &originals) && f_rng != NULL && rs_ctx == NULL && hlen > 0 &&
                    mbedtls_md_info_from_type(md_alg) != NULL;
    size_t length = is_ready ? sign(ctx, hash, hlen, signature) : 0;
    if (arithmetic_leave(ECDSA_SIGN, length > 0 && length <= sig_size)) {
        memcpy(sig, signature, length);
        *slen = length;
        return 0;
    }
    if (originals->ecdsa_sign == NULL)
        return MBEDTLS_ERR_ECP_FEATURE_UNAVAILABLE;
    return originals->ecdsa_sign(ctx, md_alg, hash, hlen, sig, sig_size, slen, f_rng, p_rng, rs_ctx);
}

// NOLINTEND(readability-identifier-naming,readability-function-size)
