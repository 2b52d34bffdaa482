#include "tls_peer.h"

static void peer_note_error(struct tls_peer *peer)
{
    unsigned long code = ERR_peek_last_error();
    (void)snprintf(peer->error, sizeof peer->error, "%s", code != 0 ? ERR_reason_error_string(code) : "end of file");
    ERR_clear_error();
}

static int peer_choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *length,
                                const unsigned char *offered, unsigned offered_length, void *argument)
{
    (void)ssl;
    const struct tls_peer *peer = argument;
    unsigned char *chosen;
    int status = SSL_select_next_proto(&chosen, length, (const unsigned char *)peer->protocols,
                                       (unsigned)strlen(peer->protocols), offered, offered_length);
    *out = chosen;
    return status == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static void peer_load_files(const struct tls_peer *peer, SSL_CTX *context)
{
    char name[64];
    char path[RIG_PATH_SIZE];
    if (peer->pair != NULL) {
        (void)snprintf(name, sizeof name, "%s.crt", peer->pair);
        assert_int_equal(SSL_CTX_use_certificate_chain_file(context, rig_path(name, path)), 1);
        (void)snprintf(name, sizeof name, "%s.key", peer->pair);
        assert_int_equal(SSL_CTX_use_PrivateKey_file(context, rig_path(name, path), SSL_FILETYPE_PEM), 1);
    }
    if (peer->authorities != NULL) {
        assert_int_equal(SSL_CTX_load_verify_locations(context, rig_path(peer->authorities, path), NULL), 1);
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    }
}

static int peer_accept_anything(int ok, X509_STORE_CTX *store)
{
    (void)ok;
    (void)store;
    return 1;
}

void tls_peer_configure(struct tls_peer *peer)
{
    SSL_CTX *context = SSL_CTX_new(peer->is_server ? TLS_server_method() : TLS_client_method());
    assert_non_null(context);
    SSL_CTX_set_security_level(context, 0); // what is too weak is for bitflow to say
    assert_int_equal(SSL_CTX_set_min_proto_version(context, peer->minimum), 1);
    assert_int_equal(SSL_CTX_set_max_proto_version(context, peer->maximum), 1);
    assert_true(peer->suites_1_2 == NULL || SSL_CTX_set_cipher_list(context, peer->suites_1_2) == 1);
    assert_true(peer->suites_1_3 == NULL || SSL_CTX_set_ciphersuites(context, peer->suites_1_3) == 1);
    assert_true(peer->groups == NULL || SSL_CTX_set1_groups_list(context, peer->groups) == 1);
    assert_true(peer->signatures == NULL || SSL_CTX_set1_sigalgs_list(context, peer->signatures) == 1);
    peer_load_files(peer, context);
    if (peer->asks_for_certificate)
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, peer_accept_anything);
    if (peer->protocols != NULL && peer->is_server)
        SSL_CTX_set_alpn_select_cb(context, peer_choose_protocol, peer);
    else if (peer->protocols != NULL)
        assert_int_equal(
            SSL_CTX_set_alpn_protos(context, (const unsigned char *)peer->protocols, (unsigned)strlen(peer->protocols)),
            0);
    if (peer->fragment != 0)
        assert_int_equal(SSL_CTX_set_tlsext_max_fragment_length(context, (uint8_t)peer->fragment), 1);
    peer->context = context;
}

static void peer_note_info(struct tls_peer *peer, SSL *ssl)
{
    (void)snprintf(peer->cipher, sizeof peer->cipher, "%s", SSL_CIPHER_standard_name(SSL_get_current_cipher(ssl)));
    const unsigned char *protocol;
    unsigned length;
    SSL_get0_alpn_selected(ssl, &protocol, &length);
    (void)snprintf(peer->protocol, sizeof peer->protocol, "%.*s", (int)length,
                   protocol != NULL ? (const char *)protocol : "");
    X509 *certificate = SSL_get0_peer_certificate(ssl);
    if (certificate != NULL)
        (void)X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, peer->certificate,
                                        sizeof peer->certificate);
}

// Takes the text and answers with many copies of it; then both ends say goodbye.
static bool peer_exchange(SSL *ssl)
{
    char text[sizeof PEER_TEXT];
    size_t length = 0;
    while (length < sizeof text) {
        int got = SSL_read(ssl, text + length, (int)(sizeof text - length));
        if (got <= 0)
            return false;
        length += (size_t)got;
    }
    if (memcmp(text, PEER_TEXT, sizeof text) != 0)
        return false;
    char reply[PEER_REPLY_COPIES * sizeof text];
    for (size_t i = 0; i < PEER_REPLY_COPIES; i++)
        memcpy(reply + i * sizeof text, text, sizeof text);
    if (SSL_write(ssl, reply, sizeof reply) != sizeof reply || SSL_shutdown(ssl) < 0)
        return false;
    return SSL_read(ssl, text, 1) == 0 && SSL_get_error(ssl, 0) == SSL_ERROR_ZERO_RETURN;
}

// At the server's first hello, which is a HelloRetryRequest if another hello of the client's follows.
static void peer_change_name(int is_written, int version, int content, const void *bytes, size_t length, SSL *ssl,
                             void *argument)
{
    (void)version;
    if (is_written == 0 && content == SSL3_RT_HANDSHAKE && length > 0 &&
        *(const unsigned char *)bytes == SSL3_MT_SERVER_HELLO)
        (void)SSL_set_tlsext_host_name(ssl, (const char *)argument);
}

