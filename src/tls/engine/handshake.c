// A session begins: mbedTLS shakes hands on the socket, the peer is judged, and the traffic keys become the two record
// halves that go on from there.

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <mbedtls/net_sockets.h>
#include <mbedtls/platform_util.h>

#include "arithmetic_internal.h"
#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"
#include "bitflow/net/socket.h"
#include "bitflow/tls/tls_session.h"
#include "handshake_internal.h"
#include "key_exchange.h"
#include "peer_certificates.h"
#include "ssl_config.h"
#include "x509_text.h"

// ---- the socket below mbedTLS, as its BIO callbacks: one deadline for the whole handshake, an eye on the client,
// flights in one piece, and the records that come in followed on their way

// Takes note of how a call on the socket failed. True: it is to be made again.
static bool goes_on(struct tls_handshake *handshake, int os_errno)
{
    if (os_errno == EINTR)
        return true;
    handshake->end = SOCKET_FAILED;
    handshake->os_errno = os_errno;
    return false;
}

// Waits until the socket is ready. The whole handshake has one deadline: a peer that sends byte by byte gains nothing
// by it.
static bool wait_for(struct tls_handshake *handshake, short events)
{
    struct pollfd poller = {.fd = handshake->fd, .events = events};
    switch (client_watch_poll(handshake->watch, &poller, 1, handshake->deadline)) {
    case CLIENT_WATCH_READY:
        return true;
    case CLIENT_WATCH_DEADLINE:
        handshake->end = SOCKET_TIMEOUT;
        return false;
    case CLIENT_WATCH_GONE:
        handshake->end = SOCKET_CANCELLED;
        return false;
    case CLIENT_WATCH_FAILED:
        break;
    }
    handshake->end = SOCKET_FAILED;
    handshake->os_errno = errno;
    return false;
}

// A peer that always has something to say never makes us wait.
static bool is_in_time(struct tls_handshake *handshake)
{
    if (deadline_left(handshake->deadline) > 0)
        return true;
    handshake->end = SOCKET_TIMEOUT;
    return false;
}

static bool send_all(struct tls_handshake *handshake, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(handshake->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            if (!wait_for(handshake, POLLOUT))
                return false;
        } else if (sent < 0 && !goes_on(handshake, errno)) {
            return false;
        } else if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        }
    }
    return true;
}

// Sends what is pending. False: the socket's end says why not.
static bool flush(struct tls_handshake *handshake)
{
    size_t length = handshake->pending;
    handshake->pending = 0;
    return handshake->end == SOCKET_FINE && send_all(handshake, handshake->flight, length);
}

// mbedTLS's error for how the socket ended.
static int socket_status(const struct tls_handshake *handshake, int otherwise)
{
    return handshake->end == SOCKET_TIMEOUT ? MBEDTLS_ERR_SSL_TIMEOUT : otherwise;
}

// What mbedTLS sends as an alert, header included. Even encrypted, and padded by TLS 1.3, it is shorter than any
// message that may be left.
#define ALERT_RECORD_MAX (TLS_HEADER_SIZE + MBEDTLS_SSL_CID_TLS1_3_PADDING_GRANULARITY + AEAD_TAG_SIZE)

// TLS 1.3: behind its Finished a server speaks under the application's key, and the client listens for no other (RFC
// 8446, A.2). mbedTLS goes on with the handshake's up to the client's Finished: a client that it refuses would read a
// broken record in place of the reason. Such an alert is sealed anew. Returns its size; 0: the record is another one.
static size_t renew_alert(struct tls_handshake *handshake, const unsigned char *record, size_t length,
                          uint8_t out[TLS_ALERT_RECORD_MAX])
{
    unsigned alert;
    const struct key_export *keys = &handshake->keys;
    if (handshake->context->role != TLS_SERVER || handshake->is_over || !keys->application.has_server ||
        length > ALERT_RECORD_MAX || record[0] != MBEDTLS_SSL_MSG_APPLICATION_DATA)
        return 0;
    const struct tls_suite *suite = tls_suite_find(handshake->early.suite);
    if (suite == NULL || !key_export_open_alert(keys, TLS_SERVER, handshake->sealed, record, length, &alert))
        return 0;
    return key_export_seal_alert(keys, suite->algorithm, suite->hash, alert, out);
}

