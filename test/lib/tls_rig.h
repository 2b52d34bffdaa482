// Certificates made on the spot and OpenSSL as the other side, for the tests of the tls floor. Every function fails the
// running test where it cannot deliver. Files go to a directory of the test's own, which rig_tls_end() takes away.

#ifndef BITFLOW_TEST_TLS_RIG_H
#define BITFLOW_TEST_TLS_RIG_H

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "bitflow/tls/tls_context.h"
#include "bitflow/tls/tls_session.h"
#include "net_rig.h"

#define RIG_PATH_SIZE 192
#define RIG_DAY 86400

const char *rig_path(const char *name, char out[RIG_PATH_SIZE]);

void rig_write_file(const char *name, const void *bytes, size_t length);

size_t rig_read_file(const char *name, char *out, size_t size);

// "rsa", "rsa-1024", "rsa-pss" (the key's own OID), "P-256", "P-384", "P-521", "ed25519".
EVP_PKEY *rig_key(const char *kind);

struct rig_issued {
    EVP_PKEY *key;
    X509 *certificate;
};

// "ca.crt" and "ca.key" in the rig's directory, from rig_tls_begin() on.
extern struct rig_issued rig_ca;

void rig_tls_begin(void);

// A group's teardown.
int rig_tls_end(void **state);

struct rig_request {
    const char *subject; // CN; NULL: an empty subject
    const char *names;   // "DNS:a.example,IP:127.0.0.1"
    const char *usage;   // "serverAuth"; NULL: no extension
    const char *key_usage;
    const char *constraints; // "permitted;DNS:a.example", of names; NULL: no extension
    const char *kind;        // of key; NULL: P-256
    EVP_PKEY *key;           // in place of a new one
    bool is_ca;
    bool signs_with_pss;
    const char *digest;              // NULL: SHA-256
    long from;                       // seconds from now; 0: a day ago
    long until;                      // 0: in a hundred days
    const struct rig_issued *issuer; // NULL: itself
};

struct rig_issued rig_issue(const struct rig_request *request);

void rig_drop(struct rig_issued *issued);

FILE *rig_create(const char *name);

void rig_write_key(const char *name, EVP_PKEY *key);

// With the label of its kind ("EC PRIVATE KEY"), and encrypted if there is a password.
void rig_write_traditional_key(const char *name, EVP_PKEY *key, const char *password);

// Up to three, in this order.
void rig_write_chain(const char *name, X509 *first, X509 *second, X509 *third);

// "<name>.key" and "<name>.crt".
void rig_write_pair(const char *name, const struct rig_issued *issued);

// Makes a key with its certificate, and writes that pair.
void rig_issue_pair(const char *name, const struct rig_request *request);

struct rig_list {
    const struct rig_issued *issuer;
    X509 *revoked;      // NULL: none
    EVP_PKEY *key;      // that signs in place of the issuer's
    const char *digest; // NULL: SHA-256
    bool signs_with_pss;
    const char *name;  // CN in place of the issuer's name; NULL: that
    int name_type;     // V_ASN1_UTF8STRING, ...
    long from;         // seconds from now; 0: ten days ago
    long until;        // 0: in a day
    int extension;     // its NID, 0: none
    bool is_critical;  // the extension
    const char *value; // of it, DER
    int length;        // bytes
};

void rig_put_list(FILE *file, const struct rig_list *request);

// A file with one revocation list of the issuer's.
void rig_write_crl(const char *name, const struct rig_issued *issuer, X509 *revoked, long until);

// The configuration of a context: paths relative to the rig's directory, kept in static room.
#define RIG_ENTRIES 8

struct rig_config {
    struct tls_config config;
    struct certificate_config certificates[RIG_ENTRIES];
    char paths[RIG_ENTRIES][4][RIG_PATH_SIZE];
    const char *protocols[4];
};

void rig_config_init(struct rig_config *config, enum verify_mode mode);

void rig_config_add(struct rig_config *config, const char *key, const char *certificate, const char *authority,
                    const char *revocation_list);

// "<pair>.key" and "<pair>.crt", with an authority or NULL.
void rig_config_add_pair(struct rig_config *config, const char *pair, const char *authority);

struct tls_context *rig_context(const struct rig_config *config, enum tls_role role);

#endif
