// Handshakes with OpenSSL, as its server and as its client: every version, suite, group and kind of key; server names;
// ALPN; and the record halves that go on from there.

#include "tls_peer.h"

static const char *const kinds[] = {"rsa", "P-256", "P-384", "P-521"};

struct suite {
    int version;
    const char *openssl; // its name in OpenSSL's list for TLS 1.2
    const char *name;
    bool is_rsa; // TLS 1.2: the key that it wants
};

static const struct suite suites[] = {
    {TLS1_3_VERSION, NULL, "TLS_AES_128_GCM_SHA256", false},
    {TLS1_3_VERSION, NULL, "TLS_AES_256_GCM_SHA384", false},
    {TLS1_3_VERSION, NULL, "TLS_CHACHA20_POLY1305_SHA256", false},
    {TLS1_2_VERSION, "ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", false},
    {TLS1_2_VERSION, "ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", true},
    {TLS1_2_VERSION, "ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", false},
    {TLS1_2_VERSION, "ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", true},
    {TLS1_2_VERSION, "ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", false},
    {TLS1_2_VERSION, "ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", true},
};

// Both sides have a certificate of the kind, and verify the other's.
static void run_suite(const struct suite *suite, const char *kind, enum tls_role role)
{
    struct rig_config config;
    char client[32];
    (void)snprintf(client, sizeof client, "client-%s", kind);
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add_pair(&config, kind, "ca.crt");
    struct tls_context *context = rig_context(&config, role);
    struct tls_peer peer = {.minimum = suite->version,
                            .maximum = suite->version,
                            .suites_1_2 = suite->openssl,
                            .suites_1_3 = suite->openssl == NULL ? suite->name : NULL,
                            .server_name = role == TLS_SERVER ? "s.example" : NULL,
                            .pair = role == TLS_SERVER ? client : kind,
                            .authorities = "ca.crt"};
    struct tls_session session;
    struct error error;
    if (!run_session(context, role, "s.example", &peer, &session, &error))
        fail_msg("%s, %s, %d: %s (the peer: %s)", suite->name, kind, role, error.text, peer.error);
    assert_int_equal(session.info.version, suite->version == TLS1_3_VERSION ? TLS_1_3 : TLS_1_2);
    assert_string_equal(session.info.cipher, suite->name);
    assert_string_equal(peer.cipher, suite->name);
    assert_string_equal(session.info.server_name, "s.example");
    assert_string_equal(session.info.protocol, "");
    assert_true(session.info.handshake_time > 0);
    assert_string_equal(session.info.peer_subject, role == TLS_SERVER ? "CN=client" : "CN=server");
    assert_string_equal(session.info.peer_names,
                        role == TLS_SERVER ? "email:client@s.example" : "DNS:s.example, IP:127.0.0.1, IP:::1");
    assert_int_equal(strlen(session.info.peer_fingerprint), 64);
    assert_int_equal(session.record_limit, TLS_PLAIN_MAX);
    assert_string_equal(role == TLS_CLIENT ? peer.asked_name : "s.example", "s.example");
    tls_context_destroy(&context);
}

static void run_matrix(enum tls_role role)
{
    for (size_t i = 0; i < ARRAY_LENGTH(suites); i++)
        for (size_t j = 0; j < ARRAY_LENGTH(kinds); j++)
            if (suites[i].version == TLS1_3_VERSION || suites[i].is_rsa == (j == 0))
                run_suite(&suites[i], kinds[j], role);
}

static void test_every_suite_and_key_works_as_a_server(void **state)
{
    (void)state;
    run_matrix(TLS_SERVER);
}

static void test_every_suite_and_key_works_as_a_client(void **state)
{
    (void)state;
    run_matrix(TLS_CLIENT);
}

// One handshake with a plain context; returns whether it went well.
static bool run_plain(enum tls_role role, struct tls_peer *peer, struct error *error)
{
    struct rig_config config;
    struct tls_session session;
    rig_config_init(&config, VERIFY_NONE);
    if (role == TLS_SERVER)
        rig_config_add(&config, peer->is_for_rsa ? "rsa.key" : "P-256.key", peer->is_for_rsa ? "rsa.crt" : "P-256.crt",
                       NULL, NULL);
    else if (peer->pair == NULL)
        peer->pair = peer->is_for_rsa ? "rsa" : "P-256";
    struct tls_context *context = rig_context(&config, role);
    bool is_good = run_session(context, role, "s.example", peer, &session, error);
    tls_context_destroy(&context);
    return is_good;
}

