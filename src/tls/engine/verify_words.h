// Why libcrypto refuses a chain: in words that name the certificate at fault, and as the alert that the peer is sent.

#ifndef BITFLOW_SRC_TLS_ENGINE_VERIFY_WORDS_H
#define BITFLOW_SRC_TLS_ENGINE_VERIFY_WORDS_H

#include <stdbool.h>

#include <openssl/x509_vfy.h>

#include "trust.h"
#include "verify.h"

// Whether an error is about a revocation list, or the want of one.
bool verify_is_about_lists(int error);

// Of the error at hand. Its memory errors are not for here.
void verify_describe(struct tls_verification *verification, const struct trust *trust, X509_STORE_CTX *process);

// The certificate is for another name.
void verify_describe_mismatch(struct tls_verification *verification);

// A client's has no authorized name.
void verify_describe_unauthorized(struct tls_verification *verification);

// What libcrypto's error says of an issuer's revocation list; NULL: of there being none.
void verify_describe_lists(const struct trust *trust, int error, const X509_CRL *list, const X509_NAME *issuer,
                           char *out, size_t size);

#endif
