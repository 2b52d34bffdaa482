// Which certificates are accepted, in every verify_mode of both sides, and what is said of the others.

#include "tls_peer.h"

static struct rig_issued other_ca;

static const int versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};

// What a verify_mode makes of a peer's pair: NULL if it is accepted, else the words of our refusal.
struct verdict {
    const char *pair; // the peer's; NULL: it has none
    const char *host; // a target's; NULL: s.example
    const char *none;
    const char *relaxed;
    const char *strict;
    const char *alert; // what the peer hears; NULL: not looked at
};

static const char *expected_words(const struct verdict *verdict, enum verify_mode mode)
{
    return mode == VERIFY_NONE ? verdict->none : mode == VERIFY_RELAXED ? verdict->relaxed : verdict->strict;
}

static void check_info(const struct tls_info *info, const struct verdict *verdict, enum verify_mode mode)
{
    bool is_verified = mode != VERIFY_NONE && verdict->pair != NULL;
    assert_true((*info->peer_fingerprint != '\0') == is_verified);
    assert_true((*info->peer_subject != '\0') == is_verified);
}

static void check_verdict(const struct tls_context *context, enum tls_role role, const struct verdict *verdict,
                          enum verify_mode mode, int version)
{
    const char *words = expected_words(verdict, mode);
    struct tls_peer peer = {.pair = verdict->pair, .minimum = version, .maximum = version};
    struct tls_session session;
    struct error error;
    bool is_good =
        run_session(context, role, verdict->host != NULL ? verdict->host : "s.example", &peer, &session, &error);
    char title[128];
    (void)snprintf(title, sizeof title, "%s as %s, mode %d, version %x", verdict->pair,
                   role == TLS_SERVER ? "client" : "target", mode, (unsigned)version);
    if (is_good != (words == NULL))
        fail_msg("%s: %s", title, is_good ? "accepted" : error.text);
    if (is_good) {
        check_info(&session.info, verdict, mode);
        return;
    }
    if (strstr(error.text, words) == NULL)
        fail_msg("%s: said \"%s\" in place of \"%s\"", title, error.text, words);
    if (verdict->alert != NULL && strstr(peer.error, verdict->alert) == NULL)
        fail_msg("%s: the peer heard \"%s\" in place of \"%s\"", title, peer.error, verdict->alert);
    assert_int_equal(error.code, ERROR_INVALID);
    assert_string_equal(session.info.peer_subject, "");
    assert_string_equal(session.info.peer_fingerprint, "");
}

static void check_verdicts(enum tls_role role, const struct verdict *verdicts, size_t count,
                           const char *revocation_list)
{
    static const enum verify_mode modes[] = {VERIFY_NONE, VERIFY_RELAXED, VERIFY_STRICT};
    for (size_t i = 0; i < ARRAY_LENGTH(modes); i++) {
        struct rig_config config;
        rig_config_init(&config, modes[i]);
        bool is_server = role == TLS_SERVER;
        rig_config_add(&config, is_server ? "server.key" : NULL, is_server ? "server.crt" : NULL, "ca.crt",
                       revocation_list);
        struct tls_context *context = rig_context(&config, role);
        for (size_t j = 0; j < count; j++)
            for (size_t k = 0; k < ARRAY_LENGTH(versions); k++)
                check_verdict(context, role, &verdicts[j], modes[i], versions[k]);
        tls_context_destroy(&context);
    }
}

// "expired on 2026-01-02"
static const char *date_words(const char *what, long from_now, char out[64])
{
    char day[16];
    time_t when = time(NULL) + from_now;
    struct tm broken;
    assert_non_null(gmtime_r(&when, &broken));
    assert_true(strftime(day, sizeof day, "%Y-%m-%d", &broken) > 0);
    (void)snprintf(out, 64, "the certificate %s %s", what, day);
    return out;
}