static void test_only_our_groups_are_agreed_on(void **state)
{
    (void)state;
    static const char *const good[] = {"X25519", "P-256", "P-384", "P-521", "X448:P-384"};
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    struct error error;
    for (size_t i = 0; i < 2 * 2 * ARRAY_LENGTH(good); i++) {
        enum tls_role role = i % 2 == 0 ? TLS_SERVER : TLS_CLIENT;
        int version = versions[i / 2 % 2];
        // In TLS 1.2 the groups are for ECDSA keys, too.
        struct tls_peer peer = {.is_for_rsa = true, .groups = good[i / 4], .minimum = version, .maximum = version};
        if (!run_plain(role, &peer, &error))
            fail_msg("%s, %x, %d: %s (the peer: %s)", good[i / 4], (unsigned)version, role, error.text, peer.error);
    }
    for (size_t i = 0; i < 4; i++) {
        struct tls_peer peer = {
            .is_for_rsa = true, .groups = "X448", .minimum = versions[i / 2], .maximum = versions[i / 2]};
        assert_false(run_plain(i % 2 == 0 ? TLS_SERVER : TLS_CLIENT, &peer, &error));
    }
}

static void test_nothing_weak_is_spoken(void **state)
{
    (void)state;
    static const char *const weak[] = {"AES128-GCM-SHA256",         "ECDHE-ECDSA-AES128-SHA",
                                       "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES128-CCM",
                                       "DHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"}; // the key is ECDSA
    struct error error;
    for (size_t i = 0; i < ARRAY_LENGTH(weak); i++) {
        struct tls_peer peer = {.suites_1_2 = weak[i], .maximum = TLS1_2_VERSION};
        assert_false(run_plain(TLS_SERVER, &peer, &error));
        assert_string_equal(error.text, "no cipher suite, group or signature algorithm in common");
        assert_non_null(strstr(peer.error, "handshake failure"));
    }
    struct tls_peer sha1 = {.signatures = "ECDSA+SHA1", .maximum = TLS1_2_VERSION};
    assert_false(run_plain(TLS_SERVER, &sha1, &error));
    static const int old[] = {TLS1_VERSION, TLS1_1_VERSION};
    for (size_t i = 0; i < ARRAY_LENGTH(old); i++) {
        struct tls_peer peer = {.minimum = old[i], .maximum = old[i]};
        assert_false(run_plain(TLS_SERVER, &peer, &error));
        assert_string_equal(error.text, "no TLS version in common");
        assert_non_null(strstr(peer.error, "protocol version"));
        struct tls_peer server = {.minimum = old[i], .maximum = old[i], .suites_1_2 = "ALL"};
        assert_false(run_plain(TLS_CLIENT, &server, &error));
        assert_string_equal(error.text, "the target speaks none of our TLS versions (alert protocol_version)");
    }
}

static void test_no_version_below_the_minimum_is_spoken(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        enum tls_role role = i == 0 ? TLS_SERVER : TLS_CLIENT;
        struct rig_config config;
        rig_config_init(&config, VERIFY_NONE);
        config.config.minimum_version = TLS_MINIMUM_1_3;
        if (role == TLS_SERVER)
            rig_config_add_pair(&config, "P-256", NULL);
        struct tls_context *context = rig_context(&config, role);
        struct tls_session session;
        struct error error;
        struct tls_peer new_peer = {.pair = "P-256"};
        assert_true(run_session(context, role, "s.example", &new_peer, &session, &error));
        assert_int_equal(session.info.version, TLS_1_3);
        struct tls_peer old_peer = {.pair = "P-256", .maximum = TLS1_2_VERSION};
        assert_false(run_session(context, role, "s.example", &old_peer, &session, &error));
        assert_string_equal(error.text, role == TLS_SERVER
                                            ? "no TLS version in common"
                                            : "the target speaks none of our TLS versions (alert protocol_version)");
        tls_context_destroy(&context);
    }
}

static void write_server(const char *pair, const char *subject, const char *names, const char *kind)
{
    rig_issue_pair(pair, &(struct rig_request){.subject = subject, .names = names, .kind = kind, .issuer = &rig_ca});
}

struct choice {
    const char *name;       // asked for
    const char *signatures; // of the client
    const char *expected;   // CN
};