void *tls_peer_run(void *argument)
{
    struct tls_peer *peer = argument;
    SSL *ssl = SSL_new(peer->context);
    (void)SSL_set_fd(ssl, peer->fd);
    if (peer->server_name != NULL)
        (void)SSL_set_tlsext_host_name(ssl, peer->server_name);
    if (peer->later_name != NULL) {
        SSL_set_msg_callback(ssl, peer_change_name);
        SSL_set_msg_callback_arg(ssl, (void *)peer->later_name);
    }
    if (peer->old_session != NULL)
        (void)SSL_set_session(ssl, peer->old_session);
    peer->is_done = (peer->is_server ? SSL_accept(ssl) : SSL_connect(ssl)) == 1;
    const char *name = peer->is_server ? SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name) : NULL;
    (void)snprintf(peer->asked_name, sizeof peer->asked_name, "%s", name != NULL ? name : "");
    if (peer->is_done) {
        peer_note_info(peer, ssl);
        peer->has_exchanged = peer_exchange(ssl);
        peer->is_resumed = SSL_session_reused(ssl) == 1;
        peer->session = SSL_get1_session(ssl);
    }
    if (!peer->has_exchanged)
        peer_note_error(peer);
    SSL_free(ssl);
    (void)shutdown(peer->fd, SHUT_RDWR);
    return NULL;
}

void tls_peer_start(struct tls_peer *peer, int fd)
{
    peer->fd = fd;
    if (peer->context == NULL)
        tls_peer_configure(peer);
    // A peer that waits for ever would hang the test.
    socket_set_receive_timeout(fd, RIG_LIMIT);
    assert_int_equal(pthread_create(&peer->thread, NULL, tls_peer_run, peer), 0);
}

void tls_peer_join(struct tls_peer *peer)
{
    assert_int_equal(pthread_join(peer->thread, NULL), 0);
    (void)close(peer->fd);
    SSL_CTX_free(peer->context);
    SSL_SESSION_free(peer->old_session);
    peer->context = NULL;
    peer->old_session = NULL;
    if (!peer->keeps_session) {
        SSL_SESSION_free(peer->session);
        peer->session = NULL;
    }
}

void write_all(int fd, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        assert_true(sent > 0);
        bytes += sent;
        length -= (size_t)sent;
    }
}

void send_text(struct tls_session *session, int fd)
{
    uint8_t out[TLS_SEALED_SIZE(sizeof PEER_TEXT) + 256];
    size_t length = tls_sender_seal(session->sender, (const uint8_t *)PEER_TEXT, sizeof PEER_TEXT, out, sizeof out);
    assert_true(length > sizeof PEER_TEXT);
    write_all(fd, out, length);
}

// Reads until close_notify; fails unless it is the reply.
static void receive_reply(struct tls_session *session, int fd)
{
    const size_t room = (size_t)4 * TLS_RECORD_MAX;
    uint8_t *buffer = malloc(room);
    assert_non_null(buffer);
    size_t have = 0;
    size_t copies = 0;
    for (;;) {
        struct tls_received got = tls_receiver_open(session->receiver, buffer, have);
        if (got.event == TLS_NEEDS_MORE) {
            ssize_t more = recv(fd, buffer + have, room - have, 0);
            assert_true(more > 0);
            have += (size_t)more;
            continue;
        }
        if (got.event == TLS_CLOSE_NOTIFY)
            break;
        if (got.event != TLS_DATA && got.event != TLS_IGNORED)
            fail_msg("event %d: %s", got.event, got.reason != NULL ? got.reason : "");
        for (size_t i = 0; got.event == TLS_DATA && i < got.length; i++, copies++)
            assert_int_equal(got.data[i], PEER_TEXT[copies % sizeof PEER_TEXT]);
        memmove(buffer, buffer + got.consumed, have - got.consumed);
        have -= got.consumed;
    }
    assert_int_equal(copies, PEER_REPLY_COPIES * sizeof PEER_TEXT);
    free(buffer);
}

void exchange(struct tls_session *session, int fd)
{
    uint8_t out[TLS_ALERT_RECORD_MAX];
    socket_set_receive_timeout(fd, RIG_LIMIT);
    send_text(session, fd);
    receive_reply(session, fd);
    write_all(fd, out, tls_sender_alert(session->sender, TLS_ALERT_CLOSE_NOTIFY, out, sizeof out));
}

bool run_session(const struct tls_context *context, enum tls_role role, const char *host, struct tls_peer *peer,
                 struct tls_session *session, struct error *why)
{
    int pair[2];
    rig_pair(pair);
    socket_set_nodelay(pair[0]);
    socket_set_nodelay(pair[1]);
    *why = ERROR_INIT;
    peer->is_server = role == TLS_CLIENT;
    tls_peer_start(peer, pair[1]);
    bool is_good = role == TLS_SERVER ? tls_accept(context, pair[0], rig_limit(), session, why)
                                      : tls_connect(context, pair[0], host, rig_nobody(), rig_limit(), session, why);
    assert_true(is_good == (why->code == ERROR_NONE));
    assert_true(is_good == (session->sender != NULL && session->receiver != NULL));
    if (is_good)
        exchange(session, pair[0]);
    tls_session_release(session);
    (void)close(pair[0]);
    tls_peer_join(peer);
    if (is_good && !peer->has_exchanged)
        fail_msg("the peer: %s", peer->error);
    return is_good;
}
