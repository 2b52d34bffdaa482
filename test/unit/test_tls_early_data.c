// Early data of another server's ticket, sent by OpenSSL: skipped as RFC 8446 4.2.10 has it, and nothing else is.

#include "tls_peer.h"

#define SKIPPED_MAX (128 * 1024) // bytes of records

// ---- OpenSSL's client, over memory, so that the test sees and changes what it sends

struct client {
    SSL *ssl;
    BIO *in;
    BIO *out;
    int fd;
};

struct early_case {
    const char *suites;   // that are offered, the session's among them; NULL: OpenSSL's own
    const char *groups;   // NULL: OpenSSL's own
    size_t length;        // of early data
    size_t piece;         // that it is written in; 0: in records as long as may be
    const char *identity; // a pair; NULL: none
};

// Takes what the client has to send.
static size_t take_out(struct client *client, uint8_t *bytes, size_t room)
{
    int length = BIO_pending(client->out) > 0 ? BIO_read(client->out, bytes, (int)room) : 0;
    assert_true(length >= 0 && BIO_pending(client->out) == 0);
    return (size_t)length;
}

// False: the server has closed, or says so.
static bool send_bytes(struct client *client, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(client->fd, bytes, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        bytes += sent;
        length -= (size_t)sent;
    }
    return true;
}

static bool send_out(struct client *client)
{
    static uint8_t bytes[1 << 20];
    return send_bytes(client, bytes, take_out(client, bytes, sizeof bytes));
}

// Waits for something of the server's. False: it has closed.
static bool receive_in(struct client *client)
{
    uint8_t bytes[4096];
    ssize_t got = recv(client->fd, bytes, sizeof bytes, 0);
    if (got <= 0)
        return false;
    assert_int_equal(BIO_write(client->in, bytes, (int)got), got);
    return true;
}

// Goes on with the handshake until the server is to send. True: it is over.
static bool step(struct client *client)
{
    int status = SSL_do_handshake(client->ssl);
    assert_true(status == 1 || SSL_get_error(client->ssl, status) == SSL_ERROR_WANT_READ);
    return status == 1;
}

static SSL_SESSION *ticket; // of a server that takes early data

static SSL_CTX *client_context(const struct early_case *settings)
{
    struct tls_peer peer = {.minimum = TLS1_3_VERSION,
                            .suites_1_3 = settings->suites,
                            .groups = settings->groups,
                            .pair = settings->identity};
    tls_peer_configure(&peer);
    return peer.context;
}

static void client_begin(struct client *client, const struct early_case *settings, int fd)
{
    SSL_CTX *context = client_context(settings);
    *client =
        (struct client){.ssl = SSL_new(context), .in = BIO_new(BIO_s_mem()), .out = BIO_new(BIO_s_mem()), .fd = fd};
    SSL_CTX_free(context);
    SSL_set_bio(client->ssl, client->in, client->out);
    BIO_set_mem_eof_return(client->in, -1);
    SSL_set_connect_state(client->ssl);
    SSL_SESSION *own = SSL_SESSION_dup(ticket);
    assert_int_equal(SSL_set_session(client->ssl, own), 1);
    SSL_SESSION_free(own);
}

static void client_end(struct client *client)
{
    SSL_free(client->ssl);
    (void)close(client->fd);
}

// Leaves hello and early data in `out`.
static void write_early_data(struct client *client, const struct early_case *settings)
{
    static const uint8_t data[TLS_PLAIN_MAX] = {'E'};
    size_t piece = settings->piece > 0 ? settings->piece : sizeof data;
    for (size_t left = settings->length; left > 0;) {
        size_t written = 0;
        assert_int_equal(SSL_write_early_data(client->ssl, data, left < piece ? left : piece, &written), 1);
        left -= written;
    }
}

// ---- a ticket

static void *serve_ticket(void *argument)
{
    int *fd = argument;
    struct tls_peer peer = {.is_server = true, .minimum = TLS1_3_VERSION, .pair = "P-256"};
    tls_peer_configure(&peer);
    SSL_CTX_set_max_early_data(peer.context, 1 << 20);
    SSL *ssl = SSL_new(peer.context);
    SSL_CTX_free(peer.context);
    SSL_set_fd(ssl, *fd);
    assert_int_equal(SSL_accept(ssl), 1);
    assert_int_equal(SSL_write(ssl, "x", 1), 1);
    SSL_free(ssl);
    return NULL;
}