static void test_the_certificate_follows_the_server_name(void **state)
{
    (void)state;
    write_server("one", "one", "DNS:first.example", NULL);
    write_server("wild", "wild", "DNS:*.b.example,IP:127.0.0.1", NULL);
    write_server("exact", "exact", "DNS:A.b.example,DNS:other.example", NULL);
    write_server("cn", "cn.example", NULL, NULL);
    write_server("not-cn", "hidden.example", "DNS:shown.example", NULL);
    write_server("dual-ec", "dual-ec", "DNS:dual.example", NULL);
    write_server("dual-rsa", "dual-rsa", "DNS:dual.example", "rsa");
    static const char *const pairs[] = {"one", "wild", "exact", "cn", "not-cn", "dual-ec", "dual-rsa"};
    struct rig_config config;
    rig_config_init(&config, VERIFY_NONE);
    for (size_t i = 0; i < ARRAY_LENGTH(pairs); i++)
        rig_config_add_pair(&config, pairs[i], NULL);
    static const struct choice choices[] = {
        {NULL, NULL, "one"},
        {"first.example", NULL, "one"},
        {"unknown.example", NULL, "one"},
        {"a.b.example", NULL, "exact"}, // the wildcard is before it, but it says so exactly
        {"A.B.EXAMPLE", NULL, "exact"},
        {"x.b.example", NULL, "wild"},
        {"X.B.Example.", NULL, "wild"},
        {"b.example", NULL, "one"},
        {"x.y.b.example", NULL, "one"},
        {".b.example", NULL, "one"},
        {"cn.example", NULL, "cn.example"},
        {"hidden.example", NULL, "one"}, // it has SANs, so that its CN is none
        {"shown.example", NULL, "hidden.example"},
        {"dual.example", NULL, "dual-ec"},
        {"dual.example", "RSA-PSS+SHA256:RSA+SHA256", "dual-rsa"},
    };
    struct tls_context *context = rig_context(&config, TLS_SERVER);
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(choices); i++) {
        const struct choice *choice = &choices[i / 2];
        struct tls_peer peer = {.server_name = choice->name,
                                .maximum = i % 2 == 0 ? TLS1_3_VERSION : TLS1_2_VERSION,
                                .signatures = choice->signatures,
                                .suites_1_2 = choice->signatures != NULL ? "ECDHE-RSA-AES128-GCM-SHA256" : NULL};
        struct tls_session session;
        struct error error;
        if (!run_session(context, TLS_SERVER, NULL, &peer, &session, &error))
            fail_msg("%s: %s", choice->name, error.text);
        if (strcmp(peer.certificate, choice->expected) != 0)
            fail_msg("%s: got %s in place of %s", choice->name, peer.certificate, choice->expected);
    }
    tls_context_destroy(&context);
}

static void test_a_retried_hello_chooses_again(void **state)
{
    (void)state;
    struct rig_config config;
    rig_config_init(&config, VERIFY_NONE);
    rig_config_add_pair(&config, "rsa", NULL);
    rig_config_add_pair(&config, "P-256", NULL);
    struct tls_context *context = rig_context(&config, TLS_SERVER);
    // Its key share is of a group that we have not: HelloRetryRequest.
    struct tls_peer peer = {.groups = "X448:P-384", .minimum = TLS1_3_VERSION, .server_name = "s.example"};
    struct tls_session session;
    struct error error;
    assert_true(run_session(context, TLS_SERVER, NULL, &peer, &session, &error));
    assert_string_equal(session.info.server_name, "s.example");
    // It may have been routed by the first name, so the second must be the same.
    peer.later_name = "t.example";
    assert_false(run_session(context, TLS_SERVER, NULL, &peer, &session, &error));
    assert_string_equal(error.text, "the client broke the rules of TLS");
    tls_context_destroy(&context);
}

static void test_the_servers_first_protocol_in_common_is_chosen(void **state)
{
    (void)state;
    static const struct {
        const char *ours[2];
        const char *theirs;
        const char *as_server; // what comes of it, when we choose; NULL: refused
        const char *as_client;
    } cases[] = {
        {{"h2", "http/1.1"}, "\x08http/1.1\x02h2", "h2", "http/1.1"}, // the server's order counts
        {{"h2", "http/1.1"}, "\x08http/1.1", "http/1.1", "http/1.1"},
        {{"h2", "http/1.1"}, NULL, "", ""},
        {{NULL, NULL}, "\x02h2", "", ""},
        {{"h2", NULL}, "\x08http/1.1", NULL, NULL},
    };
    for (size_t i = 0; i < 4 * ARRAY_LENGTH(cases); i++) {
        enum tls_role role = i % 2 == 0 ? TLS_SERVER : TLS_CLIENT;
        const char *expected = role == TLS_SERVER ? cases[i / 4].as_server : cases[i / 4].as_client;
        struct rig_config config;
        rig_config_init(&config, VERIFY_NONE);
        for (size_t j = 0; j < 2 && cases[i / 4].ours[j] != NULL; j++)
            config.protocols[config.config.application_protocol_count++] = cases[i / 4].ours[j];
        if (role == TLS_SERVER)
            rig_config_add_pair(&config, "P-256", NULL);
        struct tls_context *context = rig_context(&config, role);
        struct tls_peer peer = {
            .protocols = cases[i / 4].theirs, .pair = "P-256", .maximum = i % 4 < 2 ? TLS1_2_VERSION : TLS1_3_VERSION};
        struct tls_session session;
        struct error error;
        bool is_good = run_session(context, role, "s.example", &peer, &session, &error);
        assert_true(is_good == (expected != NULL));
        if (is_good) {
            assert_string_equal(session.info.protocol, expected);
            assert_string_equal(peer.protocol, expected);
        } else if (role == TLS_SERVER) {
            assert_string_equal(error.text, "no protocol in common (ALPN)");
            assert_non_null(strstr(peer.error, "no application protocol"));
        } else {
            assert_string_equal(error.text,
                                "the target speaks none of our protocols (ALPN) (alert no_application_protocol)");
        }
        tls_context_destroy(&context);
    }
}

