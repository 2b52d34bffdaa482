#include "libcrypto.h"

#include <stdio.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/rsa.h>

#include "bitflow/base/compiler.h"

bool libcrypto_failed_for_memory(void)
{
    bool is_told = false;
    for (unsigned long error = ERR_get_error(); error != 0; error = ERR_get_error())
        is_told = is_told || ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE;
    void *room = OPENSSL_malloc(65536); // more than any step of a verification takes
    bool is_there = room != NULL;
    OPENSSL_free(room);
    ERR_clear_error();
    return is_told || !is_there;
}

static bool is_strong(int hash)
{
    const EVP_MD *digest = EVP_get_digestbynid(hash);
    return digest != NULL && EVP_MD_get_size(digest) >= 28; // SHA-224 and up
}

static bool has_strong_pss(const X509_CRL *list)
{
    const X509_ALGOR *algorithm;
    const ASN1_BIT_STRING *signature;
    X509_CRL_get0_signature(list, &signature, &algorithm);
    const void *value = NULL;
    int type = V_ASN1_UNDEF;
    X509_ALGOR_get0(NULL, &type, &value, algorithm);
    if (type != V_ASN1_SEQUENCE)
        return false;
    RSA_PSS_PARAMS *parameters = ASN1_item_unpack(value, ASN1_ITEM_rptr(RSA_PSS_PARAMS));
    bool is_good = false;
    if (parameters != NULL && parameters->hashAlgorithm != NULL) { // the default is SHA-1
        const ASN1_OBJECT *hash;
        X509_ALGOR_get0(&hash, NULL, NULL, parameters->hashAlgorithm);
        is_good = is_strong(OBJ_obj2nid(hash));
    }
    RSA_PSS_PARAMS_free(parameters);
    return is_good;
}

bool libcrypto_has_strong_hash(const X509_CRL *list)
{
    int hash = NID_undef;
    int kind = NID_undef;
    int nid = X509_CRL_get_signature_nid(list);
    if (nid == NID_rsassaPss)
        return has_strong_pss(list);
    // Ed25519 and Ed448 have none of their own.
    return OBJ_find_sigid_algs(nid, &hash, &kind) == 1 && (hash == NID_undef || is_strong(hash));
}

bool libcrypto_is_delta(const X509_CRL *list)
{
    return X509_CRL_get_ext_by_NID(list, NID_delta_crl, -1) >= 0;
}

// ---- keys

#define RSA_BITS_MAX 8192 // mbedTLS's own limit, too
#define RSA_EXPONENT_BITS_MAX 256

static bool is_usable_rsa(const EVP_PKEY *key, char *kind)
{
    BIGNUM *exponent = NULL;
    bool is_short = EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &exponent) == 1 &&
                    BN_num_bits(exponent) <= RSA_EXPONENT_BITS_MAX;
    BN_free(exponent);
    if (EVP_PKEY_get_bits(key) > RSA_BITS_MAX)
        (void)snprintf(kind, LIBCRYPTO_KIND_SIZE, "of RSA with %d bits, more than %d", EVP_PKEY_get_bits(key),
                       RSA_BITS_MAX);
    else if (!is_short)
        (void)snprintf(kind, LIBCRYPTO_KIND_SIZE, "of RSA with a public exponent of more than %d bits",
                       RSA_EXPONENT_BITS_MAX);
    else
        return true;
    return false;
}

static bool is_usable_curve(const EVP_PKEY *key, char *kind)
{
    static const char *const curves[] = {"prime256v1",      "secp384r1",       "secp521r1",
                                         "brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1"};
    char name[64] = "";
    int is_explicit = 1;
    size_t length = 0;
    if (EVP_PKEY_get_int_param(key, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS, &is_explicit) != 1 ||
        is_explicit != 0) {
        (void)snprintf(kind, LIBCRYPTO_KIND_SIZE, "on a curve of its own, which is not supported");
        return false;
    }
    if (EVP_PKEY_get_group_name(key, name, sizeof name, &length) == 1)
        for (size_t i = 0; i < ARRAY_LENGTH(curves); i++)
            if (strcmp(name, curves[i]) == 0)
                return true;
    (void)snprintf(kind, LIBCRYPTO_KIND_SIZE, "on the curve %.40s, which is not supported", name);
    return false;
}

void libcrypto_describe_key(const X509 *certificate, char kind[LIBCRYPTO_KIND_SIZE])
{
    char name[48] = "of an unknown one";
    ASN1_OBJECT *algorithm = NULL;
    if (X509_PUBKEY_get0_param(&algorithm, NULL, NULL, NULL, X509_get_X509_PUBKEY(certificate)) == 1)
        (void)OBJ_obj2txt(name, sizeof name, algorithm, 0);
    switch (OBJ_obj2nid(algorithm)) { // whose names in libcrypto are not what people know
    case NID_ED25519:
        (void)snprintf(name, sizeof name, "Ed25519");
        break;
    case NID_ED448:
        (void)snprintf(name, sizeof name, "Ed448");
        break;
    case NID_rsassaPss:
        (void)snprintf(name, sizeof name, "RSASSA-PSS");
        break;
    case NID_dsa:
        (void)snprintf(name, sizeof name, "DSA");
        break;
    default:
        break;
    }
    (void)snprintf(kind, LIBCRYPTO_KIND_SIZE, "of the kind %s, which is not supported", name);
}

bool libcrypto_is_usable_key(const X509 *certificate, char kind[LIBCRYPTO_KIND_SIZE])
{
    const EVP_PKEY *key = X509_get0_pubkey(certificate);
    switch (key != NULL ? EVP_PKEY_get_base_id(key) : EVP_PKEY_NONE) {
    case EVP_PKEY_RSA:
    case EVP_PKEY_RSA_PSS:
        return is_usable_rsa(key, kind);
    case EVP_PKEY_EC:
        return is_usable_curve(key, kind);
    case EVP_PKEY_ED25519:
    case EVP_PKEY_ED448:
        return true;
    default:
        libcrypto_describe_key(certificate, kind);
        return false;
    }
}