// The pairs that both roles meet; `usage` is the right one.
static void issue_all(const char *usage, const char *wrong_usage)
{
    const char *names = "DNS:s.example,DNS:*.w.example,IP:127.0.0.1";
    struct rig_request request = {.subject = "peer", .names = names, .usage = usage, .issuer = &rig_ca};
    rig_issue_pair("good", &request);
    struct rig_request changed = request;
    changed.issuer = &other_ca;
    rig_issue_pair("unknown", &changed);
    changed.issuer = NULL;
    rig_issue_pair("self", &changed);
    changed = request;
    changed.from = -30L * RIG_DAY;
    changed.until = -20L * RIG_DAY;
    rig_issue_pair("expired", &changed);
    changed = request;
    changed.from = 20L * RIG_DAY;
    rig_issue_pair("future", &changed);
    changed = request;
    changed.usage = wrong_usage;
    rig_issue_pair("usage", &changed);
    changed = request;
    changed.digest = "SHA1";
    rig_issue_pair("sha1", &changed);
    changed = request;
    changed.key_usage = "keyAgreement";
    rig_issue_pair("key-usage", &changed);
    changed = request;
    changed.kind = "rsa-1024";
    rig_issue_pair("short", &changed);
    changed = request;
    changed.kind = "rsa";
    struct rig_issued pss_ca =
        rig_issue(&(struct rig_request){.subject = "PSS CA", .kind = "rsa", .is_ca = true, .issuer = &rig_ca});
    changed.issuer = &pss_ca;
    changed.signs_with_pss = true;
    struct rig_issued pss = rig_issue(&changed);
    rig_write_pair("pss", &pss);
    rig_write_chain("pss.crt", pss.certificate, pss_ca.certificate, NULL); // an intermediate CA, too
    rig_write_pair("lone", &pss);                                          // and without it
    rig_drop(&pss);
    rig_drop(&pss_ca);
}

static void test_each_mode_judges_clients(void **state)
{
    (void)state;
    char expired[64];
    char future[64];
    issue_all("clientAuth", "serverAuth");
    date_words("expired on", -20L * RIG_DAY, expired);
    date_words("is not valid before", 20L * RIG_DAY, future);
    static const char unknown[] =
        "unknown CA: the certificate of CN=peer was issued by CN=Other CA, which is not an authority here";
    static const char self[] = "unknown CA: the self-signed certificate of CN=peer is not an authority here";
    static const char usage[] = "the certificate is not for clients (extended key usage)";
    static const char weak[] = "the certificate is signed with too weak a hash";
    static const char key_usage[] = "the certificate's key is not for signatures (key usage)";
    static const char lone[] = "was issued by CN=PSS CA, which is not an authority here";
    static const char small[] = "the certificate's key is too short";
    const struct verdict verdicts[] = {
        {.pair = "good"},
        {.pair = "pss"},
        {.pair = NULL, .strict = "the client sent no certificate", .alert = "alert"},
        {.pair = "unknown", .relaxed = unknown, .strict = unknown, .alert = "unknown ca"},
        {.pair = "lone", .relaxed = lone, .strict = lone, .alert = "unknown ca"},
        {.pair = "self", .relaxed = self, .strict = self, .alert = "unknown ca"},
        {.pair = "expired", .relaxed = expired, .strict = expired, .alert = "certificate expired"},
        {.pair = "future", .relaxed = future, .strict = future},
        {.pair = "usage", .relaxed = usage, .strict = usage, .alert = "unsupported certificate"},
        {.pair = "key-usage", .relaxed = key_usage, .strict = key_usage, .alert = "unsupported certificate"},
        {.pair = "sha1", .relaxed = weak, .strict = weak},
        {.pair = "short", .relaxed = small, .strict = small},
    };
    check_verdicts(TLS_SERVER, verdicts, ARRAY_LENGTH(verdicts), NULL);
}