// Puts it behind what is pending.
static bool queue(struct tls_handshake *handshake, const uint8_t *bytes, size_t length)
{
    INVARIANT(handshake->pending <= sizeof handshake->flight);
    if (length > sizeof handshake->flight - handshake->pending && !flush(handshake))
        return false;
    if (length > sizeof handshake->flight)
        return send_all(handshake, bytes, length);
    memcpy(handshake->flight + handshake->pending, bytes, length);
    handshake->pending += length;
    return true;
}

// mbedTLS sends record by record; a flight goes out in one piece, when its answer is waited for.
static int transmit(void *argument, const unsigned char *bytes, size_t length)
{
    struct tls_handshake *handshake = argument;
    uint8_t renewed[TLS_ALERT_RECORD_MAX];
    handshake->transmitted = length;
    early_filter_sent(&handshake->early, bytes, length);
    if (length > 0 && bytes[0] == MBEDTLS_SSL_MSG_APPLICATION_DATA)
        handshake->sealed++;
    size_t renewed_length = renew_alert(handshake, bytes, length, renewed);
    handshake->has_alerted =
        handshake->has_alerted || renewed_length > 0 || (length > 0 && bytes[0] == MBEDTLS_SSL_MSG_ALERT);
    bool is_queued = renewed_length > 0 ? queue(handshake, renewed, renewed_length) : queue(handshake, bytes, length);
    return is_queued ? (int)length : socket_status(handshake, MBEDTLS_ERR_NET_SEND_FAILED);
}

// Reads what there is, of up to `room` bytes: how many, or mbedTLS's error.
static int fetch(struct tls_handshake *handshake, unsigned char *buffer, size_t room)
{
    while (is_in_time(handshake)) {
        ssize_t got = recv(handshake->fd, buffer, room, MSG_DONTWAIT);
        if (got > 0)
            return (int)got;
        if (got == 0) {
            handshake->end = SOCKET_EOF;
            return MBEDTLS_ERR_SSL_CONN_EOF;
        }
        if (errno == EAGAIN) {
            if (!wait_for(handshake, POLLIN))
                break;
        } else if (!goes_on(handshake, errno)) {
            break;
        }
    }
    return socket_status(handshake, MBEDTLS_ERR_NET_RECV_FAILED);
}

static int fetch_all(void *argument, uint8_t *bytes, size_t length)
{
    struct tls_handshake *handshake = argument;
    while (length > 0) {
        int got = fetch(handshake, bytes, length);
        if (got < 0)
            return got;
        bytes += got;
        length -= (size_t)got;
    }
    return 0;
}

static int receive(void *argument, unsigned char *buffer, size_t room)
{
    struct tls_handshake *handshake = argument;
    struct early_filter *early = &handshake->early;
    bool is_client = handshake->context->role == TLS_CLIENT;
    if (handshake->pending > 0 && !flush(handshake))
        return socket_status(handshake, MBEDTLS_ERR_NET_SEND_FAILED);
    if (early_filter_is_due(early) && record_follower_is_between_records(&handshake->records)) {
        int status = early_filter_receive(early, &handshake->keys, fetch_all, handshake);
        if (status != 0)
            return status;
    }
    int got = (int)early_filter_take(early, buffer, room);
    if (got == 0)
        got = fetch(handshake, buffer, room);
    if (got <= 0)
        return got;
    record_follower_take(&handshake->records, is_client ? &handshake->server_hello : NULL,
                         is_client ? NULL : &early->offer, buffer, (size_t)got);
    handshake->received += (uint64_t)got;
    // mbedTLS passes over the version where it speaks both: a ServerHello that says 1.3 here, and gives a suite
    // of 1.3's without choosing that version, would have it finish a handshake without keys.
    return handshake->server_hello.is_refused ? MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION : got;
}

