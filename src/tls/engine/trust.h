// Whom certificates are held to: authorities and their revocation lists, as libcrypto has them. Contexts whose files
// have the same contents share one: a bundle of the system's takes a megabyte, and a configuration may have hundreds of
// targets. Never written once made, but for what libcrypto keeps in it under locks of its own; any thread.

#ifndef BITFLOW_SRC_TLS_ENGINE_TRUST_H
#define BITFLOW_SRC_TLS_ENGINE_TRUST_H

#include <stdbool.h>
#include <stddef.h>

#include <mbedtls/x509_crt.h>
#include <openssl/x509.h>

#include "bitflow/base/error.h"
#include "bitflow/base/shared.h"
#include "pem.h"

struct trust {
    struct shared shared;
    X509_STORE *store;
    STACK_OF(X509) *authorities; // all that the store has
    STACK_OF(X509) *listed;      // those of them that were given with revocation lists: each list is about its own
    STACK_OF(X509_CRL) *lists;
    STACK_OF(X509_CRL) *indirect;   // those of them that are about other issuers' certificates, too
    STACK_OF(X509_CRL) *unbelieved; // lists without a strong hash, or without an end (nextUpdate)
    unsigned skipped;               // certificates that cannot be used
    mbedtls_x509_crt *names;        // of the authorities, as mbedTLS takes them; has nothing else
};

// A file's text, and the path that errors name.
struct trust_file {
    const char *path;
    const struct pem_text *text;
};

// `lists` NULL: none. ERROR_INVALID, of which `*is_of_lists` says which file it is about; ERROR_NO_MEMORY. NULL then.
struct trust *trust_hold_files(const struct trust_file *authorities, const struct trust_file *lists, bool *is_of_lists,
                               struct error *error);

// All of several together; of one, that one. NULL: ERROR_NO_MEMORY.
struct trust *trust_hold_several(struct trust *const *parts, size_t count, struct error *error);

// Accepts NULL.
void trust_drop(struct trust **trust);

// How many there are: for tests.
size_t trust_count(void);

#endif
