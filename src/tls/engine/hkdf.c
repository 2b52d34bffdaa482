#include "hkdf.h"

#include <string.h>

#include <mbedtls/md.h>

#include "bitflow/base/invariant.h"

size_t tls_hash_size(enum tls_hash hash)
{
    return hash == TLS_SHA256 ? 32 : 48;
}

bool hkdf_expand_label(enum tls_hash hash, const uint8_t *secret, const char *label, uint8_t *out, size_t length)
{
    static const char prefix[] = "tls13 ";
    size_t prefix_length = sizeof prefix - 1;
    size_t label_length = strlen(label);
    uint8_t info[2 + 1 + 32 + 1 + 1];
    // HKDF-Expand's first block is all that TLS's secrets, keys and IVs ever need.
    INVARIANT(length <= tls_hash_size(hash) && prefix_length + label_length <= 32);

    size_t used = 0;
    info[used++] = (uint8_t)(length >> 8);
    info[used++] = (uint8_t)length;
    info[used++] = (uint8_t)(prefix_length + label_length);
    memcpy(info + used, prefix, prefix_length);
    used += prefix_length;
    memcpy(info + used, label, label_length);
    used += label_length;
    info[used++] = 0; // the context's length
    info[used++] = 1; // the block's number

    const mbedtls_md_info_t *md = mbedtls_md_info_from_type(hash == TLS_SHA256 ? MBEDTLS_MD_SHA256 : MBEDTLS_MD_SHA384);
    uint8_t block[MBEDTLS_MD_MAX_SIZE];
    bool is_good = md != NULL && mbedtls_md_hmac(md, secret, tls_hash_size(hash), info, used, block) == 0;
    if (is_good)
        memcpy(out, block, length);
    explicit_bzero(block, sizeof block);
    return is_good;
}
