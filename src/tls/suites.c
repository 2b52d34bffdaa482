#include "suites.h"

#include <string.h>

#include "bitflow/base/compiler.h"
#include "bitflow/tls/tls_session.h"

static const struct tls_suite suites[TLS_SUITE_COUNT] = {
    {0x1301, AEAD_AES_128_GCM, TLS_SHA256, "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"},
    {0x1302, AEAD_AES_256_GCM, TLS_SHA384, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"},
    {0x1303, AEAD_CHACHA20_POLY1305, TLS_SHA256, "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"},
    {0xc02b, AEAD_AES_128_GCM, TLS_SHA256, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"},
    {0xc02f, AEAD_AES_128_GCM, TLS_SHA256, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"},
    {0xc02c, AEAD_AES_256_GCM, TLS_SHA384, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"},
    {0xc030, AEAD_AES_256_GCM, TLS_SHA384, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"},
    {0xcca9, AEAD_CHACHA20_POLY1305, TLS_SHA256, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
     "ECDHE-ECDSA-CHACHA20-POLY1305"},
    {0xcca8, AEAD_CHACHA20_POLY1305, TLS_SHA256, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
     "ECDHE-RSA-CHACHA20-POLY1305"},
};

const struct tls_suite *tls_suite_find(int id)
{
    for (size_t i = 0; i < ARRAY_LENGTH(suites); i++)
        if (suites[i].id == id)
            return &suites[i];
    return NULL;
}

void tls_suites_list(int ids[TLS_SUITE_COUNT + 1])
{
    size_t count = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(suites); i++)
        if (aead_is_available(suites[i].algorithm))
            ids[count++] = suites[i].id;
    ids[count] = 0;
}

const char *tls_openssl_cipher(const char *cipher)
{
    for (size_t i = 0; i < ARRAY_LENGTH(suites); i++)
        if (strcmp(suites[i].name, cipher) == 0)
            return suites[i].openssl_name;
    return cipher;
}