// ---- the handshake

// Lower case, without a dot at its end; empty if it is not a name at all: such a one cannot be asked for.
static void copy_name(const unsigned char *name, size_t length, char *out, size_t size)
{
    *out = '\0';
    if (length > 0 && name[length - 1] == '.')
        length--;
    if (length >= size)
        return;
    for (size_t i = 0; i < length; i++) {
        if (name[i] <= ' ' || name[i] >= 0x7f) {
            *out = '\0';
            return;
        }
        out[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] - 'A' + 'a' : name[i]);
        out[i + 1] = '\0';
    }
}

// A client of TLS 1.2 that names no signature algorithms wants SHA-1 (RFC 5246 7.4.1.4.1), with which nothing is to be
// signed any more (RFC 9155). mbedTLS would. In 1.3 it refuses the hello by itself.
static bool wants_sha1(const struct tls_handshake *handshake)
{
    const struct early_data_offer *hello = &handshake->early.offer;
    return mbedtls_ssl_get_version_number(&handshake->ssl) == MBEDTLS_SSL_VERSION_TLS1_2 && hello->is_over &&
           hello->is_whole && !hello->has_signature_algorithms;
}

int tls_certificate_callback(mbedtls_ssl_context *ssl)
{
    struct tls_handshake *handshake = mbedtls_ssl_get_user_data_p(ssl);
    if (wants_sha1(handshake))
        return MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE;
    size_t length = 0;
    const unsigned char *name = mbedtls_ssl_get_hs_sni(ssl, &length);
    char asked[sizeof handshake->info->server_name] = "";
    if (name != NULL)
        copy_name(name, length, asked, sizeof asked);
    // After a HelloRetryRequest it runs again, and mbedTLS does not see to it that the second hello asks for the same
    // (RFC 8446 4.1.2): a client could be routed by one name and verified by another's authority.
    if (handshake->has_chosen && strcmp(asked, handshake->info->server_name) != 0)
        return MBEDTLS_ERR_SSL_ILLEGAL_PARAMETER;
    handshake->has_chosen = true;
    memcpy(handshake->info->server_name, asked, sizeof asked);
    return tls_sni_select(handshake->context, handshake->info->server_name, ssl, &handshake->verification.entry);
}

// The name without a dot at its end, which says to the resolver that it is whole: neither is it sent with one
// (RFC 6066, 3), nor has a certificate one.
static const char *strip_last_dot(struct tls_handshake *handshake, const char *host)
{
    size_t length = host != NULL ? strlen(host) : 0;
    if (length < 2 || host[length - 1] != '.' || length > sizeof handshake->host)
        return host;
    (void)snprintf(handshake->host, sizeof handshake->host, "%.*s", (int)length - 1, host);
    return handshake->host;
}

// Whom we connect to: the name to be sent and verified.
static int set_host(struct tls_handshake *handshake)
{
    const char *name = handshake->verification.name;
    if (name == NULL) // an address: not sent (RFC 6066, 3), and verified by our callback
        return mbedtls_ssl_set_hostname(&handshake->ssl, NULL);
    struct tls_info *info = handshake->info;
    copy_name((const unsigned char *)name, strlen(name), info->server_name, sizeof info->server_name);
    return *info->server_name == '\0' ? MBEDTLS_ERR_SSL_BAD_INPUT_DATA
                                      : mbedtls_ssl_set_hostname(&handshake->ssl, info->server_name);
}

