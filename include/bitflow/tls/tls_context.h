// What a tls_context of the configuration turns into: certificates, keys, CAs and policy, loaded and checked once,
// immutable afterwards, shared by all connections of a generation. Everything that touches mbedTLS's X.509 and SSL
// configuration is in the tls floor.

#ifndef BITFLOW_TLS_TLS_CONTEXT_H
#define BITFLOW_TLS_TLS_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/config/config.h"

enum tls_role { TLS_SERVER /* a listener's */, TLS_CLIENT /* a target's */ };

struct tls_context;

// Starts the cryptographic libraries, and finds out whether they can be used; in main, before any other thread, so that
// a connection has nothing to start. ERROR_SYSTEM, ERROR_NO_MEMORY.
bool tls_init(struct error *error);

// Warns of each cipher, and of X25519, that the host's libcrypto does not give, so that it is not offered, and of what
// its mbedTLS does not let the program do. After tls_init().
void tls_check(struct diagnostics *diagnostics);

// Loads every file that `config` names. What is wrong is told as errors, of each certificate what is wrong first: they
// name the file and the reason in words (no such file, not a PEM, the key is encrypted, the key does not belong to the
// certificate, an unsupported kind of key, ...). `path` is that of the context in the configuration. NULL: there are
// such errors.
struct tls_context *tls_context_load(const struct tls_config *config, enum tls_role role, const char *path,
                                     struct diagnostics *diagnostics);

// The same with the first of them as the error.
struct tls_context *tls_context_create(const struct tls_config *config, enum tls_role role, struct error *error);

// Wipes the keys. Accepts NULL. No connection may use it any more.
void tls_context_destroy(struct tls_context **context);

// A listener's: whether it is settled whose authority verifies a client that asks for `name` (lower case, no dot at its
// end; empty: it asks for none). False: no certificate is for the name, so that the first one would stand in, and that
// one's authority or revocation list is not that of all. Where names choose targets, a client that another's authority
// vouches for would be let through. Any thread.
bool tls_context_has_authority_for(const struct tls_context *context, const char *name);

// Another one (base/hash.h) where anything that it was loaded from has changed, in the configuration or in a file.
uint64_t tls_context_fingerprint(const struct tls_context *context);

// Warns of each certificate of the context that has expired, is not yet valid, or expires within `days`, and of what
// else is odd about its files. `config` is what it was loaded from, `proxy` the name of whose it is.
void tls_context_check(const struct tls_context *context, const struct tls_config *config, int days, const char *proxy,
                       struct diagnostics *diagnostics);

// A file of a context that holds something else than it did before. Texts are empty where there is nothing to say, and
// cut where they are long. Borrowed for the call.
struct tls_news {
    const char *what; // "certificate", "authority", "revocation list"
    const char *path;
    unsigned count;                                  // of what is in the file
    char subject[256];                               // of the first; the issuer of a list
    char names[256];                                 // it is for: "DNS:a.example, IP:192.0.2.1"
    char serial[64];                                 // hexadecimal, as openssl shows it
    char fingerprint[65];                            // SHA-256
    char valid_until[sizeof "2026-11-23T15:54:05Z"]; // the first of them to end
};

// Tells of each file in which a context differs from another that was loaded by the same configuration. What a key's
// file says is told by its certificate's.
void tls_context_compare(const struct tls_context *context, const struct tls_context *before,
                         void (*tell)(void *argument, const struct tls_news *news), void *argument);

// The file of authorities that a target is held to whose configuration names none, be it there or not.
const char *tls_system_authorities(void);

// When the first of the certificates that it shows to others, chains included, expires: seconds since 1970; 0: it has
// none. Any thread.
int64_t tls_context_expiry(const struct tls_context *context);

#endif