static void test_each_mode_judges_targets(void **state)
{
    (void)state;
    char expired[64];
    char future[64];
    issue_all("serverAuth", "clientAuth");
    rig_issue_pair("cn", &(struct rig_request){.subject = "cn.example", .issuer = &rig_ca});
    date_words("expired on", -20L * RIG_DAY, expired);
    date_words("is not valid before", 20L * RIG_DAY, future);
    static const char unknown[] =
        "unknown CA: the certificate of CN=peer was issued by CN=Other CA, which is not an authority here";
    static const char usage[] = "the certificate is not for servers (extended key usage)";
    static const char names[] = "the certificate is for DNS:s.example, DNS:*.w.example, IP:127.0.0.1, not for ";
    static const char weak[] = "the certificate is signed with too weak a hash";
    const struct verdict verdicts[] = {
        {.pair = "good"},
        {.pair = "good", .host = "S.EXAMPLE"},
        {.pair = "good", .host = "s.example."},
        {.pair = "good", .host = "a.w.example"},
        {.pair = "good", .host = "127.0.0.1"},
        {.pair = "good", .host = "w.example", .strict = names},
        {.pair = "good", .host = "a.b.w.example", .strict = names},
        {.pair = "good", .host = "127.0.0.2", .strict = names, .alert = "bad certificate"},
        {.pair = "good", .host = "::1", .strict = names},
        {.pair = "good", .host = "fe80::1%lo", .strict = names},
        {.pair = "good", .host = "other.example", .strict = names, .alert = "bad certificate"},
        {.pair = "good", .host = "peer", .strict = names}, // its CN, which its SANs replace
        {.pair = "cn", .host = "cn.example"},
        {.pair = "cn", .host = "s.example", .strict = "the certificate is for CN=cn.example, not for s.example"},
        {.pair = "cn", .host = "127.0.0.1", .strict = "the certificate is for CN=cn.example, not for 127.0.0.1"},
        {.pair = "pss"},
        {.pair = "unknown", .relaxed = unknown, .strict = unknown, .alert = "unknown ca"},
        {.pair = "unknown", .host = "other.example", .relaxed = unknown, .strict = unknown},
        {.pair = "expired", .relaxed = expired, .strict = expired, .alert = "certificate expired"},
        {.pair = "future", .relaxed = future, .strict = future},
        {.pair = "usage", .relaxed = usage, .strict = usage, .alert = "unsupported certificate"},
        {.pair = "sha1", .relaxed = weak, .strict = weak},
    };
    check_verdicts(TLS_CLIENT, verdicts, ARRAY_LENGTH(verdicts), NULL);
}

static void test_a_revoked_certificate_is_refused(void **state)
{
    (void)state;
    issue_all("serverAuth,clientAuth", NULL);
    struct rig_issued revoked =
        rig_issue(&(struct rig_request){.subject = "peer", .names = "DNS:s.example", .issuer = &rig_ca});
    rig_write_pair("revoked", &revoked);
    rig_write_crl("ca.crl", &rig_ca, revoked.certificate, RIG_DAY);
    rig_write_crl("old.crl", &rig_ca, revoked.certificate, -RIG_DAY);
    rig_drop(&revoked);
    static const char words[] = "the certificate is revoked";
    static const char old[] =
        "it cannot be told whether the certificate is revoked: the revocation list of CN=Test CA expired on ";
    static const struct verdict current[] = {
        {.pair = "good"}, {.pair = "revoked", .relaxed = words, .strict = words, .alert = "certificate revoked"}};
    static const struct verdict outdated[] = {{.pair = "good", .relaxed = old, .strict = old},
                                              {.pair = "revoked", .relaxed = words, .strict = words}};
    static const struct verdict unlisted[] = {{.pair = "revoked"}};
    for (int i = 0; i < 2; i++) {
        enum tls_role role = i == 0 ? TLS_SERVER : TLS_CLIENT;
        check_verdicts(role, current, ARRAY_LENGTH(current), "ca.crl");
        check_verdicts(role, outdated, ARRAY_LENGTH(outdated), "old.crl");
        check_verdicts(role, unlisted, ARRAY_LENGTH(unlisted), NULL);
    }
}

