// Certificates in words: subjects, names, dates, and whether one is for a name. Any thread, no state.

#ifndef BITFLOW_SRC_TLS_ENGINE_CERTIFICATE_H
#define BITFLOW_SRC_TLS_ENGINE_CERTIFICATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mbedtls/x509_crt.h>

#include "bitflow/base/host_name.h"

#define CERTIFICATE_SUBJECT_SIZE 256
#define CERTIFICATE_DATE_SIZE sizeof "2026-11-23"
#define CERTIFICATE_FINGERPRINT_SIZE 65

// "CN=example, O=Example Ltd"; cut with an ellipsis. "(no subject)" where it is empty. Returns `out`.
const char *certificate_subject(const mbedtls_x509_name *name, char *out, size_t size);

// The first CN; empty if there is none, or if it does not fit or is not ASCII or UTF-8 text.
void certificate_common_name(const mbedtls_x509_name *name, char *out, size_t size);

// "DNS:a.example, IP:192.0.2.1"; cut with an ellipsis. Empty if it has none. Returns `out`.
const char *certificate_names(const mbedtls_x509_crt *certificate, char *out, size_t size);

const char *certificate_date(const mbedtls_x509_time *time, char out[CERTIFICATE_DATE_SIZE]);

// SHA-256 in lower-case hexadecimal; empty if the library fails.
void certificate_fingerprint(const mbedtls_x509_crt *certificate, char out[CERTIFICATE_FINGERPRINT_SIZE]);

// How a certificate is for a host name, without regard to case: by its SANs, or by its CN if it has none.
enum name_match certificate_matches_name(const mbedtls_x509_crt *certificate, const char *name);

// Whether one of its SANs is this address: 4 or 16 bytes.
bool certificate_matches_address(const mbedtls_x509_crt *certificate, const uint8_t *address, size_t length);

#endif
