// Handshakes that fail: with those who speak something else, or nothing, or too slowly; and what both sides hear of it.

#include "tls_peer.h"

#include <openssl/core_names.h>
#include <openssl/param_build.h>

#include "hex.h"

static struct tls_context *server; // verify_mode none
static struct tls_context *client; // strict

// What a stranger says, and what is said of it.
struct stranger {
    const char *bytes;
    size_t length;
    const char *words;
};

#define SAYS(text) text, sizeof(text) - 1

// Our side of a handshake with a stranger who says this and then no more; `pair` stays open.
static bool meet(const struct tls_context *context, int pair[2], const char *bytes, size_t length, int64_t deadline,
                 struct error *error)
{
    struct tls_session session;
    *error = ERROR_INIT;
    write_all(pair[1], (const uint8_t *)bytes, length);
    bool is_good = context == server
                       ? tls_accept(context, pair[0], deadline, &session, error)
                       : tls_connect(context, pair[0], "s.example", rig_nobody(), deadline, &session, error);
    assert_null(session.sender);
    assert_null(session.receiver);
    assert_true(session.info.handshake_time > 0);
    assert_string_equal(session.info.cipher, "");
    return is_good;
}

static void close_pair(const int pair[2])
{
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void check_strangers(const struct tls_context *context, const struct stranger *strangers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int pair[2];
        struct error error;
        rig_pair(pair);
        // A connection that then stays open: the verdict does not wait for its end.
        assert_false(meet(context, pair, strangers[i].bytes, strangers[i].length, rig_limit(), &error));
        if (strstr(error.text, strangers[i].words) == NULL)
            fail_msg("%zu: said \"%s\" in place of \"%s\"", i, error.text, strangers[i].words);
        assert_int_equal(error.code, ERROR_INVALID);
        close_pair(pair);
    }
}

