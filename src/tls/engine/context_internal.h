// What a tls_context is made of, for the handshake. Immutable once tls_context_create() has returned it; mbedTLS takes
// pointers that are not const, and writes through none of them but the key's lock.

#ifndef BITFLOW_SRC_TLS_ENGINE_CONTEXT_INTERNAL_H
#define BITFLOW_SRC_TLS_ENGINE_CONTEXT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>
#include <mbedtls/x509_crl.h>
#include <mbedtls/x509_crt.h>

#include "arithmetic_internal.h"
#include "bitflow/tls/tls_context.h"
#include "ssl_config.h"

// One of the configuration's certificates: a pair, an authority, or both.
struct tls_entry {
    char *certificate_path; // NULL: it has no pair
    char *key_path;
    char *authority_path; // NULL: it has no authority
    char *revocation_list_path;
    bool others_may_read_key;
    unsigned skipped_authorities;
    mbedtls_x509_crt chain;
    mbedtls_pk_context key;    // RSA: mbedTLS locks it for each signature that it makes itself
    struct rsa_twin *key_twin; // NULL: it does
    mbedtls_x509_crt authorities;
    mbedtls_x509_crl revoked;
};

struct tls_context {
    enum tls_role role;
    enum verify_mode verify_mode;
    mbedtls_ssl_config config;
    int suites[TLS_SUITE_COUNT + 1]; // its cipher suites, 0 at the end
    struct tls_entry *entries;
    size_t entry_count;
    mbedtls_x509_crt authorities; // of all entries; or, of a target without any, the system's
    mbedtls_x509_crl revoked;
    char **protocols;  // ends with NULL; NULL: no ALPN
    char *server_name; // NULL: the address's host
    uint64_t fingerprint;
};

// Gives the server's handshake the entry that the client's server name asks for: its certificate and its authority.
// `name` is in lower case; empty: none was sent. `authority` gets the entry if its own authority is in force, NULL if
// the context's are. 0, or mbedTLS's error.
int tls_sni_select(const struct tls_context *context, const char *name, mbedtls_ssl_context *ssl,
                   const struct tls_entry **authority);

// Whether mbedTLS has failed for want of memory.
bool tls_is_memory_error(int status);

// mbedTLS's certificate callback: copies the server name to the handshake that is the connection's user data, and
// chooses.
int tls_certificate_callback(mbedtls_ssl_context *ssl);

#endif