static void test_a_client_may_want_short_records(void **state)
{
    (void)state;
    struct rig_config config;
    rig_config_init(&config, VERIFY_NONE);
    rig_config_add_pair(&config, "P-256", NULL);
    struct tls_context *context = rig_context(&config, TLS_SERVER);
    struct tls_peer peer = {.maximum = TLS1_2_VERSION, .fragment = TLSEXT_max_fragment_length_1024};
    struct tls_session session;
    struct error error;
    assert_true(run_session(context, TLS_SERVER, NULL, &peer, &session, &error));
    assert_int_equal(session.record_limit, 1024);
    tls_context_destroy(&context);
}

static void test_a_configured_server_name_replaces_the_host(void **state)
{
    (void)state;
    struct rig_config config;
    struct tls_session session;
    struct error error;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "ca.crt", NULL);
    config.config.server_name = "s.example";
    struct tls_context *context = rig_context(&config, TLS_CLIENT);
    static const char *const hosts[] = {"10.1.2.3", "elsewhere.example", "", NULL};
    for (size_t i = 0; i < ARRAY_LENGTH(hosts); i++) {
        struct tls_peer peer = {.pair = "P-256"};
        assert_true(run_session(context, TLS_CLIENT, hosts[i], &peer, &session, &error));
        assert_string_equal(peer.asked_name, "s.example");
    }
    tls_context_destroy(&context);
    config.config.server_name = "::1";
    context = rig_context(&config, TLS_CLIENT);
    struct tls_peer peer = {.pair = "P-256"};
    assert_true(run_session(context, TLS_CLIENT, "elsewhere.example", &peer, &session, &error));
    assert_string_equal(peer.asked_name, "");
    assert_string_equal(session.info.server_name, "");
    tls_context_destroy(&context);
}

#define AT_ONCE 8

static void *handshake_once(void *context)
{
    struct tls_peer peer = {.server_name = "s.example"};
    struct tls_session session;
    struct error error;
    (void)run_session(context, TLS_SERVER, NULL, &peer, &session, &error);
    return NULL;
}

static void test_a_context_is_shared_by_threads(void **state)
{
    (void)state;
    struct rig_config config;
    rig_config_init(&config, VERIFY_NONE);
    rig_config_add_pair(&config, "rsa", NULL);
    struct tls_context *context = rig_context(&config, TLS_SERVER);
    pthread_t threads[AT_ONCE];
    for (size_t i = 0; i < AT_ONCE; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, handshake_once, context), 0);
    for (size_t i = 0; i < AT_ONCE; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    tls_context_destroy(&context);
}

static int begin(void **state)
{
    (void)state;
    rig_tls_begin();
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
        char name[32];
        rig_issue_pair(kinds[i], &(struct rig_request){.subject = "server",
                                                       .names = "DNS:s.example,IP:127.0.0.1,IP:::1",
                                                       .usage = "serverAuth,clientAuth",
                                                       .kind = kinds[i],
                                                       .issuer = &rig_ca});
        (void)snprintf(name, sizeof name, "client-%s", kinds[i]);
        rig_issue_pair(name, &(struct rig_request){.subject = "client",
                                                   .names = "email:client@s.example",
                                                   .usage = "clientAuth",
                                                   .kind = kinds[i],
                                                   .issuer = &rig_ca});
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_suite_and_key_works_as_a_server),
        cmocka_unit_test(test_every_suite_and_key_works_as_a_client),
        cmocka_unit_test(test_only_our_groups_are_agreed_on),
        cmocka_unit_test(test_nothing_weak_is_spoken),
        cmocka_unit_test(test_no_version_below_the_minimum_is_spoken),
        cmocka_unit_test(test_the_certificate_follows_the_server_name),
        cmocka_unit_test(test_a_retried_hello_chooses_again),
        cmocka_unit_test(test_the_servers_first_protocol_in_common_is_chosen),
        cmocka_unit_test(test_a_client_may_want_short_records),
        cmocka_unit_test(test_a_configured_server_name_replaces_the_host),
        cmocka_unit_test(test_a_context_is_shared_by_threads),
    };
    return cmocka_run_group_tests(tests, begin, rig_tls_end);
}
