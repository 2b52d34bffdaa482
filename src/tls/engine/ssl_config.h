// What is spoken: TLS 1.2 with ECDHE and an AEAD, and 1.3; nothing that is older or weaker, and no resumption. Any
// thread.

#ifndef BITFLOW_SRC_TLS_ENGINE_SSL_CONFIG_H
#define BITFLOW_SRC_TLS_ENGINE_SSL_CONFIG_H

#include <stdbool.h>

#include "bitflow/base/error.h"
#include "bitflow/config/config.h"
#include "bitflow/tls/aead.h"
#include "bitflow/tls/tls_record.h"

struct mbedtls_x509_crt;
struct tls_context;

#define TLS_SUITE_COUNT 9

struct tls_suite {
    int id; // IANA's number, which is mbedTLS's, too
    enum aead_algorithm algorithm;
    enum tls_hash hash;
    const char *name;         // IANA's
    const char *openssl_name; // the same for TLS 1.3
};

// NULL: not one of ours.
const struct tls_suite *tls_suite_find(int id);

// That of every suite with this cipher.
enum tls_hash tls_suite_hash(enum aead_algorithm algorithm);

// Whether a CertificateRequest of TLS 1.2 has room for the subjects of all these authorities. mbedTLS would leave out
// those that come after its end, without a word, and a client that finds its CA in no list has no certificate to send.
// (In 1.3 it sends no list.)
bool tls_ca_list_fits(const struct mbedtls_x509_crt *authorities);

// Makes its `config` of everything else that `context` has: suites, versions and so on, the same for both roles but for
// what only one of them has. After aead_prepare().
bool tls_ssl_configure(struct tls_context *context, enum tls_minimum minimum, struct error *error);

#endif
