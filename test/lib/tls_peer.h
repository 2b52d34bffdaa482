// OpenSSL on the other side of a handshake, on a thread of its own, and what tests then ask of both sides.

#ifndef BITFLOW_TEST_TLS_PEER_H
#define BITFLOW_TEST_TLS_PEER_H

#include "tls_rig.h"

#define PEER_TEXT "what goes in must come out"
#define PEER_REPLY_COPIES 900 // more than one record

struct tls_peer {
    SSL_CTX *context; // the peer's for good; NULL: it is made from what follows
    int fd;
    bool is_server;
    int minimum; // TLS1_2_VERSION; 0: any
    int maximum;
    const char *suites_1_2;
    const char *suites_1_3;
    const char *groups;
    const char *signatures;
    const char *pair;        // "<pair>.crt", "<pair>.key" in the rig's directory; NULL: none
    const char *authorities; // to verify with; NULL: anything goes
    const char *server_name; // a client's; NULL: none
    const char *later_name;  // what it asks for instead after a HelloRetryRequest; NULL: the same
    const char *protocols;   // ALPN as on the wire: "\x02h2"
    bool asks_for_certificate;
    bool keeps_session;
    bool is_for_rsa;          // the test's: which key the server has
    int fragment;             // max_fragment_length
    SSL_SESSION *old_session; // that a client would resume

    // What came of it. `certificate` is the subject's CN of the other side.
    bool is_done;
    bool has_exchanged;
    bool is_resumed;
    SSL_SESSION *session; // a client's, of its own reference
    char error[256];
    char cipher[64];
    char protocol[64];
    char asked_name[256];
    char certificate[128];
    pthread_t thread;
};

void tls_peer_configure(struct tls_peer *peer);

void *tls_peer_run(void *argument);

void tls_peer_start(struct tls_peer *peer, int fd);

void tls_peer_join(struct tls_peer *peer);

void write_all(int fd, const uint8_t *bytes, size_t length);

void send_text(struct tls_session *session, int fd);

// The record halves go on where the handshake ended: a text there, many copies back, close_notify both ways.
void exchange(struct tls_session *session, int fd);

// A whole connection between a context of ours and the peer; `host`: a target's. `why` gets what failed on our side.
bool run_session(const struct tls_context *context, enum tls_role role, const char *host, struct tls_peer *peer,
                 struct tls_session *session, struct error *why);

#endif
