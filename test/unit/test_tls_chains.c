// Chains as peers send them: in any order, with what is not needed, of CAs of every kind; and what contexts share of
// their authorities.

#include "tls_peer.h"

#include "tls/engine/context_internal.h"

static struct rig_issued root;
static struct rig_issued upper;
static struct rig_issued lower;
static struct rig_issued leaf;
static struct rig_issued stranger;
static struct rig_issued strangers; // leaf

struct chain_case {
    const char *name;
    X509 *chain[6];
    const char *words; // NULL: it is accepted
};

static void write_chain(const struct chain_case *one)
{
    FILE *file = rig_create("peer.crt");
    for (size_t i = 0; i < ARRAY_LENGTH(one->chain) && one->chain[i] != NULL; i++)
        assert_int_equal(PEM_write_X509(file, one->chain[i]), 1);
    assert_int_equal(fclose(file), 0);
}

static void check_case(const struct chain_case *one, const struct tls_context *context, enum tls_role role, int version)
{
    // Whose certificates libssl does not put in order: it sends the file as it is.
    struct tls_peer peer = {.pair = "peer", .minimum = version, .maximum = version};
    struct tls_session session;
    struct error error;
    bool is_good = run_session(context, role, "s.example", &peer, &session, &error);
    if (is_good != (one->words == NULL) || (!is_good && strstr(error.text, one->words) == NULL))
        fail_msg("%s, role %d, version %x: %s", one->name, role, (unsigned)version, is_good ? "accepted" : error.text);
    if (is_good)
        assert_string_equal(session.info.peer_subject, "CN=leaf");
}

static void check_cases(const struct chain_case *cases, size_t count, const char *authority)
{
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (size_t i = 0; i < count; i++) {
        write_chain(&cases[i]);
        for (int j = 0; j < 4; j++) {
            bool is_server = j / 2 == 0;
            struct rig_config config;
            rig_config_init(&config, VERIFY_STRICT);
            rig_config_add(&config, is_server ? "server.key" : NULL, is_server ? "server.crt" : NULL, authority, NULL);
            enum tls_role role = is_server ? TLS_SERVER : TLS_CLIENT;
            struct tls_context *context = rig_context(&config, role);
            check_case(&cases[i], context, role, versions[j % 2]);
            tls_context_destroy(&context);
        }
    }
}

static void test_a_chain_comes_in_any_order(void **state)
{
    (void)state;
    X509 *const l = leaf.certificate;
    X509 *const u = upper.certificate;
    X509 *const w = lower.certificate;
    X509 *const r = root.certificate;
    const struct chain_case cases[] = {
        {"in order", {l, w, u}, NULL},
        {"swapped", {l, u, w}, NULL},
        {"with the root", {l, w, u, r}, NULL},
        {"the root first", {l, r, u, w}, NULL},
        {"the leaf again", {l, w, l, u}, NULL},
        {"a stranger between", {l, stranger.certificate, w, strangers.certificate, u}, NULL},
        {"one is missing", {l, w}, "the certificate of CN=Lower CA was issued by CN=Upper CA"},
        {"a stranger in its place", {l, w, stranger.certificate}, "was issued by CN=Upper CA"},
    };
    rig_write_key("peer.key", leaf.key);
    check_cases(cases, ARRAY_LENGTH(cases), "root.crt");
    // Any certificate of the file is an authority.
    const struct chain_case short_ones[] = {{"up to an anchor in between", {l, w}, NULL}};
    check_cases(short_ones, ARRAY_LENGTH(short_ones), "upper.crt");
}

// A CA that was renewed, and one that two others vouch for.
static void test_a_chain_takes_the_path_that_leads_to_an_authority(void **state)
{
    (void)state;
    struct rig_issued crossed =
        rig_issue(&(struct rig_request){.subject = "Upper CA", .key = upper.key, .is_ca = true, .issuer = &stranger});
    struct rig_issued old = rig_issue(&(struct rig_request){
        .subject = "Upper CA", .key = upper.key, .is_ca = true, .until = -RIG_DAY / 2, .issuer = &root});
    X509 *const l = leaf.certificate;
    X509 *const w = lower.certificate;
    const struct chain_case cases[] = {
        {"crossed after the right one", {l, w, upper.certificate, crossed.certificate}, NULL},
        {"an old one first", {l, w, old.certificate, upper.certificate}, NULL},
        {"only the old one", {l, w, old.certificate}, "the CA certificate CN=Upper CA expired on "},
    };
    rig_write_key("peer.key", leaf.key);
    check_cases(cases, ARRAY_LENGTH(cases), "root.crt");
    const struct chain_case both[] = {{"crossed, to the stranger", {l, w, crossed.certificate}, NULL}};
    check_cases(both, ARRAY_LENGTH(both), "stranger.crt");
    rig_drop(&crossed);
    rig_drop(&old);
}