static void test_an_expired_ca_is_named(void **state)
{
    (void)state;
    struct rig_issued old =
        rig_issue(&(struct rig_request){.subject = "Old CA", .is_ca = true, .from = -9L * RIG_DAY, .until = -RIG_DAY});
    rig_write_chain("old-ca.crt", old.certificate, NULL, NULL);
    rig_issue_pair("old", &(struct rig_request){.subject = "peer", .names = "DNS:s.example", .issuer = &old});
    rig_drop(&old);
    struct rig_config config;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "old-ca.crt", NULL);
    struct tls_context *context = rig_context(&config, TLS_CLIENT);
    const struct verdict verdict = {.pair = "old", .strict = "the CA certificate CN=Old CA expired on "};
    check_verdict(context, TLS_CLIENT, &verdict, VERIFY_STRICT, TLS1_3_VERSION);
    tls_context_destroy(&context);
}

// A pinned certificate: it is its own authority.
static void test_a_pinned_target_is_accepted(void **state)
{
    (void)state;
    rig_issue_pair("pinned", &(struct rig_request){.subject = "pinned", .names = "DNS:s.example"});
    struct rig_config config;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "pinned.crt", NULL);
    struct tls_context *context = rig_context(&config, TLS_CLIENT);
    const struct verdict verdict = {.pair = "pinned"};
    check_verdict(context, TLS_CLIENT, &verdict, VERIFY_STRICT, TLS1_3_VERSION);
    tls_context_destroy(&context);
}

struct entry_case {
    const char *server_name;
    const char *pair;
    bool is_accepted;
};

static void test_each_entry_has_its_own_authority(void **state)
{
    (void)state;
    rig_issue_pair("one", &(struct rig_request){.subject = "one", .names = "DNS:one.example", .issuer = &rig_ca});
    rig_issue_pair("two", &(struct rig_request){.subject = "two", .names = "DNS:two.example", .issuer = &rig_ca});
    rig_issue_pair("open", &(struct rig_request){.subject = "open", .names = "DNS:open.example", .issuer = &rig_ca});
    rig_issue_pair("of-ca", &(struct rig_request){.subject = "of-ca", .issuer = &rig_ca});
    rig_issue_pair("of-other", &(struct rig_request){.subject = "of-other", .issuer = &other_ca});
    struct rig_issued third_ca = rig_issue(&(struct rig_request){.subject = "Third CA", .is_ca = true});
    rig_write_chain("third-ca.crt", third_ca.certificate, NULL, NULL);
    rig_issue_pair("of-third", &(struct rig_request){.subject = "of-third", .issuer = &third_ca});
    rig_drop(&third_ca);
    struct rig_config config;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add_pair(&config, "one", "ca.crt");
    rig_config_add_pair(&config, "two", "other-ca.crt");
    rig_config_add_pair(&config, "open", NULL);
    rig_config_add(&config, NULL, NULL, "third-ca.crt", NULL);
    static const struct entry_case cases[] = {
        {"one.example", "of-ca", true},     {"one.example", "of-other", false}, {"one.example", "of-third", false},
        {"two.example", "of-other", true},  {"two.example", "of-ca", false},    {"open.example", "of-ca", true},
        {"open.example", "of-other", true}, {"open.example", "of-third", true}, {NULL, "of-ca", true},
        {NULL, "of-third", false},          {"unknown.example", "of-ca", true}, {"unknown.example", "of-other", false},
    };
    struct tls_context *context = rig_context(&config, TLS_SERVER);
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(cases); i++) {
        const struct entry_case *one = &cases[i / 2];
        struct tls_peer peer = {.pair = one->pair, .server_name = one->server_name, .maximum = versions[i % 2]};
        struct tls_session session;
        struct error error;
        bool is_good = run_session(context, TLS_SERVER, NULL, &peer, &session, &error);
        if (is_good != one->is_accepted)
            fail_msg("%s, %s: %s", one->server_name, one->pair, is_good ? "accepted" : error.text);
    }
    tls_context_destroy(&context);
}

