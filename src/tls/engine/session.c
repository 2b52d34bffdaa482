#include "bitflow/tls/tls_session.h"

#include <stdlib.h>
#include <string.h>

#include <mbedtls/platform_util.h>

#include "arithmetic_internal.h"
#include "context_internal.h"
#include "handshake_internal.h"

// The two halves that go on where the handshake ended.
static bool create_halves(struct tls_handshake *handshake, struct tls_session *session, struct error *error)
{
    bool is_client = handshake->context->role == TLS_CLIENT;
    struct tls_keys client;
    struct tls_keys server;
    const struct tls_suite *suite = tls_suite_find(mbedtls_ssl_get_ciphersuite_id_from_ssl(&handshake->ssl));
    bool is_good = suite != NULL && tls_secrets_derive(&handshake->secrets, suite, &client, &server);
    if (is_good) {
        session->sender = tls_sender_create(is_client ? &client : &server, error);
        session->receiver = tls_receiver_create(is_client ? &server : &client, is_client, error);
    } else {
        error_set(error, ERROR_SYSTEM, "the TLS handshake left no keys");
    }
    mbedtls_platform_zeroize(&client, sizeof client);
    mbedtls_platform_zeroize(&server, sizeof server);
    return session->sender != NULL && session->receiver != NULL;
}

// Not on the stack, which would keep the memory for as long as the connection lives.
static struct tls_handshake *create_handshake(const struct tls_context *context, int fd, struct client_watch *watch,
                                              int64_t deadline, struct tls_info *info, struct error *error)
{
    struct tls_handshake *handshake = calloc(1, sizeof *handshake);
    if (handshake == NULL) {
        error_set(error, ERROR_NO_MEMORY, "out of memory for a TLS handshake");
        return NULL;
    }
    handshake->context = context;
    handshake->info = info;
    handshake->fd = fd;
    handshake->watch = watch;
    handshake->deadline = deadline;
    return handshake;
}

static bool begin(const struct tls_context *context, int fd, const char *host, struct client_watch *watch,
                  int64_t deadline, struct tls_session *session, struct error *error)
{
    memset(session, 0, sizeof *session);
    struct tls_handshake *handshake = create_handshake(context, fd, watch, deadline, &session->info, error);
    if (handshake == NULL) {
        session->info.failure = TLS_FAILURE_OUT_OF_MEMORY;
        return false;
    }
    bool is_good = tls_handshake_run(handshake, host, error);
    if (is_good && !create_halves(handshake, session, error)) {
        session->info.failure = TLS_FAILURE_OTHER;
        tls_handshake_alert(handshake, TLS_ALERT_INTERNAL_ERROR);
        tls_session_release(session);
        is_good = false;
    }
    if (is_good)
        session->record_limit = session->info.version == TLS_1_3
                                    ? TLS_PLAIN_MAX // 1.3's are one less by mbedTLS's own padding
                                    : (size_t)mbedtls_ssl_get_max_out_record_payload(&handshake->ssl);
    tls_handshake_release(handshake);
    arithmetic_leave_thread();
    free(handshake);
    return is_good;
}

bool tls_accept(const struct tls_context *context, int fd, int64_t deadline, struct tls_session *session,
                struct error *error)
{
    struct client_watch nobody;
    client_watch_init(&nobody, -1);
    return begin(context, fd, NULL, &nobody, deadline, session, error);
}

bool tls_connect(const struct tls_context *context, int fd, const char *host, struct client_watch *watch,
                 int64_t deadline, struct tls_session *session, struct error *error)
{
    return begin(context, fd, context->server_name != NULL ? context->server_name : host, watch, deadline, session,
                 error);
}

void tls_session_release(struct tls_session *session)
{
    tls_sender_destroy(&session->sender); // they wipe their keys
    tls_receiver_destroy(&session->receiver);
}
