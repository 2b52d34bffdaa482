// A policy of libcrypto's: a provider that has what the default one has, but for ChaCha20-Poly1305 and X25519, which
// FIPS policies leave out. openssl.cnf names it as a module.

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <openssl/core.h>
#include <openssl/core_dispatch.h>
#include <openssl/crypto.h>
#include <openssl/provider.h>

#define MAX_ALGORITHMS 200

static OSSL_PROVIDER *provider; // the default one, in a context of its own

static bool is_left_out(const char *names)
{
    return strcmp(names, "ChaCha20-Poly1305") == 0 || strncmp(names, "X25519:", strlen("X25519:")) == 0;
}

static const OSSL_ALGORITHM *query(void *context, int operation, int *must_not_store)
{
    static OSSL_ALGORITHM kept[OSSL_OP__HIGHEST + 1][MAX_ALGORITHMS];
    (void)context;
    const OSSL_ALGORITHM *all = OSSL_PROVIDER_query_operation(provider, operation, must_not_store);
    if (all == NULL)
        return all;
    size_t count = 0;
    for (; all->algorithm_names != NULL && count + 1 < MAX_ALGORITHMS; all++)
        if (!is_left_out(all->algorithm_names))
            kept[operation][count++] = *all;
    kept[operation][count] = (OSSL_ALGORITHM){.algorithm_names = NULL};
    return kept[operation];
}

int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
                       void **context)
{
    static const OSSL_DISPATCH functions[] = {{OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query}, {0, NULL}};
    (void)handle;
    (void)in;
    OSSL_LIB_CTX *own = OSSL_LIB_CTX_new();
    provider = own != NULL ? OSSL_PROVIDER_load(own, "default") : NULL;
    if (provider == NULL)
        return 0;
    *context = OSSL_PROVIDER_get0_provider_ctx(provider);
    *out = functions;
    return 1;
}
