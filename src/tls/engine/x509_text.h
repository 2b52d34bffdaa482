// Certificates and revocation lists in words. Any thread, no state.

#ifndef BITFLOW_SRC_TLS_ENGINE_X509_TEXT_H
#define BITFLOW_SRC_TLS_ENGINE_X509_TEXT_H

#include <stddef.h>

#include <openssl/x509.h>

#define CERTIFICATE_SUBJECT_SIZE 256
#define CERTIFICATE_DATE_SIZE sizeof "2026-11-23"
#define CERTIFICATE_FINGERPRINT_SIZE 65

// "CN=example, O=Example Ltd"; cut with an ellipsis. "(no subject)" where it is empty. Returns `out`.
const char *x509_name_text(const X509_NAME *name, char *out, size_t size);

// The first CN; empty if there is none, or if it does not fit or is not ASCII or UTF-8 text.
void x509_common_name(const X509_NAME *name, char *out, size_t size);

// "DNS:a.example, IP:192.0.2.1"; cut with an ellipsis. Empty if it has none. Returns `out`.
const char *x509_names(const X509 *certificate, char *out, size_t size);

// "2026-11-23"; "(no date)" where it is none.
const char *x509_date(const ASN1_TIME *time, char out[CERTIFICATE_DATE_SIZE]);

// SHA-256 in lower-case hexadecimal; empty if the library fails.
void x509_fingerprint(const X509 *certificate, char out[CERTIFICATE_FINGERPRINT_SIZE]);

#endif
