// Of which authorities the revocation lists beside them say enough for what they issued to be let in: for --check, and
// the warnings at the start. What a peer's chain makes of them, verify.c finds out. Any thread.

#ifndef BITFLOW_SRC_TLS_ENGINE_COVERAGE_H
#define BITFLOW_SRC_TLS_ENGINE_COVERAGE_H

#include <stdbool.h>
#include <stddef.h>

#include <openssl/x509.h>

#include "trust.h"

#define COVERAGE_WORDS_SIZE 240

enum coverage {
    // Also of what is no CA; and where lists are about a part of the certificates: which these are, only they can say.
    COVERAGE_GOOD,
    COVERAGE_UNCERTAIN, // it has no list of its own, but another issuer's may be about its certificates
    COVERAGE_EXPIRED,   // nothing that it issued is let in, since its list has expired
    COVERAGE_NONE,      // nor is it here, for other reasons
};

// `words`: why, where it is not good.
enum coverage coverage_of(const struct trust *trust, const X509 *authority, char words[COVERAGE_WORDS_SIZE]);

// Whether another list says as much about the certificates that `list` is about: one that is complete, or with the same
// issuingDistributionPoint; that has not expired.
bool coverage_is_replaced(const STACK_OF(X509_CRL) *lists, const X509_CRL *list);

// Whether a list is about a part of its issuer's certificates.
bool coverage_is_partial(const X509_CRL *list);

#endif
