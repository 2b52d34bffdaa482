// One handshake, from the first byte to the traffic keys. The connection's thread only; its parts: handshake.c
// runs it on the socket, key_export.c takes the keys out, failure.c says what went wrong.

#ifndef BITFLOW_SRC_TLS_ENGINE_HANDSHAKE_INTERNAL_H
#define BITFLOW_SRC_TLS_ENGINE_HANDSHAKE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mbedtls/ssl.h>

#include "bitflow/base/error.h"
#include "bitflow/net/client_watch.h"
#include "bitflow/tls/tls_record.h"
#include "bitflow/tls/tls_session.h"
#include "bitflow/wire/server_hello.h"
#include "context_internal.h"
#include "verify.h"

// What the callback was given; wiped at the handshake's end.
struct tls_secrets {
    uint8_t client[TLS_SECRET_MAX]; // 1.3: application traffic secrets
    uint8_t server[TLS_SECRET_MAX];
    size_t length;
    uint8_t master[48];  // 1.2
    uint8_t randoms[64]; // the server's, then the client's, as the key expansion wants them
    mbedtls_tls_prf_types prf;
    bool has_client;
    bool has_server;
    bool has_master;
};

enum handshake_end { SOCKET_FINE, SOCKET_EOF, SOCKET_TIMEOUT, SOCKET_CANCELLED, SOCKET_FAILED };

#define HANDSHAKE_HEADER 5 // bytes

#define HANDSHAKE_FLIGHT 4096

struct tls_handshake {
    const struct tls_context *context;
    struct tls_info *info;
    int fd;
    int64_t deadline;
    bool has_chosen;            // the certificate callback has run
    struct client_watch *watch; // of the client for whom a target's handshake is made
    mbedtls_ssl_context ssl;
    struct tls_verification verification;
    struct tls_secrets secrets;
    uint8_t flight[HANDSHAKE_FLIGHT]; // records that are not sent yet
    size_t pending;                   // of them, bytes
    bool has_alerted;                 // as far as can be seen from outside: not in TLS 1.3, once it is encrypted
    enum handshake_end end;           // of the socket
    int os_errno;                     // with SOCKET_FAILED
    uint8_t first[HANDSHAKE_HEADER];  // that came
    size_t first_length;
    uint64_t received;                // bytes
    uint8_t header[HANDSHAKE_HEADER]; // of the record that is coming in
    size_t header_length;
    size_t body_left;     // of that record
    bool has_plain_alert; // an alert came that was not encrypted
    uint8_t plain_alert;
    struct server_hello server_hello; // a target's
};

struct tls_suite {
    int id;           // IANA's number, which is mbedTLS's, too
    const char *name; // IANA's
    enum aead_algorithm algorithm;
    enum tls_hash hash;
};

// NULL: not one of ours.
const struct tls_suite *tls_suite_find(int id);

// The ids of those whose cipher there is, as mbedTLS takes them: 0 at the end.
void tls_suites_list(int ids[TLS_SUITE_COUNT + 1]);

// Runs it to its end, verification included. The caller has filled in what is above `ssl`, and calls
// tls_handshake_release() in any case. `host`: a target's.
bool tls_handshake_run(struct tls_handshake *handshake, const char *host, struct error *error);
void tls_handshake_release(struct tls_handshake *handshake);

// Sends a fatal alert, protected if the handshake got that far.
void tls_handshake_alert(struct tls_handshake *handshake, unsigned char alert);

// mbedTLS's callback for keys; the argument is a struct tls_secrets.
void tls_export_keys(void *argument, mbedtls_ssl_key_export_type type, const unsigned char *secret, size_t length,
                     const unsigned char client_random[32], const unsigned char server_random[32],
                     mbedtls_tls_prf_types prf);

// The keys of both directions.
bool tls_secrets_derive(const struct tls_secrets *secrets, const struct tls_suite *suite, struct tls_keys *client,
                        struct tls_keys *server);

// Whether the peer is still to be told by an alert why it ends here: mbedTLS does not do so in every case.
bool tls_handshake_owes_alert(const struct tls_handshake *handshake, int status, unsigned char *alert);

// Puts mbedTLS's `status` into words.
void tls_handshake_describe(struct tls_handshake *handshake, int status, struct error *error);
// The same for counting; after it has been described.
enum tls_failure tls_handshake_classify(const struct tls_handshake *handshake, int status);

#endif
