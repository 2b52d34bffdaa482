// Whether a certificate is revoked, by the lists of its issuer. mbedTLS checks the lists that it is given, but passes
// over an issuer that has none among them, and takes the first of an issuer's name for the only one. So it is given
// none, and this decides. RFC 5280 6.3, for complete lists that their issuers sign themselves. No state; any thread.

#ifndef BITFLOW_SRC_TLS_ENGINE_REVOCATION_H
#define BITFLOW_SRC_TLS_ENGINE_REVOCATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mbedtls/x509_crl.h>
#include <mbedtls/x509_crt.h>

struct revocation {
    // 0: not revoked, says a current list. Else MBEDTLS_X509_BADCERT_REVOKED, or why there is no current list:
    // MBEDTLS_X509_BADCRL_EXPIRED, _FUTURE, _BAD_MD (too weak), _NOT_TRUSTED (there is none, or another key has signed
    // it), _BAD_KEY (the issuer's key may not sign lists).
    uint32_t flag;
    const mbedtls_x509_crl *list; // that it is about; NULL: there is none
};

// `lists` may be empty. `certificate` NULL: only whether there is a current list of the issuer.
struct revocation revocation_check(const mbedtls_x509_crl *lists, const mbedtls_x509_crt *certificate,
                                   mbedtls_x509_crt *issuer);

// Whether a list is not complete: a delta, or limited to some kinds of certificates, reasons or distribution points
// (RFC 5280 5.2.4, 5.2.5). mbedTLS parses such a list only if it is not marked as it should be, as critical.
bool revocation_is_partial(const mbedtls_x509_crl *list);

// In words that name the issuer: "there is no revocation list of CN=A". Not of REVOKED. Returns `out`.
const char *revocation_words(const struct revocation *revocation, const mbedtls_x509_crt *issuer, char *out,
                             size_t size);

#endif
