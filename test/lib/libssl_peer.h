// A real peer: OpenSSL's libssl, at the other end of a handshake in memory. Its other end is libssl too, until the
// handshake is done; then our record halves take its place with the secrets that it tells.

#ifndef BITFLOW_TEST_LIBSSL_PEER_H
#define BITFLOW_TEST_LIBSSL_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "bitflow/tls/tls_record.h"

struct libssl_suite {
    enum tls_version version;
    enum aead_algorithm algorithm;
    enum tls_hash hash;
    const char *name; // OpenSSL's
};

struct libssl_peer {
    SSL *ssl;
    BIO *to_it;
    BIO *from_it;
    struct tls_sender *sender; // ours, to it
    struct tls_receiver *receiver;
};

// `is_client`: we are the client, it is the server. Fails the test on any error.
void libssl_peer_open(struct libssl_peer *peer, const struct libssl_suite *suite, bool is_client);
void libssl_peer_close(struct libssl_peer *peer);

#endif
