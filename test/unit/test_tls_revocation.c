// With a revocation list configured, every issuer below and at the anchor must have a current one: chains of three, in
// both roles, with all that a file of lists can have or lack.

#include "tls_peer.h"

enum { LISTS = 3 };

static struct rig_issued root;
static struct rig_issued middle;
static struct rig_issued namesake; // the middle's name, another key
static struct rig_issued silent;   // a CA that may not sign lists
static struct rig_issued leaf;
static struct rig_issued revoked;
static struct rig_issued under_silent;

#define MIDDLE {.issuer = &middle}
#define ROOT {.issuer = &root}
#define TOLD "it cannot be told whether the certificate is revoked: "
#define TOLD_OF_MIDDLE "it cannot be told whether the CA certificate CN=Middle CA is revoked: "

#define VALUE(bytes) .value = bytes, .length = sizeof bytes - 1

#define OF(bytes) .extension = NID_issuing_distribution_point, VALUE(bytes)
// onlyContainsCACerts, onlyContainsUserCerts, onlyContainsAttributeCerts, indirectCRL
#define OF_CAS OF("\x30\x03\x82\x01\xff")
#define OF_USERS OF("\x30\x03\x81\x01\xff")
#define OF_ATTRIBUTES OF("\x30\x03\x85\x01\xff")
#define OF_OTHERS_TOO OF("\x30\x03\x84\x01\xff")
// onlySomeReasons: the first three, and all others
#define OF_THREE_REASONS OF("\x30\x04\x83\x02\x04\x70")
#define OF_OTHER_REASONS OF("\x30\x05\x83\x03\x07\x0f\x80")
// distributionPoint, fullName, a URI: for certificates that name it, which these do not
#define OF_A_PLACE OF("\x30\x0f\xa0\x0d\xa0\x0b\x86\x09http://a/")

struct lists_case {
    const char *name;
    struct rig_list lists[LISTS];
    const char *words;     // NULL: the chain is good
    const char *pair;      // NULL: "leaf"
    const char *authority; // NULL: "root.crt"
    const char *alert;     // NULL: certificate unknown
};

// With the chain behind it.
static void write_peer(const char *pair, const struct rig_issued *issued, X509 *above)
{
    char file[64];
    rig_write_pair(pair, issued);
    (void)snprintf(file, sizeof file, "%s.crt", pair);
    rig_write_chain(file, issued->certificate, above, NULL);
}

static void write_lists(const char *name, const struct rig_list lists[LISTS])
{
    FILE *file = rig_create(name);
    for (size_t i = 0; i < LISTS; i++)
        if (lists[i].issuer != NULL)
            rig_put_list(file, &lists[i]);
    assert_int_equal(fclose(file), 0);
}

static void check_session(const struct tls_context *context, enum tls_role role, const struct lists_case *one,
                          int version)
{
    struct tls_peer peer = {.pair = one->pair != NULL ? one->pair : "leaf", .minimum = version, .maximum = version};
    struct tls_session session;
    struct error error;
    bool is_good = run_session(context, role, "s.example", &peer, &session, &error);
    if (is_good != (one->words == NULL) || (!is_good && strstr(error.text, one->words) == NULL))
        fail_msg("%s, role %d: %s", one->name, role, is_good ? "accepted" : error.text);
    const char *alert = one->alert != NULL ? one->alert : "certificate unknown";
    if (!is_good && strstr(peer.error, alert) == NULL)
        fail_msg("%s, role %d: the peer heard \"%s\"", one->name, role, peer.error);
}

static void check_case(const struct lists_case *one)
{
    static const enum verify_mode modes[] = {VERIFY_STRICT, VERIFY_RELAXED};
    write_lists("lists.crl", one->lists);
    for (int i = 0; i < 4; i++) {
        bool is_server = i % 2 == 0;
        struct rig_config config;
        rig_config_init(&config, modes[i / 2]);
        rig_config_add(&config, is_server ? "server.key" : NULL, is_server ? "server.crt" : NULL,
                       one->authority != NULL ? one->authority : "root.crt", "lists.crl");
        struct tls_context *context = rig_context(&config, is_server ? TLS_SERVER : TLS_CLIENT);
        check_session(context, is_server ? TLS_SERVER : TLS_CLIENT, one, i % 3 == 0 ? TLS1_2_VERSION : TLS1_3_VERSION);
        tls_context_destroy(&context);
    }
}

