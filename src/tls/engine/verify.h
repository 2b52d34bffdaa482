// Whether the other side's certificate will do, and if not, why, in words. One handshake's; its thread only.

#ifndef BITFLOW_SRC_TLS_ENGINE_VERIFY_H
#define BITFLOW_SRC_TLS_ENGINE_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mbedtls/ssl.h>
#include <mbedtls/x509_crt.h>

#include "bitflow/config/config.h"
#include "bitflow/tls/tls_context.h"
#include "revocation.h"

#define VERIFY_REASON_SIZE 240

struct tls_entry;

struct tls_verification {
    const struct tls_context *context;
    const struct tls_entry *entry; // whose own authority is in force; NULL: the context's
    mbedtls_x509_crt *issuer;      // of the certificate at hand, as the callback came along it; NULL: at the first
    bool needs_lists;              // each issuer must have a current revocation list
    struct revocation revocation;  // what they say of the certificate at hand
    const char *name;              // the name that a target is to have, NULL if it is an address
    uint8_t address[16];           // the address that it is to have
    size_t address_length;         // 0: a name
    uint32_t named;                // the flag that `reason` is about
    char reason[VERIFY_REASON_SIZE];
};

// `host`: a target's, NULL for a listener. False: strict, and there is nothing to hold the certificate to.
bool tls_verification_init(struct tls_verification *verification, const struct tls_context *context, const char *host);

// mbedTLS's f_vrfy, with a struct tls_verification: from the root down to the leaf.
int tls_verify_callback(void *argument, mbedtls_x509_crt *certificate, int depth, uint32_t *flags);

// The last word, after the handshake. `alert`: what to send if it is no.
bool tls_verify_result(struct tls_verification *verification, const mbedtls_ssl_context *ssl, unsigned char *alert);

// Says why the certificate was refused; `flags` as mbedTLS left them.
const char *tls_verify_reason(struct tls_verification *verification, uint32_t flags);

#endif