static void get_ticket(void)
{
    int pair[2];
    pthread_t server;
    char byte;
    rig_pair(pair);
    assert_int_equal(pthread_create(&server, NULL, serve_ticket, &pair[0]), 0);
    SSL_CTX *context = client_context(&(struct early_case){.suites = "TLS_AES_256_GCM_SHA384"});
    SSL *ssl = SSL_new(context);
    SSL_CTX_free(context);
    SSL_set_fd(ssl, pair[1]);
    assert_int_equal(SSL_connect(ssl), 1);
    assert_int_equal(SSL_read(ssl, &byte, 1), 1);
    ticket = SSL_get1_session(ssl);
    assert_int_equal(SSL_SESSION_get_max_early_data(ticket), 1 << 20);
    assert_int_equal(pthread_join(server, NULL), 0);
    (void)SSL_shutdown(ssl); // or the session would count as a bad one
    SSL_free(ssl);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

// ---- our listener

struct listener {
    struct tls_context *context;
    pthread_t thread;
    int fd;
    bool is_good;
    struct tls_session session;
    struct error error;
    uint8_t got[TLS_RECORD_MAX]; // the client's first record
    size_t length;
};

static void *accept_one(void *argument)
{
    struct listener *listener = argument;
    listener->is_good = tls_accept(listener->context, listener->fd, rig_limit(), &listener->session, &listener->error);
    while (listener->is_good) {
        struct tls_received got = tls_receiver_open(listener->session.receiver, listener->got, listener->length);
        if (got.event != TLS_NEEDS_MORE) {
            listener->is_good = got.event == TLS_DATA;
            memmove(listener->got, got.data, got.length);
            listener->length = got.length;
            break;
        }
        ssize_t more = recv(listener->fd, listener->got + listener->length, sizeof listener->got - listener->length, 0);
        listener->is_good = more > 0;
        listener->length += more > 0 ? (size_t)more : 0;
    }
    tls_session_release(&listener->session);
    (void)shutdown(listener->fd, SHUT_RDWR);
    return NULL;
}

static void begin(struct listener *listener, struct client *client, const struct early_case *settings)
{
    int pair[2];
    struct rig_config config;
    rig_config_init(&config, settings->identity != NULL ? VERIFY_STRICT : VERIFY_NONE);
    rig_config_add_pair(&config, "P-256", settings->identity != NULL ? "ca.crt" : NULL);
    rig_pair(pair);
    *listener = (struct listener){.context = rig_context(&config, TLS_SERVER), .fd = pair[0], .error = ERROR_INIT};
    client_begin(client, settings, pair[1]);
    socket_set_receive_timeout(pair[0], RIG_LIMIT);
    socket_set_receive_timeout(pair[1], RIG_LIMIT);
    assert_int_equal(pthread_create(&listener->thread, NULL, accept_one, listener), 0);
}

static void end(struct listener *listener, struct client *client)
{
    assert_int_equal(pthread_join(listener->thread, NULL), 0);
    tls_context_destroy(&listener->context);
    (void)close(listener->fd);
    client_end(client);
}

// The client's record, behind the handshake, has come to us.
static void assert_served(struct listener *listener, struct client *client)
{
    assert_int_equal(SSL_get_early_data_status(client->ssl), SSL_EARLY_DATA_REJECTED);
    assert_int_equal(SSL_write(client->ssl, PEER_TEXT, sizeof PEER_TEXT), sizeof PEER_TEXT);
    assert_true(send_out(client));
    end(listener, client);
    if (!listener->is_good)
        fail_msg("%s", listener->error.text);
    assert_int_equal(listener->length, sizeof PEER_TEXT);
    assert_memory_equal(listener->got, PEER_TEXT, sizeof PEER_TEXT);
}

// What is expected of the server's alert is asked for in the client's error.
static void assert_refused(struct listener *listener, struct client *client, const char *words)
{
    end(listener, client);
    assert_false(listener->is_good);
    if (strstr(listener->error.text, words) == NULL)
        fail_msg("%s", listener->error.text);
}

// ---- tests

static void test_early_data_is_skipped(void **state)
{
    (void)state;
    static const struct early_case cases[] = {
        {.length = 1},
        {.length = 700},
        {.length = TLS_PLAIN_MAX},
        {.length = (size_t)4 * TLS_PLAIN_MAX},
        {.length = 20000, .piece = 100},
        {.length = 2000, .piece = 1},
        {.length = 700, .groups = "X448:X25519"}, // of which it sends a share of the first: a HelloRetryRequest follows
        {.length = (size_t)4 * TLS_PLAIN_MAX, .groups = "X448:X25519"},
        {.length = 700, .suites = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"},
        {.length = 700, .suites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"},
        {.length = 700, .identity = "client"},
        {.length = 700, .identity = "client", .groups = "X448:X25519"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct listener listener;
        struct client client;
        begin(&listener, &client, &cases[i]);
        write_early_data(&client, &cases[i]);
        assert_true(send_out(&client));
        while (!step(&client))
            assert_true(send_out(&client) && receive_in(&client));
        assert_served(&listener, &client);
    }
}

// Each byte in a segment of its own.
static void test_early_data_may_come_bytewise(void **state)
{
    (void)state;
    static const char *const groups[] = {NULL, "X448:X25519"};
    static uint8_t bytes[8192];
    for (size_t i = 0; i < ARRAY_LENGTH(groups); i++) {
        struct early_case settings = {.length = 300, .piece = 90, .groups = groups[i]};
        struct listener listener;
        struct client client;
        begin(&listener, &client, &settings);
        write_early_data(&client, &settings);
        for (bool is_over = false; !is_over;) {
            size_t length = take_out(&client, bytes, sizeof bytes);
            for (size_t at = 0; at < length; at++)
                assert_true(send_bytes(&client, bytes + at, 1));
            is_over = step(&client);
            if (!is_over && BIO_pending(client.out) <= 0)
                assert_true(receive_in(&client));
        }
        assert_served(&listener, &client);
    }
}

static void test_more_than_any_server_allows_is_refused(void **state)
{
    (void)state;
    static const char *const groups[] = {NULL, "X448:X25519"};
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(groups); i++) {
        // As many records of 1000 bytes as fit below the limit, and one more.
        const size_t most = SKIPPED_MAX / (1000 + TLS_HEADER_SIZE + 1 + AEAD_TAG_SIZE);
        struct early_case settings = {.length = 1000 * (most + i % 2), .piece = 1000, .groups = groups[i / 2]};
        struct listener listener;
        struct client client;
        begin(&listener, &client, &settings);
        write_early_data(&client, &settings);
        bool goes_on = send_out(&client);
        for (bool is_over = false; goes_on && !is_over;) {
            int status = SSL_do_handshake(client.ssl);
            is_over = status == 1;
            goes_on = is_over || SSL_get_error(client.ssl, status) == SSL_ERROR_WANT_READ;
            if (goes_on && !is_over)
                goes_on = send_out(&client) && receive_in(&client);
        }
        // A client may be through before its early data has been read.
        assert_true(goes_on || i % 2 == 1);
        if (i % 2 == 0)
            assert_served(&listener, &client);
        else
            assert_refused(&listener, &client, "the client sent more early data than is skipped (128 KiB)");
        assert_true(i % 2 == 0 || listener.session.info.failure == TLS_FAILURE_RULES);
    }
}

// ---- nothing else is skipped

static const uint8_t garbage[] = {23,   3,    3,    0,    20,   0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a,
                                  0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a};

static size_t record_size(const uint8_t *record)
{
    return TLS_HEADER_SIZE + ((size_t)record[3] << 8 | record[4]);
}

// A client that announces early data, and sends `record` before the `position`th encrypted record of its last flight.
static void run_with(const struct early_case *settings, size_t position, const uint8_t *record, size_t length,
                     struct listener *listener, struct client *client)
{
    static uint8_t flight[16384];
    begin(listener, client, settings);
    if (settings->length > 0)
        write_early_data(client, settings);
    for (;;) {
        bool is_over = step(client);
        size_t size = take_out(client, flight, sizeof flight);
        size_t encrypted = 0;
        for (size_t at = 0; at < size; at += record_size(flight + at)) {
            if (is_over && flight[at] == 23 && encrypted++ == position)
                (void)send_bytes(client, record, length);
            (void)send_bytes(client, flight + at, record_size(flight + at));
        }
        if (is_over)
            return;
        assert_true(receive_in(client));
    }
}

static void test_what_does_not_open_is_skipped_only_in_front(void **state)
{
    (void)state;
    // Certificate, CertificateVerify and Finished are a record each.
    struct early_case settings = {.length = 1, .identity = "client"};
    struct listener listener;
    struct client client;
    run_with(&settings, 0, garbage, sizeof garbage, &listener, &client);
    assert_served(&listener, &client);
    for (size_t position = 1; position < 3; position++) {
        run_with(&settings, position, garbage, sizeof garbage, &listener, &client);
        assert_refused(&listener, &client, "the client sent a record that does not decrypt");
    }
    // After a HelloRetryRequest there is none behind the second hello.
    settings.groups = "X448:X25519";
    run_with(&settings, 0, garbage, sizeof garbage, &listener, &client);
    assert_refused(&listener, &client, "the client sent a record that does not decrypt");
}

static void test_without_an_announcement_nothing_is_skipped(void **state)
{
    (void)state;
    struct listener listener;
    struct client client;
    run_with(&(struct early_case){.length = 0}, 0, garbage, sizeof garbage, &listener, &client);
    assert_refused(&listener, &client, "the client sent a record that does not decrypt");
}

static void test_no_record_but_a_possible_one_is_skipped(void **state)
{
    (void)state;
    static const struct {
        uint8_t header[TLS_HEADER_SIZE];
        const char *words;
    } cases[] = {
        {{23, 3, 3, 0, 16}, "the client sent a record that does not decrypt"},   // no room for a type
        {{23, 3, 3, 0, 0}, "the client"},                                        // nor for a tag
        {{23, 3, 3, 0x41, 1}, "the client sent a record that does not decrypt"}, // too long
        {{23, 3, 1, 0, 20}, "the client"},
        {{22, 3, 3, 0, 20}, "the client"},
        {{24, 3, 3, 0, 20}, "the client"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        static uint8_t record[TLS_HEADER_SIZE + 0x4101];
        struct listener listener;
        struct client client;
        memcpy(record, cases[i].header, TLS_HEADER_SIZE);
        run_with(&(struct early_case){.length = 1}, 0, record, record_size(record), &listener, &client);
        assert_refused(&listener, &client, cases[i].words);
    }
}

static void test_a_client_may_leave_amid_early_data(void **state)
{
    (void)state;
    static uint8_t bytes[8192];
    static const char *const groups[] = {NULL, "X448:X25519"};
    for (size_t i = 0; i < ARRAY_LENGTH(groups); i++) {
        struct early_case settings = {.length = 700, .groups = groups[i]};
        size_t hello = 0;
        size_t length = 1;
        for (size_t kept = 0; hello + kept < length; kept += kept < 8 ? 1 : 200) {
            struct listener listener;
            struct client client;
            begin(&listener, &client, &settings);
            write_early_data(&client, &settings);
            length = take_out(&client, bytes, sizeof bytes);
            hello = record_size(bytes);
            assert_true(send_bytes(&client, bytes, hello + kept));
            assert_int_equal(shutdown(client.fd, SHUT_WR), 0);
            assert_refused(&listener, &client, "the client closed the connection during the TLS handshake");
        }
    }
}

static int begin_tests(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    rig_tls_begin();
    rig_issue_pair("P-256", &(struct rig_request){.subject = "server", .issuer = &rig_ca});
    rig_issue_pair("client", &(struct rig_request){.subject = "client", .issuer = &rig_ca});
    get_ticket();
    return 0;
}

static int end_tests(void **state)
{
    SSL_SESSION_free(ticket);
    return rig_tls_end(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_early_data_is_skipped),
        cmocka_unit_test(test_early_data_may_come_bytewise),
        cmocka_unit_test(test_more_than_any_server_allows_is_refused),
        cmocka_unit_test(test_what_does_not_open_is_skipped_only_in_front),
        cmocka_unit_test(test_without_an_announcement_nothing_is_skipped),
        cmocka_unit_test(test_no_record_but_a_possible_one_is_skipped),
        cmocka_unit_test(test_a_client_may_leave_amid_early_data),
    };
    return cmocka_run_group_tests(tests, begin_tests, end_tests);
}
