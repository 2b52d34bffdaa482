// Reading PEM files: certificates, private keys, revocation lists. What is wrong with one is told in words that name
// the file, since that is what a person has to mend. Buffers are wiped before they are freed. Any thread; blocks on
// the disk.

#ifndef BITFLOW_SRC_TLS_ENGINE_PEM_H
#define BITFLOW_SRC_TLS_ENGINE_PEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mbedtls/pk.h>
#include <mbedtls/x509_crt.h>

#include "bitflow/base/error.h"

#define PEM_FILE_MAX ((size_t)16 * 1024 * 1024) // the system's bundle of CAs has a quarter of a MiB

// A file's bytes, followed by a zero, which mbedTLS wants.
struct pem_text {
    unsigned char *bytes;
    size_t length;        // without the zero
    bool others_may_read; // the file's permissions say so
};

bool pem_text_read(const char *path, struct pem_text *text, struct error *error);
void pem_text_release(struct pem_text *text);

// These take what a file `path` holds; the path is only for the error's text. Objects are initialized by the caller,
// who also frees them, whatever comes out.

bool pem_parse_certificates(const char *path, const struct pem_text *text, mbedtls_x509_crt *chain,
                            struct error *error);
bool pem_parse_key(const char *path, const struct pem_text *text, mbedtls_pk_context *key, struct error *error);

// The lines around a PEM block.
struct pem_label {
    const char *begin;
    const char *end;
};

// A kind of PEM block, by each of the labels that OpenSSL takes for it.
struct pem_kind {
    const char *label;          // the usual one
    const char *name;           // in errors
    struct pem_label labels[4]; // up to one without a beginning
};
extern const struct pem_kind pem_certificate;
extern const struct pem_kind pem_revocation_list;

// Takes a block's DER, which settings may follow (a TRUSTED CERTIFICATE's), into `into`. 0, or an error of mbedTLS's
// that says why not.
typedef int pem_take(void *into, const unsigned char *der, size_t length);

// Each block of the kind, in their order. `skipped`: where those that cannot be used are counted and left out, so long
// as there is one that can be; NULL: each of them is an error.
bool pem_parse_blocks(const char *path, const struct pem_text *text, const struct pem_kind *kind, pem_take *take,
                      void *into, unsigned *skipped, struct error *error);

#define PEM_PATH_SIZE 144
// A path for an error's text, which has little room: a long one loses its beginning.
const char *pem_path(const char *path, char out[PEM_PATH_SIZE]);

#endif