static void test_a_ca_may_have_a_key_that_mbedtls_does_not_know(void **state)
{
    (void)state;
    static const char *const kinds[] = {"ed25519", "P-521", "rsa-pss"};
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
        struct rig_issued ca = rig_issue(&(struct rig_request){.subject = "Odd CA", .kind = kinds[i], .is_ca = true});
        struct rig_issued below = rig_issue(
            &(struct rig_request){.subject = "leaf", .names = "DNS:s.example", .key = leaf.key, .issuer = &ca});
        rig_write_chain("odd.crt", ca.certificate, NULL, NULL);
        rig_write_key("peer.key", leaf.key);
        const struct chain_case trusted[] = {{kinds[i], {below.certificate}, NULL}};
        check_cases(trusted, ARRAY_LENGTH(trusted), "odd.crt");
        const struct chain_case unknown[] = {{kinds[i],
                                              {below.certificate, ca.certificate},
                                              "unknown CA: the self-signed certificate of CN=Odd CA is not"}};
        check_cases(unknown, ARRAY_LENGTH(unknown), "root.crt");
        rig_drop(&ca);
        rig_drop(&below);
    }
}

static void test_name_constraints_are_obeyed(void **state)
{
    (void)state;
    static const char *const constraints[] = {"permitted;DNS:s.example", "critical,permitted;DNS:s.example",
                                              "permitted;DNS:t.example", "critical,excluded;DNS:s.example"};
    for (size_t i = 0; i < ARRAY_LENGTH(constraints); i++) {
        struct rig_issued ca = rig_issue(&(struct rig_request){
            .subject = "Constrained CA", .is_ca = true, .constraints = constraints[i], .issuer = &root});
        struct rig_issued below = rig_issue(
            &(struct rig_request){.subject = "leaf", .names = "DNS:s.example", .key = leaf.key, .issuer = &ca});
        const struct chain_case one = {
            constraints[i],
            {below.certificate, ca.certificate},
            i < 2
                ? NULL
                : "the certificate is for DNS:s.example, for which CN=Constrained CA may not issue (name constraints)"};
        check_cases(&one, 1, "root.crt");
        rig_drop(&ca);
        rig_drop(&below);
    }
}

static void test_contexts_with_the_same_files_share_their_authorities(void **state)
{
    (void)state;
    rig_write_chain("copy.crt", root.certificate, NULL, NULL);
    rig_write_crl("root.crl", &root, NULL, RIG_DAY);
    size_t before = trust_count();
    struct tls_context *contexts[4];
    for (size_t i = 0; i < ARRAY_LENGTH(contexts); i++) {
        struct rig_config config;
        rig_config_init(&config, VERIFY_STRICT);
        rig_config_add(&config, NULL, NULL, i == 1 ? "copy.crt" : "root.crt", i == 2 ? "root.crl" : NULL);
        contexts[i] = rig_context(&config, TLS_CLIENT);
    }
    assert_int_equal(trust_count(), before + 2); // with the list, and without it
    assert_ptr_equal(contexts[0]->trust, contexts[1]->trust);
    assert_ptr_equal(contexts[0]->trust, contexts[3]->trust);
    assert_ptr_not_equal(contexts[0]->trust, contexts[2]->trust);
    for (size_t i = 0; i < ARRAY_LENGTH(contexts); i++)
        tls_context_destroy(&contexts[i]);
    assert_int_equal(trust_count(), before);
}

static int begin(void **state)
{
    (void)state;
    rig_tls_begin();
    root = rig_issue(&(struct rig_request){.subject = "Root CA", .is_ca = true});
    upper = rig_issue(&(struct rig_request){.subject = "Upper CA", .is_ca = true, .issuer = &root});
    lower = rig_issue(&(struct rig_request){.subject = "Lower CA", .is_ca = true, .issuer = &upper});
    leaf = rig_issue(&(struct rig_request){.subject = "leaf", .names = "DNS:s.example", .issuer = &lower});
    stranger = rig_issue(&(struct rig_request){.subject = "Stranger CA", .is_ca = true});
    strangers = rig_issue(&(struct rig_request){.subject = "leaf", .names = "DNS:s.example", .issuer = &stranger});
    rig_write_chain("root.crt", root.certificate, NULL, NULL);
    rig_write_chain("upper.crt", upper.certificate, NULL, NULL);
    rig_write_chain("stranger.crt", stranger.certificate, NULL, NULL);
    rig_issue_pair("server", &(struct rig_request){.subject = "server", .names = "DNS:s.example"});
    return 0;
}

static int end(void **state)
{
    struct rig_issued *const all[] = {&root, &upper, &lower, &leaf, &stranger, &strangers};
    for (size_t i = 0; i < ARRAY_LENGTH(all); i++)
        rig_drop(all[i]);
    return rig_tls_end(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_chain_comes_in_any_order),
        cmocka_unit_test(test_a_chain_takes_the_path_that_leads_to_an_authority),
        cmocka_unit_test(test_a_ca_may_have_a_key_that_mbedtls_does_not_know),
        cmocka_unit_test(test_name_constraints_are_obeyed),
        cmocka_unit_test(test_contexts_with_the_same_files_share_their_authorities),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