static void test_every_issuer_of_a_chain_needs_a_current_list(void **state)
{
    (void)state;
    const struct lists_case cases[] = {
        {"both", {MIDDLE, ROOT}, NULL, NULL, NULL, NULL},
        {"in the other order", {ROOT, MIDDLE}, NULL, NULL, NULL, NULL},
        {"the root's only", {ROOT}, TOLD "there is no revocation list of CN=Middle CA", NULL, NULL, NULL},
        {"the middle's only", {MIDDLE}, TOLD_OF_MIDDLE "there is no revocation list of CN=Root CA", NULL, NULL, NULL},
        {"another's", {{.issuer = &silent}}, TOLD "there is no revocation list of CN=Middle CA", NULL, NULL, NULL},
        {"expired",
         {ROOT, {.issuer = &middle, .until = -RIG_DAY}},
         TOLD "the revocation list of CN=Middle CA expired on ",
         NULL,
         NULL,
         NULL},
        {"the root's expired",
         {MIDDLE, {.issuer = &root, .until = -RIG_DAY}},
         TOLD_OF_MIDDLE "the revocation list of CN=Root CA expired on ",
         NULL,
         NULL,
         NULL},
        {"an old and a new one", {ROOT, {.issuer = &middle, .until = -RIG_DAY}, MIDDLE}, NULL, NULL, NULL, NULL},
        {"a new and an old one", {ROOT, MIDDLE, {.issuer = &middle, .until = -RIG_DAY}}, NULL, NULL, NULL, NULL},
        {"not yet valid",
         {ROOT, {.issuer = &middle, .from = 5L * RIG_DAY, .until = 9L * RIG_DAY}},
         TOLD "the revocation list of CN=Middle CA is not valid before ",
         NULL,
         NULL,
         NULL},
        {"of a namesake",
         {ROOT, {.issuer = &namesake}},
         TOLD "the revocation list of CN=Middle CA is not signed with the authority's key",
         NULL,
         NULL,
         NULL},
        {"of a namesake, and the right one", {ROOT, {.issuer = &namesake}, MIDDLE}, NULL, NULL, NULL, NULL},
        {"a namesake's revokes nothing",
         {ROOT, MIDDLE, {.issuer = &namesake, .revoked = revoked.certificate}},
         NULL,
         "revoked",
         NULL,
         NULL},
        {"SHA-1",
         {ROOT, {.issuer = &middle, .digest = "SHA1"}},
         TOLD "the revocation list of CN=Middle CA is signed with too weak a hash",
         NULL,
         NULL,
         NULL},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        check_case(&cases[i]);
}

static void test_a_revoked_certificate_is_refused_wherever_it_is(void **state)
{
    (void)state;
    const struct lists_case cases[] = {
        {"the leaf is revoked",
         {ROOT, {.issuer = &middle, .revoked = revoked.certificate}},
         "the certificate is revoked",
         "revoked",
         NULL,
         "certificate revoked"},
        {"another leaf is", {ROOT, {.issuer = &middle, .revoked = revoked.certificate}}, NULL, NULL, NULL, NULL},
        // As with a certificate that was only on hold: the current list counts.
        {"the old list has it",
         {ROOT, MIDDLE, {.issuer = &middle, .revoked = revoked.certificate, .until = -RIG_DAY}},
         NULL,
         "revoked",
         NULL,
         NULL},
        {"the only list is old, and has it",
         {ROOT, {.issuer = &middle, .revoked = revoked.certificate, .until = -RIG_DAY}},
         "the certificate is revoked",
         "revoked",
         NULL,
         "certificate revoked"},
        {"the newer of two current lists has it",
         {{.issuer = &middle, .from = -5L * RIG_DAY},
          {.issuer = &middle, .revoked = revoked.certificate, .from = -RIG_DAY},
          ROOT},
         "the certificate is revoked",
         "revoked",
         NULL,
         "certificate revoked"},
        {"the middle is revoked",
         {MIDDLE, {.issuer = &root, .revoked = middle.certificate}},
         "the CA certificate CN=Middle CA is revoked",
         NULL,
         NULL,
         "certificate revoked"},
        {"no key for lists",
         {ROOT, {.issuer = &silent}},
         TOLD "CN=Silent CA may not sign revocation lists (key usage)",
         "under-silent",
         NULL,
         NULL},
        {"the middle is the anchor", {MIDDLE}, NULL, NULL, "middle.crt", NULL},
        {"the middle is the anchor, without",
         {ROOT},
         TOLD "there is no revocation list of CN=Middle CA",
         NULL,
         "middle.crt",
         NULL},
        {"the leaf is the anchor", {ROOT}, NULL, "pinned", "pinned.crt", NULL},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        check_case(&cases[i]);
}

// Every kind of signature that a list can have, and an issuer's name that differs as names may.
static void test_every_kind_of_list_signature_is_verified(void **state)
{
    (void)state;
    struct rig_issued rsa = rig_issue(&(struct rig_request){.subject = "RSA CA", .is_ca = true, .kind = "rsa"});
    struct rig_issued under =
        rig_issue(&(struct rig_request){.subject = "p", .names = "DNS:s.example", .issuer = &rsa});
    EVP_PKEY *another_rsa = rig_key("rsa");
    rig_write_chain("rsa.crt", rsa.certificate, NULL, NULL);
    write_peer("under-rsa", &under, NULL);
    static const char none[] = TOLD "there is no revocation list of CN=RSA CA";
    static const char wrong[] = TOLD "the revocation list of CN=RSA CA is not signed with the authority's key";
    static const char weak[] = TOLD "the revocation list of CN=RSA CA is signed with too weak a hash";
    const struct {
        const char *name;
        struct rig_list list;
        const char *words; // NULL: the chain is good
    } cases[] = {
        {"PKCS #1 v1.5", {.signs_with_pss = false}, NULL},
        {"PSS, SHA-256", {.signs_with_pss = true}, NULL},
        {"PSS, SHA-384", {.signs_with_pss = true, .digest = "SHA384"}, NULL},
        {"PSS, SHA-512", {.signs_with_pss = true, .digest = "SHA512"}, NULL},
        {"PSS, SHA-1", {.signs_with_pss = true, .digest = "SHA1"}, weak},
        {"PSS, another key", {.signs_with_pss = true, .key = another_rsa}, wrong},
        {"another case", {.name = "rsa cA", .name_type = V_ASN1_UTF8STRING}, NULL},
        {"printable", {.name = "RSA CA", .name_type = V_ASN1_PRINTABLESTRING}, NULL},
        {"teletex", {.name = "RSA CA", .name_type = V_ASN1_T61STRING}, NULL},
        {"white space", {.name = " RSA  CA ", .name_type = V_ASN1_UTF8STRING}, NULL},
        {"another text", {.name = "RSA CB", .name_type = V_ASN1_UTF8STRING}, none},
        {"more text", {.name = "RSA CA.", .name_type = V_ASN1_UTF8STRING}, none},
        {"less text", {.name = "RSA C", .name_type = V_ASN1_UTF8STRING}, none},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct lists_case one = {.name = cases[i].name,
                                 .lists = {cases[i].list},
                                 .words = cases[i].words,
                                 .pair = "under-rsa",
                                 .authority = "rsa.crt"};
        one.lists[0].issuer = &rsa;
        check_case(&one);
    }
    rig_drop(&rsa);
    rig_drop(&under);
    EVP_PKEY_free(another_rsa);
}

// Where the authorities of several entries judge together, each has its own lists, or none.
static void test_lists_are_of_their_entry(void **state)
{
    (void)state;
    const struct rig_list lists[LISTS] = {ROOT};
    write_lists("lists.crl", lists);
    const struct lists_case without = {.name = "no list is configured", .pair = "under-silent"};
    const struct lists_case with = {
        .name = "a list is", .words = TOLD "there is no revocation list of CN=Silent CA", .pair = "under-silent"};
    for (int has_list = 0; has_list < 2; has_list++) {
        struct rig_config config;
        rig_config_init(&config, VERIFY_STRICT);
        rig_config_add_pair(&config, "server", NULL);
        rig_config_add(&config, NULL, NULL, "other.crt", "lists.crl");
        rig_config_add(&config, NULL, NULL, "root.crt", has_list ? "lists.crl" : NULL);
        struct tls_context *context = rig_context(&config, TLS_SERVER);
        check_session(context, TLS_SERVER, has_list ? &with : &without, TLS1_3_VERSION);
        tls_context_destroy(&context);
    }
}

static void test_authorities_without_lists_are_told_of(void **state)
{
    (void)state;
    const struct {
        struct rig_list lists[LISTS];
        size_t count;
        const char *text;
    } cases[] = {
        {{MIDDLE, ROOT}, 0, ""},
        {{ROOT}, 1, "there is no revocation list of CN=Middle CA: no certificate that it issued verifies"},
        {{ROOT, {.issuer = &namesake}},
         1,
         "the revocation list of CN=Middle CA is not signed with the authority's key"},
        {{ROOT, {.issuer = &middle, .until = -RIG_DAY}}, 1, "the revocation list of CN=Middle CA expired on "},
        {{ROOT, {.issuer = &middle, .until = -RIG_DAY}, MIDDLE}, 0, ""},
        // Lists about a part of the certificates: which these are, only peers can show.
        {{ROOT, {.issuer = &middle, OF_USERS}}, 0, ""},
        {{ROOT, {.issuer = &middle, OF_CAS}}, 0, ""},
        {{ROOT, {.issuer = &middle, OF_A_PLACE}}, 0, ""},
        {{ROOT, {.issuer = &middle, OF_OTHERS_TOO}}, 0, ""},
        {{ROOT, {.issuer = &middle, OF_ATTRIBUTES}},
         1,
         "the revocation list of CN=Middle CA is about others (issuingDistributionPoint): no certificate that it "
         "issued "},
        {{ROOT, {.issuer = &middle, OF_THREE_REASONS}}, 1, "the revocation list of CN=Middle CA is about others"},
        {{ROOT, {.issuer = &middle, OF_THREE_REASONS}, {.issuer = &middle, OF_OTHER_REASONS}}, 0, ""},
        {{ROOT, {.issuer = &middle, OF_A_PLACE, .until = -RIG_DAY}, {.issuer = &middle, OF_USERS}},
         1,
         ": no certificate that it is about verifies"},
        {{ROOT, {.issuer = &middle, OF_A_PLACE, .until = -RIG_DAY}, {.issuer = &middle, OF_A_PLACE}}, 0, ""},
        {{ROOT, {.issuer = &silent, OF_OTHERS_TOO}},
         1,
         "there is no revocation list of CN=Middle CA: of what it issued, only certificates that name the indirect "
         "list "
         "of CN=Silent CA (cRLIssuer) verify"},
        // The intermediate is itself a certificate of the root's.
        {{{.issuer = &root, OF_CAS}, MIDDLE}, 0, ""},
        {{{.issuer = &root, OF_USERS}, MIDDLE},
         1,
         "nothing that the authority CN=Middle CA issued verifies: " TOLD
         "the revocation list of CN=Root CA is about others (issuingDistributionPoint)"},
        {{{.issuer = &root, OF_A_PLACE}, MIDDLE}, 1, "nothing that the authority CN=Middle CA issued verifies: " TOLD},
        {{{.issuer = &root, .revoked = middle.certificate}, MIDDLE},
         1,
         "nothing that the authority CN=Middle CA issued verifies: the certificate is revoked"},
        {{MIDDLE}, 1, "there is no revocation list of CN=Root CA: no certificate that it issued verifies"},
    };
    rig_write_chain("both.crt", middle.certificate, root.certificate, NULL);
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        write_lists("lists.crl", cases[i].lists);
        struct rig_config config;
        rig_config_init(&config, VERIFY_STRICT);
        rig_config_add(&config, NULL, NULL, "both.crt", "lists.crl");
        struct tls_context *context = rig_context(&config, TLS_CLIENT);
        struct diagnostics diagnostics;
        diagnostics_init(&diagnostics, "f");
        tls_context_check(context, &config.config, 30, "web", &diagnostics);
        const char *last = diagnostics.kept > 0 ? diagnostics.list[diagnostics.kept - 1].text : "";
        if (diagnostics.warnings != cases[i].count || strstr(last, cases[i].text) == NULL)
            fail_msg("%zu: %zu warnings, the last: %s", i, diagnostics.warnings, last);
        diagnostics_release(&diagnostics);
        tls_context_destroy(&context);
    }
}

// Such a list says nothing of what it is not about. It has to be marked as critical, but may not be.
static void test_partial_lists_count_for_what_they_are_about(void **state)
{
    (void)state;
    static const char others[] = TOLD "the revocation list of CN=Middle CA is about others";
    const struct lists_case cases[] = {
        {"a number",
         {MIDDLE, {.issuer = &root, .extension = NID_crl_number, VALUE("\x02\x01\x07")}},
         NULL,
         NULL,
         NULL,
         NULL},
        {"of CAs, of users", {{.issuer = &root, OF_CAS}, {.issuer = &middle, OF_USERS}}, NULL, NULL, NULL, NULL},
        {"marked as critical",
         {{.issuer = &root, OF_CAS, .is_critical = true}, {.issuer = &middle, OF_USERS, .is_critical = true}},
         NULL,
         NULL,
         NULL,
         NULL},
        {"of CAs only", {ROOT, {.issuer = &middle, OF_CAS}}, others, NULL, NULL, NULL},
        {"of CAs only, and complete", {ROOT, {.issuer = &middle, OF_CAS}, MIDDLE}, NULL, NULL, NULL, NULL},
        {"of another place", {ROOT, {.issuer = &middle, OF_A_PLACE, .is_critical = true}}, others, NULL, NULL, NULL},
        {"unknown and critical",
         {ROOT, {.issuer = &middle, .extension = NID_netscape_comment, VALUE("\x16\x01x"), .is_critical = true}},
         TOLD "the revocation list of CN=Middle CA has a critical extension that is not supported",
         NULL,
         NULL,
         NULL},
        {"revoked by one of users",
         {ROOT, {.issuer = &middle, .revoked = revoked.certificate, OF_USERS, .is_critical = true}},
         "the certificate is revoked",
         "revoked",
         NULL,
         "certificate revoked"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        check_case(&cases[i]);
}

static int begin(void **state)
{
    (void)state;
    rig_tls_begin();
    root = rig_issue(&(struct rig_request){.subject = "Root CA", .is_ca = true});
    middle = rig_issue(&(struct rig_request){.subject = "Middle CA", .is_ca = true, .issuer = &root});
    namesake = rig_issue(&(struct rig_request){.subject = "Middle CA", .is_ca = true, .issuer = &root});
    silent = rig_issue(
        &(struct rig_request){.subject = "Silent CA", .is_ca = true, .key_usage = "keyCertSign", .issuer = &root});
    const struct rig_request request = {.subject = "peer", .names = "DNS:s.example", .issuer = &middle};
    leaf = rig_issue(&request);
    revoked = rig_issue(&request);
    under_silent = rig_issue(&(struct rig_request){.subject = "peer", .names = "DNS:s.example", .issuer = &silent});
    struct rig_issued pinned = rig_issue(&(struct rig_request){.subject = "pinned", .names = "DNS:s.example"});
    struct rig_issued server = rig_issue(&(struct rig_request){.subject = "server", .names = "DNS:s.example"});
    struct rig_issued other = rig_issue(&(struct rig_request){.subject = "Other CA", .is_ca = true});
    rig_write_chain("root.crt", root.certificate, NULL, NULL);
    rig_write_chain("middle.crt", middle.certificate, NULL, NULL);
    rig_write_chain("other.crt", other.certificate, NULL, NULL);
    write_peer("leaf", &leaf, middle.certificate);
    write_peer("revoked", &revoked, middle.certificate);
    write_peer("under-silent", &under_silent, silent.certificate);
    write_peer("pinned", &pinned, NULL);
    write_peer("server", &server, NULL);
    rig_drop(&pinned);
    rig_drop(&server);
    rig_drop(&other);
    return 0;
}

static int end(void **state)
{
    struct rig_issued *const all[] = {&root, &middle, &namesake, &silent, &leaf, &revoked, &under_silent};
    for (size_t i = 0; i < ARRAY_LENGTH(all); i++)
        rig_drop(all[i]);
    return rig_tls_end(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_issuer_of_a_chain_needs_a_current_list),
        cmocka_unit_test(test_a_revoked_certificate_is_refused_wherever_it_is),
        cmocka_unit_test(test_every_kind_of_list_signature_is_verified),
        cmocka_unit_test(test_lists_are_of_their_entry),
        cmocka_unit_test(test_authorities_without_lists_are_told_of),
        cmocka_unit_test(test_partial_lists_count_for_what_they_are_about),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
