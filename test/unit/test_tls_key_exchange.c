// RSA-PSS signatures in TLS 1.2, which mbedTLS 3.6.6 alone refuses: taken with every hash, and whatever is changed on
// the way in the message that they sign, or in what says how it is signed, is refused.

#include "tls_peer.h"

enum { HANDSHAKE = 22, SERVER_KEY_EXCHANGE = 12 };
enum { SCHEME_PSS_SHA256 = 0x0804, SCHEME_PSS_SHA384 = 0x0805, SCHEME_PKCS1_SHA256 = 0x0401 };

// What is changed in the ServerKeyExchange: header, curve, the point's length, the point, scheme, length, signature.
struct change {
    unsigned scheme;   // 0: as it is
    bool is_point;     // one bit of it
    bool is_signature; // likewise
};

struct middle {
    const struct change *change;
    int from; // the server
    int to;
    bool has_seen_exchange;
    unsigned scheme; // that the server chose
    pthread_t thread;
};

static bool read_whole(int fd, uint8_t *bytes, size_t length)
{
    return recv(fd, bytes, length, MSG_WAITALL) == (ssize_t)length;
}

static void edit(struct middle *middle, uint8_t *record, size_t length)
{
    uint8_t *message = record + TLS_HEADER_SIZE;
    if (record[0] != HANDSHAKE || message[0] != SERVER_KEY_EXCHANGE || middle->has_seen_exchange)
        return;
    uint8_t *scheme = message + 8 + message[7];
    middle->has_seen_exchange = true;
    middle->scheme = (unsigned)scheme[0] << 8 | scheme[1];
    if (middle->change->scheme != 0) {
        scheme[0] = (uint8_t)(middle->change->scheme >> 8);
        scheme[1] = (uint8_t)middle->change->scheme;
    }
    if (middle->change->is_point)
        message[9] ^= 1;
    if (middle->change->is_signature)
        record[length - 1] ^= 1;
}

// What the server says, record by record.
static void *pass_on(void *argument)
{
    struct middle *middle = argument;
    static uint8_t record[TLS_RECORD_MAX];
    while (read_whole(middle->from, record, TLS_HEADER_SIZE)) {
        size_t length = TLS_HEADER_SIZE + ((size_t)record[3] << 8 | record[4]);
        if (length > sizeof record || !read_whole(middle->from, record + TLS_HEADER_SIZE, length - TLS_HEADER_SIZE))
            break;
        edit(middle, record, length);
        if (send(middle->to, record, length, MSG_NOSIGNAL) != (ssize_t)length)
            break;
    }
    (void)shutdown(middle->to, SHUT_WR);
    return NULL;
}

// What the client says.
static void *pass_back(void *argument)
{
    const struct middle *middle = argument;
    uint8_t bytes[4096];
    for (;;) {
        ssize_t got = recv(middle->to, bytes, sizeof bytes, 0);
        if (got <= 0 || send(middle->from, bytes, (size_t)got, MSG_NOSIGNAL) != got)
            break;
    }
    (void)shutdown(middle->from, SHUT_WR);
    return NULL;
}

// A handshake of ours with this server, through the middle.
static bool run(struct tls_peer *peer, const struct change *change, struct tls_info *info, struct error *error,
                unsigned *scheme)
{
    int near[2];
    int far[2];
    pthread_t back;
    struct rig_config config;
    struct tls_session session;
    rig_pair(near);
    rig_pair(far);
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "ca.crt", NULL);
    struct tls_context *context = rig_context(&config, TLS_CLIENT);
    peer->is_server = true;
    tls_peer_start(peer, far[1]);
    struct middle middle = {.change = change, .from = far[0], .to = near[1]};
    assert_int_equal(pthread_create(&middle.thread, NULL, pass_on, &middle), 0);
    assert_int_equal(pthread_create(&back, NULL, pass_back, &middle), 0);
    *error = ERROR_INIT;
    bool is_good = tls_connect(context, near[0], "s.example", rig_nobody(), rig_limit(), &session, error);
    *info = session.info;
    if (is_good)
        exchange(&session, near[0]);
    tls_session_release(&session);
    (void)shutdown(near[0], SHUT_RDWR);
    tls_peer_join(peer);
    assert_int_equal(pthread_join(middle.thread, NULL), 0);
    assert_int_equal(pthread_join(back, NULL), 0);
    (void)close(near[0]);
    (void)close(near[1]);
    (void)close(far[0]);
    tls_context_destroy(&context);
    *scheme = middle.scheme;
    return is_good;
}

