// Functions of other names, for a copy of mbedTLS's SSL library that asks for them: they lead to mbedTLS's own.

#include <dlfcn.h>
#include <stddef.h>

typedef long function(long, long, long, long, long, long, long, long, long);

// As many arguments as any of them has; what is more than the caller's is not looked at.
#define LEADS_TO(name, original, library)                                             \
    long name(long a, long b, long c, long d, long e, long f, long g, long h, long i) \
    {                                                                                 \
        void *handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);                      \
        return ((function *)dlsym(handle, original))(a, b, c, d, e, f, g, h, i);      \
    }

LEADS_TO(mbedtls_x509_crt_parse_de_, "mbedtls_x509_crt_parse_der", "libmbedx509.so.7")
LEADS_TO(mbedtls_x509_crt_verify_restartabl_, "mbedtls_x509_crt_verify_restartable", "libmbedx509.so.7")
LEADS_TO(mbedtls_pk_verify_restartabl_, "mbedtls_pk_verify_restartable", "libmbedcrypto.so.16")