static void test_a_client_that_speaks_something_else_is_told_what(void **state)
{
    (void)state;
    static const struct stranger strangers[] = {
        {SAYS("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), "the client sent plain HTTP"},
        {SAYS("POST /x HTTP/1.0\r\n\r\n"), "the client sent plain HTTP"},
        {SAYS("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "the client sent plain HTTP"},
        {SAYS("CONNECT a:1 HTTP/1.1\r\n\r\n"), "the client sent plain HTTP"},
        {SAYS("SSH-2.0-OpenSSH_9.2\r\n"), "the client speaks SSH, not TLS"},
        {SAYS("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"), "the client sent a PROXY protocol header"},
        {SAYS("\r\n\r\n\0\r\nQUIT\n"), "the client sent a PROXY protocol header"},
        {SAYS("\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10"), "the client sent an SSLv2 hello"},
        {SAYS("\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"), "the client sent an SSLv2 hello"},
        {SAYS("EHLO a.example\r\n"), "the client sent plain text, not TLS"},
        {SAYS("\x00\x01\x02\x03\x04\x05\x06\x07"), "the client sent binary data, not TLS"},
        {SAYS("\x16\x02\x00\x00\x05\x01\x00\x00\x01\x00"), "the client sent binary data, not TLS"},
        {SAYS("\x16\x03\x01\xff\xff\x01\x00\x00\x01"), "the client sent a record that is too long"},
        {SAYS("\x16\x03\x01\x00\x00\x16\x03\x01"), "the client "},
        {SAYS("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), "the client broke the rules of TLS"},
        {SAYS("\x17\x03\x03\x00\x05hello"), "the client sent a message out of turn"},
        {SAYS("\x16\x03\x01\x00\x04\x0e\x00\x00\x00"), "the client sent a message out of turn"},
        {SAYS("\x15\x03\x01\x00\x02\x01\x00"), "the client ended the TLS handshake by close_notify"},
        {SAYS("\x15\x03\x01\x00\x02\x02\x5a"), "the client ended the TLS handshake with the alert user_canceled"},
    };
    check_strangers(server, strangers, ARRAY_LENGTH(strangers));
}

static void test_a_target_that_speaks_something_else_is_told_what(void **state)
{
    (void)state;
    static const struct stranger strangers[] = {
        {SAYS("HTTP/1.1 400 Bad Request\r\n\r\n"), "the target answered in plain HTTP"},
        {SAYS("SSH-2.0-OpenSSH_9.2\r\n"), "the target speaks SSH, not TLS"},
        {SAYS("220 mail.example ESMTP\r\n"), "the target sent plain text, not TLS"},
        {SAYS("\x00\x01\x02\x03\x04\x05\x06\x07"), "the target sent binary data, not TLS"},
        {SAYS("\x15\x03\x03\x00\x02\x02\x28"),
         "the target found nothing acceptable in our offer (alert handshake_failure)"},
        {SAYS("\x15\x03\x03\x00\x02\x02\x46"), "the target speaks none of our TLS versions (alert protocol_version)"},
        {SAYS("\x15\x03\x03\x00\x02\x02\x70"), "the target does not know the server name (alert unrecognized_name)"},
        {SAYS("\x15\x03\x03\x00\x02\x02\x50"), "the target ended the TLS handshake with the alert internal_error"},
        {SAYS("\x15\x03\x03\x00\x02\x02\xee"), "the target ended the TLS handshake with the alert "},
        {SAYS("\x16\x03\x03\x00\x04\x0e\x00\x00\x00"), "the target sent a message out of turn"},
    };
    check_strangers(client, strangers, ARRAY_LENGTH(strangers));
}

// A stranger gets no alert that it could not read; one who speaks TLS does.
static void test_only_who_speaks_tls_is_sent_an_alert(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        unsigned alert; // 0: none
    } cases[] = {
        {SAYS("GET / HTTP/1.1\r\n\r\n"), 0},
        {SAYS("\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10"), 0},
        {SAYS("\x15\x03\x01\x00\x02\x02\x5a"), 0},
        {SAYS("\x17\x03\x03\x00\x05hello"), 10},
        {SAYS("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), 50},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        int pair[2];
        uint8_t heard[64];
        struct error error;
        rig_pair(pair);
        assert_false(meet(server, pair, cases[i].bytes, cases[i].length, rig_limit(), &error));
        (void)close(pair[0]);
        ssize_t length = recv(pair[1], heard, sizeof heard, MSG_WAITALL); // to the end
        assert_int_equal(length, cases[i].alert != 0 ? 7 : 0);
        assert_true(length == 0 || (heard[0] == 21 && heard[5] == 2 && heard[6] == cases[i].alert));
        (void)close(pair[1]);
    }
}

static void test_an_end_during_the_handshake_is_told(void **state)
{
    (void)state;
    static const char begun[] = "\x16\x03\x01\x00\x80\x01\x00";
    static const struct stranger strangers[] = {
        {SAYS(""), "closed the connection without a word of TLS"},
        {SAYS("\x16"), "closed the connection during the TLS handshake"},
        {SAYS(begun), "closed the connection during the TLS handshake"},
    };
    const struct tls_context *const contexts[] = {server, client};
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(strangers); i++) {
        int pair[2];
        struct error error;
        rig_pair(pair);
        assert_int_equal(send(pair[1], strangers[i / 2].bytes, strangers[i / 2].length, 0), strangers[i / 2].length);
        assert_int_equal(shutdown(pair[1], SHUT_WR), 0);
        assert_false(meet(contexts[i % 2], pair, "", 0, rig_limit(), &error));
        if (strstr(error.text, strangers[i / 2].words) == NULL)
            fail_msg("said \"%s\" in place of \"%s\"", error.text, strangers[i / 2].words);
        // A client that says nothing wanted nothing.
        bool is_probe = strangers[i / 2].length == 0 && contexts[i % 2] == server;
        assert_int_equal(error.code, is_probe ? ERROR_CANCELLED : ERROR_INVALID);
        close_pair(pair);
    }
    int pair[2];
    struct error error;
    rig_pair(pair);
    socket_reset(pair[1]);
    assert_false(meet(server, pair, "", 0, rig_limit(), &error));
    assert_string_equal(error.text, "the client closed the connection without a word of TLS");
    assert_int_equal(error.code, ERROR_CANCELLED);
    (void)close(pair[0]);
    rig_pair(pair);
    assert_int_equal(send(pair[1], begun, 1, 0), 1);
    socket_reset(pair[1]);
    assert_false(meet(server, pair, "", 0, rig_limit(), &error));
    assert_string_equal(error.text, "the TLS handshake with the client failed: Connection reset by peer");
    assert_int_equal(error.os_errno, ECONNRESET);
    (void)close(pair[0]);
}

#define SHORT (100 * NS_PER_MS)

static void test_silence_is_bounded(void **state)
{
    (void)state;
    static const struct stranger strangers[] = {
        {SAYS(""), "sent nothing: the TLS handshake timed out"},
        {SAYS("\x16"), "did not finish the TLS handshake in time"},
        {SAYS("\x16\x03\x01\x00\x80\x01\x00"), "did not finish the TLS handshake in time"},
        {SAYS("GET"), "did not finish the TLS handshake in time"},
    };
    const struct tls_context *const contexts[] = {server, client};
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(strangers); i++) {
        int pair[2];
        struct error error;
        rig_pair(pair);
        int64_t start = clock_now();
        assert_false(
            meet(contexts[i % 2], pair, strangers[i / 2].bytes, strangers[i / 2].length, start + SHORT, &error));
        assert_true(clock_now() - start >= SHORT);
        if (strstr(error.text, strangers[i / 2].words) == NULL)
            fail_msg("said \"%s\" in place of \"%s\"", error.text, strangers[i / 2].words);
        assert_int_equal(error.code, ERROR_TIMEOUT);
        close_pair(pair);
    }
    int pair[2];
    struct error error;
    rig_pair(pair);
    assert_false(meet(server, pair, "", 0, clock_now() - 1, &error)); // over before it began
    assert_int_equal(error.code, ERROR_TIMEOUT);
    close_pair(pair);
}

struct drip {
    int fd;
    const uint8_t *bytes;
    size_t length;
    int pause; // ms between two pieces
};

// Over and over again, until the other side is gone.
static void *drip(void *argument)
{
    const struct drip *tap = argument;
    for (;;) {
        struct pollfd poller = {.fd = tap->fd, .events = POLLRDHUP};
        if (send(tap->fd, tap->bytes, tap->length, MSG_NOSIGNAL) < 0 || poll(&poller, 1, tap->pause) != 0)
            return NULL;
    }
}

// A peer that always sends something in time for the single read gains no time by it.
static void test_the_bound_is_on_the_whole_handshake(void **state)
{
    (void)state;
    static const uint8_t header[] = {0x16, 0x03, 0x01, 0x3f, 0xff, 0x01, 0x00, 0x3f, 0xfb};
    static const uint8_t zero[] = {0};
    static const uint8_t warning[] = {0x15, 0x03, 0x01, 0x00, 0x02, 0x01, 0x6e}; // ignored by TLS 1.2
    const struct drip taps[] = {{.bytes = zero, .length = 1, .pause = 10},
                                {.bytes = warning, .length = sizeof warning, .pause = 0}};
    for (size_t i = 0; i < ARRAY_LENGTH(taps); i++) {
        int pair[2];
        pthread_t thread;
        struct drip tap = taps[i];
        struct error error;
        rig_pair(pair);
        tap.fd = pair[1];
        write_all(pair[1], header, i == 0 ? sizeof header : 0);
        assert_int_equal(pthread_create(&thread, NULL, drip, &tap), 0);
        int64_t start = clock_now();
        assert_false(meet(server, pair, "", 0, start + 2 * SHORT, &error));
        assert_true(clock_now() - start < RIG_LIMIT);
        assert_string_equal(error.text, "the client did not finish the TLS handshake in time");
        assert_int_equal(shutdown(pair[0], SHUT_RDWR), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        close_pair(pair);
    }
}

static void test_a_client_that_rejects_our_certificate_is_named(void **state)
{
    (void)state;
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (size_t i = 0; i < ARRAY_LENGTH(versions); i++) {
        struct tls_peer peer = {.authorities = "other-ca.crt", .maximum = versions[i], .server_name = "A.example"};
        struct tls_session session;
        struct error error;
        assert_false(run_session(server, TLS_SERVER, NULL, &peer, &session, &error));
        assert_string_equal(error.text, "the client does not trust our certificate's CA (alert unknown_ca)");
        assert_string_equal(session.info.server_name, "a.example"); // known all the same
    }
}

static const struct {
    const char *name;
    enum aead_algorithm algorithm;
    enum tls_hash hash;
} suites[] = {{"TLS_AES_128_GCM_SHA256", AEAD_AES_128_GCM, TLS_SHA256},
              {"TLS_AES_256_GCM_SHA384", AEAD_AES_256_GCM, TLS_SHA384},
              {"TLS_CHACHA20_POLY1305_SHA256", AEAD_CHACHA20_POLY1305, TLS_SHA256}};
static size_t suite_at_hand;

// As soon as a client has its handshake's secret, it sends an alert that is encrypted: libssl never does so that early.
static void send_encrypted_alert(const SSL *ssl, const char *line)
{
    static const char label[] = "CLIENT_HANDSHAKE_TRAFFIC_SECRET ";
    uint8_t out[TLS_ALERT_RECORD_MAX];
    struct tls_keys keys = {
        .version = TLS_1_3, .algorithm = suites[suite_at_hand].algorithm, .hash = suites[suite_at_hand].hash};
    if (strncmp(line, label, strlen(label)) != 0)
        return;
    const char *secret = strrchr(line, ' ') + 1;
    assert_int_equal(from_hex(secret, keys.secret, sizeof keys.secret), keys.hash == TLS_SHA384 ? 48 : 32);
    struct tls_sender *sender = tls_sender_create(&keys, NULL);
    assert_non_null(sender);
    size_t length = tls_sender_alert(sender, (enum tls_alert)SSL_AD_UNKNOWN_CA, out, sizeof out);
    assert_true(length > 0);
    write_all(SSL_get_fd(ssl), out, length);
    tls_sender_destroy(&sender);
}

static void test_an_encrypted_alert_is_read(void **state)
{
    (void)state;
    for (suite_at_hand = 0; suite_at_hand < ARRAY_LENGTH(suites); suite_at_hand++) {
        struct tls_peer peer = {
            .minimum = TLS1_3_VERSION, .maximum = TLS1_3_VERSION, .suites_1_3 = suites[suite_at_hand].name};
        struct tls_session session;
        struct error error;
        tls_peer_configure(&peer);
        SSL_CTX_set_keylog_callback(peer.context, send_encrypted_alert);
        assert_false(run_session(server, TLS_SERVER, NULL, &peer, &session, &error));
        assert_string_equal(error.text, "the client does not trust our certificate's CA (alert unknown_ca)");
        assert_int_equal(session.info.failure, TLS_FAILURE_CERTIFICATE_REFUSED);
    }
}

// The public half of one key with the private half of another: OpenSSL signs with it, for a certificate that is not its
// own.
static EVP_PKEY *forge(EVP_PKEY *shown, EVP_PKEY *had)
{
    unsigned char point[65];
    size_t length = 0;
    BIGNUM *number = NULL;
    EVP_PKEY *forged = NULL;
    assert_int_equal(EVP_PKEY_get_octet_string_param(shown, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point, &length), 1);
    assert_int_equal(EVP_PKEY_get_bn_param(had, OSSL_PKEY_PARAM_PRIV_KEY, &number), 1);
    OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
    OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0);
    OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, point, length);
    OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_PRIV_KEY, number);
    OSSL_PARAM *parameters = OSSL_PARAM_BLD_to_param(builder);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    assert_int_equal(EVP_PKEY_fromdata_init(context), 1);
    assert_int_equal(EVP_PKEY_fromdata(context, &forged, EVP_PKEY_KEYPAIR, parameters), 1);
    EVP_PKEY_CTX_free(context);
    OSSL_PARAM_free(parameters);
    OSSL_PARAM_BLD_free(builder);
    BN_free(number);
    return forged;
}

static void test_a_target_without_its_certificates_key_is_refused(void **state)
{
    (void)state;
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    EVP_PKEY *other = rig_key("P-256");
    for (size_t i = 0; i < ARRAY_LENGTH(versions); i++) {
        struct tls_session session;
        struct error error;
        struct tls_peer peer = {.is_server = true, .pair = "server", .minimum = versions[i], .maximum = versions[i]};
        tls_peer_configure(&peer);
        EVP_PKEY *forged = forge(SSL_CTX_get0_privatekey(peer.context), other);
        assert_int_equal(SSL_CTX_use_PrivateKey(peer.context, forged), 1);
        assert_false(run_session(client, TLS_CLIENT, "s.example", &peer, &session, &error));
        assert_string_equal(error.text, "the target sent a signature that does not match its certificate");
        assert_int_equal(session.info.failure, TLS_FAILURE_CERTIFICATE_INVALID);
        assert_non_null(strstr(peer.error, "decrypt error"));
        EVP_PKEY_free(forged);
    }
    EVP_PKEY_free(other);
}

// TLS 1.3: our side is done before the target looks at our certificate, so that it is the record layer that hears of
// it.
static void test_a_target_that_wants_a_certificate_is_heard(void **state)
{
    (void)state;
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (size_t i = 0; i < ARRAY_LENGTH(versions); i++) {
        int pair[2];
        struct tls_session session;
        struct error error = ERROR_INIT;
        struct tls_peer peer = {.is_server = true, .pair = "server", .authorities = "ca.crt", .maximum = versions[i]};
        tls_peer_configure(&peer);
        SSL_CTX_set_verify(peer.context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        rig_pair(pair);
        tls_peer_start(&peer, pair[1]);
        bool is_good = tls_connect(client, pair[0], "s.example", rig_nobody(), rig_limit(), &session, &error);
        assert_true(is_good == (versions[i] == TLS1_3_VERSION));
        if (is_good) {
            uint8_t buffer[1024];
            ssize_t length = recv(pair[0], buffer, sizeof buffer, 0);
            assert_true(length > 0);
            struct tls_received got = tls_receiver_open(session.receiver, buffer, (size_t)length);
            assert_int_equal(got.event, TLS_PEER_ALERT);
            assert_string_equal(tls_alert_name(got.alert), "certificate_required");
        } else {
            assert_non_null(strstr(error.text, "(alert handshake_failure)"));
        }
        tls_session_release(&session);
        (void)close(pair[0]);
        tls_peer_join(&peer);
    }
}

// The ClientHello that OpenSSL would send.
static size_t client_hello(uint8_t *out, size_t size)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL *ssl = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem());
    BIO *sent = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl, in, sent);
    assert_int_equal(SSL_set_tlsext_host_name(ssl, "s.example"), 1);
    assert_int_equal(SSL_connect(ssl), -1);
    int length = BIO_read(sent, out, (int)size);
    assert_true(length > 100);
    SSL_free(ssl);
    SSL_CTX_free(context);
    return (size_t)length;
}

static void test_a_hello_in_many_records_is_answered(void **state)
{
    (void)state;
    uint8_t hello[4096];
    size_t length = client_hello(hello, sizeof hello);
    static const size_t pieces[] = {4, 5, 50, 200};
    for (size_t i = 0; i < ARRAY_LENGTH(pieces); i++) {
        uint8_t split[16384];
        size_t used = 0;
        for (size_t at = 5; at < length; at += pieces[i]) {
            size_t piece = length - at < pieces[i] ? length - at : pieces[i];
            const uint8_t header[5] = {0x16, 0x03, 0x01, (uint8_t)(piece >> 8), (uint8_t)piece};
            memcpy(split + used, header, sizeof header);
            memcpy(split + used + sizeof header, hello + at, piece);
            used += sizeof header + piece;
        }
        int pair[2];
        struct error error;
        rig_pair(pair);
        write_all(pair[1], split, used);
        assert_int_equal(shutdown(pair[1], SHUT_WR), 0);
        assert_false(meet(server, pair, "", 0, rig_limit(), &error));
        // It got as far as an answer, and then waits for what does not come.
        assert_string_equal(error.text, "the client closed the connection during the TLS handshake");
        uint8_t answer[6];
        assert_int_equal(recv(pair[1], answer, sizeof answer, MSG_WAITALL), sizeof answer);
        assert_int_equal(answer[0], 0x16);
        assert_int_equal(answer[5], 2); // ServerHello
        close_pair(pair);
    }
}

static int begin(void **state)
{
    (void)state;
    rig_tls_begin();
    rig_issue_pair("other-ca", &(struct rig_request){.subject = "Other CA", .is_ca = true});
    rig_issue_pair("server", &(struct rig_request){.subject = "s", .names = "DNS:s.example", .issuer = &rig_ca});
    struct rig_config config;
    rig_config_init(&config, VERIFY_NONE);
    rig_config_add_pair(&config, "server", NULL);
    server = rig_context(&config, TLS_SERVER);
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "ca.crt", NULL);
    client = rig_context(&config, TLS_CLIENT);
    return 0;
}

static int end(void **state)
{
    tls_context_destroy(&server);
    tls_context_destroy(&client);
    return rig_tls_end(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_client_that_speaks_something_else_is_told_what),
        cmocka_unit_test(test_a_target_that_speaks_something_else_is_told_what),
        cmocka_unit_test(test_only_who_speaks_tls_is_sent_an_alert),
        cmocka_unit_test(test_an_end_during_the_handshake_is_told),
        cmocka_unit_test(test_silence_is_bounded),
        cmocka_unit_test(test_the_bound_is_on_the_whole_handshake),
        cmocka_unit_test(test_a_client_that_rejects_our_certificate_is_named),
        cmocka_unit_test(test_an_encrypted_alert_is_read),
        cmocka_unit_test(test_a_target_without_its_certificates_key_is_refused),
        cmocka_unit_test(test_a_target_that_wants_a_certificate_is_heard),
        cmocka_unit_test(test_a_hello_in_many_records_is_answered),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
