// The build without libcrypto's arithmetic: mbedTLS does its own.

#include "bitflow/tls/tls_arithmetic.h"

#include <stdio.h>

#include <mbedtls/version.h>

#include "tls_arithmetic_parts.h"

static char provider[32] = "unknown";

bool tls_arithmetic_init(struct error *error)
{
    (void)error;
    char version[9]; // as mbedTLS wants it
    mbedtls_version_get_string(version);
    (void)snprintf(provider, sizeof provider, "mbedTLS %s", version);
    return true;
}

const char *tls_arithmetic_provider(void)
{
    return provider;
}

bool rsa_twin_create(const mbedtls_pk_context *key, struct rsa_twin **twin, struct error *error)
{
    (void)key;
    (void)twin;
    (void)error;
    return true;
}

void rsa_twin_destroy(struct rsa_twin **twin)
{
    *twin = NULL;
}

void arithmetic_leave_thread(void)
{
}

bool arithmetic_has_x25519(void)
{
    return true;
}
