// Whether the other side's certificate will do, and if not, why, in words. mbedTLS shakes hands and has the peer prove
// that it has its certificate's key; which certificates are to be believed is libcrypto's to say (X509_verify_cert), of
// exactly what the peer sent. One handshake's; its thread only.

#ifndef BITFLOW_SRC_TLS_ENGINE_VERIFY_H
#define BITFLOW_SRC_TLS_ENGINE_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mbedtls/ssl.h>
#include <openssl/x509.h>

#include "bitflow/config/config.h"
#include "bitflow/tls/tls_context.h"
#include "identity.h"

#define VERIFY_REASON_SIZE 320

struct tls_entry;
struct trust;

enum verify_verdict {
    VERDICT_NONE, // not judged, or none was sent
    VERDICT_ACCEPTED,
    VERDICT_REFUSED,
    VERDICT_NO_MEMORY, // it could not be judged
};

struct tls_verification {
    const struct tls_context *context;
    const struct tls_entry *entry; // whose own authority is in force; NULL: the context's
    const char *name;              // the name that a target is to have, NULL if it is an address
    uint8_t address[16];           // the address that it is to have
    size_t address_length;         // 0: a name

    // What the peer sent; see peer_certificates.h.
    X509 *certificate;      // its own; NULL: none
    STACK_OF(X509) *others; // that came with it
    unsigned received;
    const mbedtls_x509_crt *shown; // mbedTLS's, which has the certificate's key and nothing else

    // What came of it.
    bool is_judged; // mbedTLS has left it to us
    enum verify_verdict verdict;
    STACK_OF(X509) *chain;        // that libcrypto has built and accepted, the peer's own first
    char identity[IDENTITY_SIZE]; // of an accepted one: by which authorized name; empty: by none
    bool is_unauthorized;         // refused, since no authorized name is a client's
    unsigned char alert;          // that goes with a refusal
    char unusable[160];           // of the others, one that was left out, in words; empty: none
    char reason[VERIFY_REASON_SIZE];
};

// `host`: a target's, NULL for a listener. False: strict, and there is nothing to hold the certificate to, neither a
// host nor authorized names.
bool tls_verification_init(struct tls_verification *verification, const struct tls_context *context, const char *host);

void tls_verification_release(struct tls_verification *verification);

// Judges what was received, and says so in `verdict`, and in words.
void tls_verify(struct tls_verification *verification);

// Whether an authority that was issued by another one is let in as a part of peers' chains, as far as revocation lists
// say so. False: why, in words that speak of it as of "the certificate".
bool tls_verify_authority(const struct tls_context *context, const struct trust *trust, X509 *authority,
                          char out[VERIFY_REASON_SIZE]);

// Refuses by words of printf()'s; the first refusal stands.
void tls_refuse(struct tls_verification *verification, unsigned char alert, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// The last word, after the handshake. `alert`: what to send if it is no.
bool tls_verify_result(struct tls_verification *verification, const mbedtls_ssl_context *ssl, unsigned char *alert);

// Says why the certificate was refused; `flags` as mbedTLS left them.
const char *tls_verify_reason(struct tls_verification *verification, uint32_t flags);

// The certificate that was accepted. NULL: none was sent, or nobody is verified.
X509 *tls_verified_certificate(const struct tls_verification *verification);

#endif
