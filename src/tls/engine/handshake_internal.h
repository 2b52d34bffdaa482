// One handshake, from the first byte to the traffic keys. The connection's thread only; its parts: handshake.c has
// mbedTLS run it on the socket, key_export.c takes the keys out, failure.c says what went wrong.

#ifndef BITFLOW_SRC_TLS_ENGINE_HANDSHAKE_INTERNAL_H
#define BITFLOW_SRC_TLS_ENGINE_HANDSHAKE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mbedtls/ssl.h>

#include "bitflow/base/error.h"
#include "bitflow/base/host_name.h"
#include "bitflow/net/client_watch.h"
#include "bitflow/tls/tls_session.h"
#include "bitflow/wire/record_follower.h"
#include "context_internal.h"
#include "early_filter.h"
#include "key_export.h"
#include "verify.h"

// What a handshake fails of, as far as it is neither an alert of the peer's nor a status of mbedTLS's.
enum handshake_cause {
    CAUSE_TIMEOUT = 256, // behind the alerts
    CAUSE_CANCELLED,
    CAUSE_CLOSED,
    CAUSE_OUT_OF_MEMORY,
    CAUSE_NOT_TLS,
    CAUSE_BAD_CERTIFICATE,
    CAUSE_NO_CERTIFICATE,
    CAUSE_UNAUTHORIZED, // a client's, by its names
    CAUSE_BAD_SIGNATURE,
    CAUSE_BAD_KEY_SHARE,
    CAUSE_UNOFFERED_CHOICE,
    CAUSE_OLD_VERSION,     // a ServerHello's
    CAUSE_UNKNOWN_VERSION, // likewise
    CAUSE_EARLY_DATA,      // more than is skipped
    CAUSE_BIG_MESSAGE,
    CAUSE_NO_NAME, // to verify a target by
    CAUSE_UNSENDABLE_NAME,
    CAUSE_NO_KEYS,
};

enum handshake_end { SOCKET_FINE, SOCKET_EOF, SOCKET_TIMEOUT, SOCKET_CANCELLED, SOCKET_FAILED };

#define HANDSHAKE_FLIGHT 4096

struct tls_handshake {
    const struct tls_context *context;
    struct tls_info *info;
    int fd;
    int64_t deadline;
    char host[HOST_NAME_MAX_LENGTH + 1]; // a target's, if it was written with a dot at the end: without that
    struct client_watch *watch;          // of the client for whom a target's handshake is made
    bool has_chosen;                     // the certificate callback has run
    mbedtls_ssl_context ssl;
    struct tls_verification verification;
    struct key_export keys;

    uint8_t flight[HANDSHAKE_FLIGHT]; // records that are not sent yet
    size_t pending;                   // of them, bytes
    size_t transmitted;               // bytes that mbedTLS gave to be sent with its last call
    uint64_t sealed;                  // records of TLS 1.3's encrypted type that it gave
    bool has_alerted;                 // as far as can be seen from outside: not in TLS 1.3, once it is encrypted
    bool is_over;                     // mbedTLS has ended it, and well

    enum handshake_end end; // of the socket
    int os_errno;           // with SOCKET_FAILED
    uint64_t received;      // bytes
    struct record_follower records;
    struct server_hello server_hello; // a target's
    struct early_filter early;        // a client's
};

// Says in words, and for counting, why it failed: `status` is mbedTLS's. True: the peer is still to be told by `alert`,
// which mbedTLS does not do in every case.
bool handshake_fail(struct tls_handshake *handshake, int status, struct error *error, unsigned char *alert);

// The same where it is not mbedTLS that ended it; an error that is set already says more, and stays. The alert that the
// peer is owed by the table.
unsigned char handshake_fail_with(struct tls_info *info, enum handshake_cause cause, struct error *error);

#endif