// Nothing that a client shows instead of a certificate gets it past one that is required.
static void test_no_session_is_resumed(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(versions); i++) {
        struct rig_config config;
        rig_config_init(&config, VERIFY_NONE);
        rig_config_add_pair(&config, "server", NULL);
        struct tls_context *context = rig_context(&config, TLS_SERVER);
        struct tls_peer first = {.maximum = versions[i], .keeps_session = true};
        struct tls_session session;
        struct error error;
        assert_true(run_session(context, TLS_SERVER, NULL, &first, &session, &error));
        assert_false(SSL_SESSION_has_ticket(first.session));
        struct tls_peer second = {.maximum = versions[i], .old_session = first.session};
        assert_true(run_session(context, TLS_SERVER, NULL, &second, &session, &error));
        assert_false(second.is_resumed);
        tls_context_destroy(&context);
    }
}

static void test_a_target_without_a_name_fails_strict_verification(void **state)
{
    (void)state;
    static const char *const hosts[] = {"", NULL};
    struct rig_config config;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "ca.crt", NULL);
    struct tls_context *strict = rig_context(&config, TLS_CLIENT);
    config.config.verify_mode = VERIFY_RELAXED;
    struct tls_context *relaxed = rig_context(&config, TLS_CLIENT);
    for (size_t i = 0; i < ARRAY_LENGTH(hosts); i++) {
        struct tls_peer peer = {.pair = "server"};
        struct tls_session session;
        struct error error;
        assert_false(run_session(strict, TLS_CLIENT, hosts[i], &peer, &session, &error));
        assert_string_equal(error.text, "the target has no name that its certificate could be for");
        struct tls_peer again = {.pair = "server"};
        assert_true(run_session(relaxed, TLS_CLIENT, hosts[i], &again, &session, &error));
        assert_string_equal(again.asked_name, "");
    }
    tls_context_destroy(&strict);
    tls_context_destroy(&relaxed);
}

static void test_a_target_with_an_impossible_name_is_refused(void **state)
{
    (void)state;
    static const char *const hosts[] = {"a b", "\xc3\xa4.example", "."};
    struct rig_config config;
    rig_config_init(&config, VERIFY_NONE);
    struct tls_context *context = rig_context(&config, TLS_CLIENT);
    for (size_t i = 0; i < ARRAY_LENGTH(hosts); i++) {
        struct tls_peer peer = {.pair = "server"};
        struct tls_session session;
        struct error error;
        assert_false(run_session(context, TLS_CLIENT, hosts[i], &peer, &session, &error));
        assert_string_equal(error.text, "the target's name cannot be sent in TLS");
    }
    tls_context_destroy(&context);
}

static int begin(void **state)
{
    (void)state;
    rig_tls_begin();
    other_ca = rig_issue(&(struct rig_request){.subject = "Other CA", .is_ca = true});
    rig_write_pair("other-ca", &other_ca);
    rig_issue_pair("server", &(struct rig_request){.subject = "server", .names = "DNS:s.example", .issuer = &rig_ca});
    return 0;
}

static int end(void **state)
{
    rig_drop(&other_ca);
    return rig_tls_end(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_mode_judges_clients),
        cmocka_unit_test(test_each_mode_judges_targets),
        cmocka_unit_test(test_a_revoked_certificate_is_refused),
        cmocka_unit_test(test_an_expired_ca_is_named),
        cmocka_unit_test(test_a_pinned_target_is_accepted),
        cmocka_unit_test(test_each_entry_has_its_own_authority),
        cmocka_unit_test(test_no_session_is_resumed),
        cmocka_unit_test(test_a_target_without_a_name_fails_strict_verification),
        cmocka_unit_test(test_a_target_with_an_impossible_name_is_refused),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
