#include <stdio.h>

#include <mbedtls/build_info.h>
#include <mbedtls/version.h>
#include <psa/crypto.h>

#include "bitflow/tls/aead.h"
#include "bitflow/tls/tls_arithmetic.h"
#include "bitflow/tls/tls_context.h"
#include "context_internal.h"
#include "peer_certificates.h"
#include "trial_handshake.h"

// 3.6.0 let a certificate in whose extended key usage forbids it (CVE-2024-45159).
#define VERSION_MIN 0x03060100

#if MBEDTLS_VERSION_NUMBER < VERSION_MIN
#error "mbedTLS 3.6.1 or later is needed"
#endif
// What the program relies on: keys and random numbers used by several threads, the peer's certificate after the
// handshake, and records whose size nobody bargains over, since the records after the handshake are our own.
#if !defined(MBEDTLS_THREADING_PTHREAD) || !defined(MBEDTLS_SSL_KEEP_PEER_CERTIFICATE) || \
    defined(MBEDTLS_SSL_RECORD_SIZE_LIMIT)
#error "mbedTLS is needed with THREADING_PTHREAD, SSL_KEEP_PEER_CERTIFICATE, and without SSL_RECORD_SIZE_LIMIT"
#endif

static struct trial_result trial;

// The library that was loaded may be another one than the headers were of.
static bool is_library_as_built(struct error *error)
{
    if (mbedtls_version_get_number() < VERSION_MIN) {
        char version[18]; // as its documentation has it
        mbedtls_version_get_string_full(version);
        error_set(error, ERROR_SYSTEM, "%s is too old: 3.6.1 or later is needed", version);
    } else if (mbedtls_version_check_feature("MBEDTLS_THREADING_PTHREAD") != 0 ||
               mbedtls_version_check_feature("MBEDTLS_SSL_KEEP_PEER_CERTIFICATE") != 0 ||
               mbedtls_version_check_feature("MBEDTLS_SSL_RECORD_SIZE_LIMIT") == 0) {
        error_set(error, ERROR_SYSTEM,
                  "mbedTLS was built otherwise than bitflow needs it: with MBEDTLS_THREADING_PTHREAD and "
                  "MBEDTLS_SSL_KEEP_PEER_CERTIFICATE, without MBEDTLS_SSL_RECORD_SIZE_LIMIT");
    } else {
        return true;
    }
    return false;
}

bool tls_init(struct error *error)
{
    if (!is_library_as_built(error) || !aead_prepare(error))
        return false;
    psa_status_t status = psa_crypto_init();
    if (status == PSA_SUCCESS)
        return tls_arithmetic_init(error) && peer_certificates_init(error) && trial_handshake(&trial, error);
    if (status == PSA_ERROR_INSUFFICIENT_MEMORY)
        error_set(error, ERROR_NO_MEMORY, "out of memory: mbedTLS cannot start");
    else
        error_set(error, ERROR_SYSTEM, "mbedTLS cannot start: PSA status %d", (int)status);
    return false;
}

static void add_warning(struct diagnostics *diagnostics, const char *text)
{
    diagnostics_add(diagnostics, &(struct diagnostic){.severity = DIAGNOSTIC_WARNING, .text = text});
}

void tls_check(struct diagnostics *diagnostics)
{
    for (int i = 0; i < AEAD_ALGORITHM_COUNT; i++) {
        char text[160];
        if (aead_is_available((enum aead_algorithm)i))
            continue;
        (void)snprintf(
            text, sizeof text,
            "libcrypto has no %s (is its configuration limiting it?): the cipher suites with it are not offered",
            aead_name((enum aead_algorithm)i));
        add_warning(diagnostics, text);
    }
    if (!trial.has_key_exchange)
        add_warning(diagnostics,
                    "mbedTLS does not leave signatures to bitflow: targets that speak TLS 1.2 only, and sign with "
                    "RSA-PSS, are refused");
    if (!arithmetic_has_x25519())
        add_warning(diagnostics,
                    "libcrypto has no X25519 (is its configuration limiting it?): the group is not offered");
}
