// Our own certificates, which mbedTLS has, since it shows them: whether one is for a name. What else is to be known of
// them is read by libcrypto, as of peers' certificates. Any thread, no state.

#ifndef BITFLOW_SRC_TLS_ENGINE_CERTIFICATE_H
#define BITFLOW_SRC_TLS_ENGINE_CERTIFICATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mbedtls/x509_crt.h>
#include <openssl/x509.h>

#include "bitflow/base/host_name.h"

// As libcrypto reads it; X509_free(). NULL: it cannot, or there is no memory.
X509 *certificate_read(const mbedtls_x509_crt *certificate);

// What a certificate and those that follow it in its file take in a handshake of TLS 1.3, bytes: the whole message. (In
// 1.2 it is less.)
size_t certificate_message_size(const mbedtls_x509_crt *chain);

// mbedTLS sends a handshake message as one record. In TLS 1.3 the content's type takes a byte of it.
#define CERTIFICATE_MESSAGE_MAX ((size_t)16383)

// How a certificate is for a host name, without regard to case: by its SANs, or by its CN if it has none.
enum name_match certificate_matches_name(const mbedtls_x509_crt *certificate, const char *name);

// Whether one of its SANs is this address: 4 or 16 bytes.
bool certificate_matches_address(const mbedtls_x509_crt *certificate, const uint8_t *address, size_t length);

// Whether it is for every host name and address that another one is for, which must have one.
bool certificate_covers(const mbedtls_x509_crt *certificate, const mbedtls_x509_crt *other);

#endif
