// A TLS session: the handshake, by mbedTLS on the socket, and what is left of it: two record halves and what the log
// says of it. mbedTLS's own context lives only during the handshake. Blocks; one thread, the connection's own.

#ifndef BITFLOW_TLS_TLS_SESSION_H
#define BITFLOW_TLS_TLS_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/client_watch.h"
#include "bitflow/tls/tls_context.h"
#include "bitflow/tls/tls_failure.h"
#include "bitflow/tls/tls_record.h"

struct tls_info {
    enum tls_version version;
    char cipher[64];            // IANA name: TLS_AES_128_GCM_SHA256
    char server_name[256];      // SNI as received or sent; empty: none
    char protocol[256];         // ALPN; empty: none
    char peer_subject[256];     // of a certificate that was verified; empty: none was
    char peer_common_name[256]; // the subject's CN alone; empty also where it is longer
    char peer_names[512];       // its SANs: "DNS:a.example, IP:192.0.2.1"; cut with an ellipsis
    char peer_fingerprint[65];  // SHA-256, lower-case hexadecimal
    char peer_identity[256];    // the authorized name that it has, or else the name that it goes by: "dns:a.example"
    int64_t handshake_time;     // ns
    enum tls_failure failure;   // TLS_FAILURE_NONE while it has not failed
};

struct tls_session {
    struct tls_sender *sender;     // owned by the pump that writes to the socket, while the relay runs
    struct tls_receiver *receiver; // owned by the pump that reads from it
    // Plaintext bytes that the peer takes in one record: TLS_PLAIN_MAX, unless it has asked for less (RFC 6066, 4:
    // max_fragment_length, which 1.2 clients with little memory send).
    size_t record_limit;
    struct tls_info info;
};

// The server's, or the client's, side of a handshake on a connected socket, bounded by `deadline` (base/clock.h). On
// failure an alert has been sent where the protocol says so, nothing is left to be released, and the error says in
// plain words what went wrong: "the client sent plain HTTP", "the client sent no certificate", "certificate expired on
// 2026-01-01", "no protocol in common (ALPN)". ERROR_TIMEOUT, ERROR_INVALID (the peer's fault), ERROR_CANCELLED (a
// client that left without a byte), ERROR_SYSTEM, ERROR_NO_MEMORY. `session->info` is filled as far as known also on
// failure.
bool tls_accept(const struct tls_context *context, int fd, int64_t deadline, struct tls_session *session,
                struct error *error);

// `host`: the target's name or IP literal, for verification; sent as SNI only if it is a name. `watch`: of the
// client on whose behalf it is; when that client leaves, it ends with ERROR_CANCELLED.
bool tls_connect(const struct tls_context *context, int fd, const char *host, struct client_watch *watch,
                 int64_t deadline, struct tls_session *session, struct error *error);

// OpenSSL's name for a cipher suite of `struct tls_info`, which receivers of the PROXY protocol expect; `cipher` itself
// where it has no other (TLS 1.3). Any thread.
const char *tls_openssl_cipher(const char *cipher);

// Wipes the keys.
void tls_session_release(struct tls_session *session);

#endif
