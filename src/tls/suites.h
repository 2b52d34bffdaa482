// The cipher suites that are spoken, in the order in which a client offers them: TLS 1.3's, and those of 1.2 with ECDHE
// and an AEAD. Constants; any thread.

#ifndef BITFLOW_SRC_TLS_SUITES_H
#define BITFLOW_SRC_TLS_SUITES_H

#include "bitflow/tls/aead.h"
#include "bitflow/tls/tls_record.h"

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

// The ids of those whose cipher there is, as mbedTLS takes them: 0 at the end. After aead_prepare().
void tls_suites_list(int ids[TLS_SUITE_COUNT + 1]);

#endif