static bool prepare(struct tls_handshake *handshake, const char *host, struct error *error)
{
    const struct tls_context *context = handshake->context;
    if (!tls_verification_init(&handshake->verification, context, strip_last_dot(handshake, host))) {
        (void)handshake_fail_with(handshake->info, CAUSE_NO_NAME, error);
        return false;
    }
    unsigned char alert;
    mbedtls_ssl_context *ssl = &handshake->ssl;
    int status = mbedtls_ssl_setup(ssl, &context->config);
    if (status == 0 && context->role == TLS_CLIENT)
        status = set_host(handshake);
    if (status == MBEDTLS_ERR_SSL_BAD_INPUT_DATA)
        (void)handshake_fail_with(handshake->info, CAUSE_UNSENDABLE_NAME, error);
    else if (status != 0) // before anything was sent
        (void)handshake_fail(handshake, status, error, &alert);
    if (status != 0)
        return false;
    mbedtls_ssl_set_bio(ssl, handshake, transmit, receive, NULL);
    mbedtls_ssl_set_user_data_p(ssl, handshake);
    mbedtls_ssl_set_verify(ssl, peer_certificates_callback, &handshake->verification);
    mbedtls_ssl_set_export_keys_cb(ssl, key_export_callback, &handshake->keys);
    return true;
}

static void note_info(struct tls_handshake *handshake)
{
    struct tls_info *info = handshake->info;
    const mbedtls_ssl_context *ssl = &handshake->ssl;
    info->version = mbedtls_ssl_get_version_number(ssl) == MBEDTLS_SSL_VERSION_TLS1_3 ? TLS_1_3 : TLS_1_2;
    const struct tls_suite *suite = tls_suite_find(mbedtls_ssl_get_ciphersuite_id_from_ssl(ssl));
    if (suite != NULL)
        (void)snprintf(info->cipher, sizeof info->cipher, "%s", suite->name);
    const char *protocol = mbedtls_ssl_get_alpn_protocol(ssl);
    if (protocol != NULL)
        (void)snprintf(info->protocol, sizeof info->protocol, "%s", protocol);
}

static void note_peer(struct tls_handshake *handshake)
{
    struct tls_info *info = handshake->info;
    X509 *peer = tls_verified_certificate(&handshake->verification);
    if (peer == NULL)
        return;
    const X509_NAME *subject = X509_get_subject_name(peer);
    (void)x509_name_text(subject, info->peer_subject, sizeof info->peer_subject);
    x509_common_name(subject, info->peer_common_name, sizeof info->peer_common_name);
    (void)x509_names(peer, info->peer_names, sizeof info->peer_names);
    x509_fingerprint(peer, info->peer_fingerprint);
    if (*handshake->verification.identity != '\0')
        memcpy(info->peer_identity, handshake->verification.identity, sizeof info->peer_identity);
    else
        identity_describe(peer, info->peer_identity);
}

_Static_assert(sizeof((struct tls_info *)NULL)->peer_identity == IDENTITY_SIZE, "they have the same room");

static void send_alert(struct tls_handshake *handshake, unsigned char alert)
{
    // While mbedTLS still has a message in hand, such as a ServerHello whose keys could not be made, the call sends
    // that, and no alert.
    for (int calls = 0; calls < 2; calls++) {
        handshake->transmitted = 0;
        (void)mbedtls_ssl_send_alert_message(&handshake->ssl, MBEDTLS_SSL_ALERT_LEVEL_FATAL, alert);
        if (handshake->transmitted <= ALERT_RECORD_MAX)
            break;
    }
    (void)flush(handshake);
}

// Whether what mbedTLS has let pass will do.
static bool accept_peer(struct tls_handshake *handshake, struct error *error)
{
    unsigned char alert;
    note_info(handshake);
    if (tls_verify_result(&handshake->verification, &handshake->ssl, &alert)) {
        note_peer(handshake);
        return true;
    }
    send_alert(handshake, alert);
    bool has_certificate = mbedtls_ssl_get_peer_cert(&handshake->ssl) != NULL;
    error_set(error, ERROR_INVALID, "%s", handshake->verification.reason);
    enum handshake_cause cause = handshake->verification.is_unauthorized ? CAUSE_UNAUTHORIZED
                                 : has_certificate                       ? CAUSE_BAD_CERTIFICATE
                                                                         : CAUSE_NO_CERTIFICATE;
    (void)handshake_fail_with(handshake->info, cause, error);
    return false;
}

