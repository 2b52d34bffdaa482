// What a tls_context is made of, for the handshake. Immutable once tls_context_create() has returned it; mbedTLS takes
// pointers that are not const, and writes through none of them but the key's lock.

#ifndef BITFLOW_SRC_TLS_ENGINE_CONTEXT_INTERNAL_H
#define BITFLOW_SRC_TLS_ENGINE_CONTEXT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>
#include <mbedtls/x509_crt.h>

#include "arithmetic_internal.h"
#include "bitflow/tls/tls_context.h"
#include "ssl_config.h"
#include "trust.h"

// One of the configuration's certificates: a pair, an authority, or both.
struct tls_entry {
    char *certificate_path; // NULL: it has no pair
    char *key_path;
    char *authority_path; // NULL: it has no authority
    char *revocation_list_path;
    bool is_default; // a client gets it whose server name no certificate is for, or who sends none
    bool others_may_read_key;
    bool has_long_ca_list; // its authorities' names are too many to be sent
    mbedtls_x509_crt chain;
    mbedtls_pk_context key;    // RSA: mbedTLS locks it for each signature that it makes itself
    struct key_twin *key_twin; // NULL: it does
    struct trust *trust;       // its authority and revocation list; NULL: it has none
};

struct tls_context {
    enum tls_role role;
    enum verify_mode verify_mode;
    mbedtls_ssl_config config;
    int suites[TLS_SUITE_COUNT + 1]; // its cipher suites, 0 at the end
    struct tls_entry *entries;
    size_t entry_count;
    struct trust *trust; // all entries' together; or, of a target without any, the system's; NULL: nobody is verified
    bool has_long_ca_list;
    char **protocols;              // ends with NULL; NULL: no ALPN
    char *server_name;             // NULL: the address's host
    const char **authorized_names; // base/peer_name.h, all in one piece; ends with NULL. NULL: they are not looked at
    uint64_t fingerprint;
};

// Of a listener's entries, once all are loaded: which of them are the default, and whose list of CA names is too long.
// Neither is found out anew for each client, since both go through many names.
void tls_sni_prepare(struct tls_context *context);

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