static void test_pss_is_taken_with_every_hash(void **state)
{
    (void)state;
    static const struct {
        const char *signatures;
        unsigned scheme;
    } cases[] = {
        {"RSA-PSS+SHA256", SCHEME_PSS_SHA256},
        {"RSA-PSS+SHA384", SCHEME_PSS_SHA384},
        {"RSA-PSS+SHA512", 0x0806},
        {"RSA+SHA256", SCHEME_PKCS1_SHA256},
        {"RSA+SHA512", 0x0601},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct tls_peer peer = {.maximum = TLS1_2_VERSION, .pair = "rsa", .signatures = cases[i].signatures};
        struct tls_info info;
        struct error error;
        unsigned scheme;
        if (!run(&peer, &(struct change){.scheme = 0}, &info, &error, &scheme))
            fail_msg("%s: %s", cases[i].signatures, error.text);
        assert_int_equal(info.version, TLS_1_2);
        assert_int_equal(scheme, cases[i].scheme);
        assert_true(peer.has_exchanged);
    }
}

static void test_what_was_changed_on_the_way_is_refused(void **state)
{
    (void)state;
    static const char wrong[] = "sent a signature that does not match its certificate";
    static const char unruly[] = "a choice that we did not offer";
    static const struct {
        const char *pair;
        const char *signatures;
        struct change change;
        const char *words;
    } cases[] = {
        {"rsa", "RSA-PSS+SHA256", {.is_signature = true}, wrong},
        {"rsa", "RSA-PSS+SHA256", {.is_point = true}, NULL},
        {"rsa", "RSA-PSS+SHA256", {.scheme = SCHEME_PSS_SHA384}, wrong},
        {"rsa", "RSA-PSS+SHA256", {.scheme = SCHEME_PKCS1_SHA256}, wrong},
        {"rsa", "RSA-PSS+SHA256", {.scheme = 0x0809}, unruly}, // for keys that are for PSS alone: not offered
        {"rsa", "RSA+SHA256", {.scheme = SCHEME_PSS_SHA256}, wrong},
        {"rsa", "RSA+SHA256", {.is_signature = true}, wrong},
        {"P-256", "ECDSA+SHA256", {.scheme = SCHEME_PSS_SHA256}, NULL},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct tls_peer peer = {.maximum = TLS1_2_VERSION, .pair = cases[i].pair, .signatures = cases[i].signatures};
        struct tls_info info;
        struct error error;
        unsigned scheme;
        if (run(&peer, &cases[i].change, &info, &error, &scheme))
            fail_msg("%zu is taken", i);
        if (cases[i].words != NULL && strstr(error.text, cases[i].words) == NULL)
            fail_msg("%zu: %s", i, error.text);
        assert_false(peer.is_done);
    }
}

// Which versions are offered is as it was.
static void test_a_newer_server_is_not_spoken_to_in_1_2(void **state)
{
    (void)state;
    struct tls_peer peer = {.pair = "rsa", .signatures = "RSA-PSS+SHA256"};
    struct tls_info info;
    struct error error;
    unsigned scheme;
    assert_true(run(&peer, &(struct change){.scheme = 0}, &info, &error, &scheme));
    assert_int_equal(info.version, TLS_1_3);
}

static int begin(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    rig_tls_begin();
    static const char *const kinds[] = {"rsa", "P-256"};
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++)
        rig_issue_pair(
            kinds[i],
            &(struct rig_request){.subject = "server", .names = "DNS:s.example", .kind = kinds[i], .issuer = &rig_ca});
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pss_is_taken_with_every_hash),
        cmocka_unit_test(test_what_was_changed_on_the_way_is_refused),
        cmocka_unit_test(test_a_newer_server_is_not_spoken_to_in_1_2),
    };
    return cmocka_run_group_tests(tests, begin, rig_tls_end);
}
