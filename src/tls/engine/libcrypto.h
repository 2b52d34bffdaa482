// What libcrypto knows but does not say by itself. Any thread, no state.

#ifndef BITFLOW_SRC_TLS_ENGINE_LIBCRYPTO_H
#define BITFLOW_SRC_TLS_ENGINE_LIBCRYPTO_H

#include <stdbool.h>

#include <openssl/x509.h>

// Whether what has just failed did so for want of memory: this thread's list of errors tells, or an allocation fails
// now. The list is emptied.
bool libcrypto_failed_for_memory(void);

// Whether a revocation list is signed with a hash that certificates may be signed with, too (112 bits of security).
bool libcrypto_has_strong_hash(const X509_CRL *list);

// Whether a revocation list only says what has changed since another one.
bool libcrypto_is_delta(const X509_CRL *list);

// Whether a peer's certificate may have such a key: verifying with it costs little, and its parameters are not the
// peer's own. `kind` gets what is wrong with it in words that follow "a key".
#define LIBCRYPTO_KIND_SIZE 96
bool libcrypto_is_usable_key(const X509 *certificate, char kind[LIBCRYPTO_KIND_SIZE]);

// "of the kind Ed25519, which is not supported".
void libcrypto_describe_key(const X509 *certificate, char kind[LIBCRYPTO_KIND_SIZE]);

#endif