// To its end, verification included.
static bool run(struct tls_handshake *handshake, const char *host, struct error *error)
{
    int64_t start = clock_now();
    mbedtls_ssl_init(&handshake->ssl);
    if (!prepare(handshake, host, error))
        return false;
    peer_certificates_begin(&handshake->verification);
    int status = mbedtls_ssl_handshake(&handshake->ssl);
    peer_certificates_end();
    handshake->is_over = status == 0;
    // The record layer begins with the next record: nothing of this one may be left.
    if (status == 0 && mbedtls_ssl_check_pending(&handshake->ssl) != 0)
        status = MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE;
    if (status == 0 && handshake->pending > 0 && !flush(handshake)) // the last flight
        status = socket_status(handshake, MBEDTLS_ERR_NET_SEND_FAILED);
    if (status != 0) {
        unsigned char alert;
        // First: that the alert cannot be sent to a peer that has left must not replace the cause.
        if (handshake_fail(handshake, status, error, &alert))
            send_alert(handshake, alert);
        (void)flush(handshake);
    }
    bool is_good = status == 0 && accept_peer(handshake, error);
    handshake->info->handshake_time = clock_now() - start;
    if (!is_good && handshake->end == SOCKET_FINE)
        socket_end_and_drain(handshake->fd); // or the alert might be lost
    return is_good;
}

// The two halves that go on where the handshake ended.
static bool create_halves(struct tls_handshake *handshake, struct tls_session *session, struct error *error)
{
    bool is_client = handshake->context->role == TLS_CLIENT;
    struct tls_keys client;
    struct tls_keys server;
    const struct tls_suite *suite = tls_suite_find(mbedtls_ssl_get_ciphersuite_id_from_ssl(&handshake->ssl));
    if (suite != NULL && key_export_derive(&handshake->keys, suite->algorithm, suite->hash, &client, &server)) {
        session->sender = tls_sender_create(is_client ? &client : &server, error);
        session->receiver = tls_receiver_create(is_client ? &server : &client, is_client, error);
    }
    mbedtls_platform_zeroize(&client, sizeof client);
    mbedtls_platform_zeroize(&server, sizeof server);
    return session->sender != NULL && session->receiver != NULL;
}

static bool begin(const struct tls_context *context, int fd, const char *host, struct client_watch *watch,
                  int64_t deadline, struct tls_session *session, struct error *error)
{
    memset(session, 0, sizeof *session);
    // Not on the stack, which would keep the memory for as long as the connection lives.
    struct tls_handshake *handshake = calloc(1, sizeof *handshake);
    if (handshake == NULL) {
        (void)handshake_fail_with(&session->info, CAUSE_OUT_OF_MEMORY, error);
        return false;
    }
    handshake->context = context;
    handshake->info = &session->info;
    handshake->fd = fd;
    handshake->watch = watch;
    handshake->deadline = deadline;
    bool is_good = run(handshake, host, error);
    if (is_good && !create_halves(handshake, session, error)) {
        send_alert(handshake, handshake_fail_with(&session->info, CAUSE_NO_KEYS, error));
        tls_session_release(session);
        is_good = false;
    }
    if (is_good)
        session->record_limit = session->info.version == TLS_1_3
                                    ? TLS_PLAIN_MAX // 1.3's are one less by mbedTLS's own padding
                                    : (size_t)mbedtls_ssl_get_max_out_record_payload(&handshake->ssl);
    mbedtls_ssl_free(&handshake->ssl); // wipes its own
    tls_verification_release(&handshake->verification);
    early_filter_release(&handshake->early);
    mbedtls_platform_zeroize(&handshake->keys, sizeof handshake->keys);
    arithmetic_leave_thread();
    key_exchange_leave_thread();
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
