// What a TLS context loads, and what it says of files that are not what they should be.

#include "row.h"
#include "tls_rig.h"

static struct rig_issued server;

static void assert_refused(const struct rig_config *config, enum tls_role role, const char *words)
{
    struct error error = ERROR_INIT;
    struct tls_context *context = tls_context_create(&config->config, role, &error);
    if (context != NULL)
        fail_msg("loaded, but should have said: %s", words);
    if (strstr(error.text, words) == NULL)
        fail_msg("said \"%s\" in place of \"%s\"", error.text, words);
    assert_true(error.code == ERROR_INVALID || error.code == ERROR_SYSTEM);
}

// A listener with this key and certificate; the error names `file`, too.
static void assert_bad_pair(const char *key, const char *certificate, const char *file, const char *words)
{
    struct rig_config config;
    rig_config_init(&config, VERIFY_NONE);
    rig_config_add(&config, key, certificate, NULL, NULL);
    assert_refused(&config, TLS_SERVER, words);
    assert_refused(&config, TLS_SERVER, file);
}

static void load_and_drop(const struct rig_config *config, enum tls_role role)
{
    struct tls_context *context = rig_context(config, role);
    tls_context_destroy(&context);
    assert_null(context);
    tls_context_destroy(&context);
}

static void test_every_kind_of_key_loads(void **state)
{
    (void)state;
    static const char *const kinds[] = {"rsa", "P-256", "P-384", "P-521"};
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
        struct rig_issued issued =
            rig_issue(&(struct rig_request){.subject = "s", .kind = kinds[i], .names = "DNS:s", .issuer = &rig_ca});
        rig_write_pair("kind", &issued);
        struct rig_config config;
        rig_config_init(&config, VERIFY_NONE);
        rig_config_add_pair(&config, "kind", NULL);
        load_and_drop(&config, TLS_SERVER);
        load_and_drop(&config, TLS_CLIENT);
        // The forms with a label of their own.
        rig_write_traditional_key("kind.key", issued.key, NULL);
        load_and_drop(&config, TLS_SERVER);
        rig_drop(&issued);
    }
}

static void test_a_pair_may_share_a_file(void **state)
{
    (void)state;
    char text[16384];
    size_t length = rig_read_file("server.crt", text, sizeof text);
    length += rig_read_file("server.key", text + length, sizeof text - length);
    rig_write_file("both.pem", text, length);
    struct rig_config config;
    rig_config_init(&config, VERIFY_NONE);
    rig_config_add(&config, "both.pem", "both.pem", NULL, NULL);
    load_and_drop(&config, TLS_SERVER);
}

static void test_a_file_that_is_something_else_is_named(void **state)
{
    (void)state;
    static const unsigned char der[] = {0x30, 0x82, 0x01, 0x00, 0x00};
    static const char zeros[] = "-----BEGIN CERTIFICATE-----\0AAAA\n-----END CERTIFICATE-----\n";
    rig_write_file("empty", "", 0);
    rig_write_file("text", "hello\n", 6);
    rig_write_file("der", der, sizeof der);
    rig_write_file("zeros", zeros, sizeof zeros - 1);
    static const struct {
        const char *name;
        const char *key;
        const char *certificate;
        const char *file; // that is at fault
        const char *words;
    } rows[] = {
        {"a certificate that is missing, named", "server.key", "missing", "missing", "cannot read "},
        {"a certificate that is missing", "server.key", "missing", "missing", "No such file or directory"},
        {"a key that is missing", "missing", "server.crt", "missing", "No such file or directory"},
        {"a directory", "server.key", ".", "/.", "is a directory"},
        {"an empty certificate", "server.key", "empty", "empty", "is empty"},
        {"an empty key", "empty", "server.crt", "empty", "is empty"},
        {"a certificate that is text", "server.key", "text", "text", "is not a PEM file"},
        {"a key that is text", "text", "server.crt", "text", "is not a PEM file"},
        {"a certificate in DER", "server.key", "der", "der", "is DER; it must be PEM"},
        {"a key in DER", "der", "server.crt", "der", "is DER; it must be PEM"},
        {"zero bytes", "server.key", "zeros", "zeros", "it has zero bytes in it"},
        {"a key as the certificate", "server.key", "server.key", "server.key",
         "holds a PRIVATE KEY, not a CERTIFICATE"},
        {"a certificate as the key", "server.crt", "server.crt", "server.crt",
         "holds a CERTIFICATE, not a PRIVATE KEY"},
    };
    FOR_EACH_ROW(row, rows)
    {
        assert_bad_pair(row->key, row->certificate, row->file, row->words);
    }
}

static void test_damaged_files_are_told_as_such(void **state)
{
    (void)state;
    char text[16384];
    size_t length = rig_read_file("server.crt", text, sizeof text);
    rig_write_file("cut.crt", text, length / 2);
    assert_bad_pair("server.key", "cut.crt", "cut.crt", "is cut short");
    // A whole one, and a second that is cut: not taken for a chain of one.
    memcpy(text + length, text, length / 2);
    rig_write_file("cut2.crt", text, length + length / 2);
    assert_bad_pair("server.key", "cut2.crt", "cut2.crt", "is cut short");
    memcpy(text + length, text, length);
    memset(text + length + 60, '?', 8);
    rig_write_file("bad2.crt", text, 2 * length);
    assert_bad_pair("server.key", "bad2.crt", "bad2.crt", "certificate 2 cannot be read (its base64 is damaged)");
    length = rig_read_file("server.crt", text, sizeof text);
    memset(text + 40, 'A', 24);
    rig_write_file("bad.crt", text, length);
    assert_bad_pair("server.key", "bad.crt", "bad.crt", "certificate 1 cannot be read (");
    length = rig_read_file("server.key", text, sizeof text);
    rig_write_file("cut.key", text, length / 2);
    assert_bad_pair("cut.key", "server.crt", "cut.key", "is cut short");
    memset(text + 40, '?', 8);
    rig_write_file("bad.key", text, length);
    assert_bad_pair("bad.key", "server.crt", "bad.key", "the key cannot be read (its base64 is damaged)");
}

static void write_encrypted(const char *name)
{
    FILE *file = rig_create(name);
    char password[] = "secret";
    assert_int_equal(PEM_write_PKCS8PrivateKey(file, server.key, EVP_aes_128_cbc(), password, 6, NULL, NULL), 1);
    assert_int_equal(fclose(file), 0);
}

static void test_a_key_that_cannot_be_used_is_refused(void **state)
{
    (void)state;
    write_encrypted("encrypted.key");
    assert_bad_pair("encrypted.key", "server.crt", "encrypted.key", "holds an encrypted key");
    rig_write_traditional_key("encrypted.key", server.key, "secret");
    assert_bad_pair("encrypted.key", "server.crt", "encrypted.key", "holds an encrypted key");

    static const struct {
        const char *kind;
        const char *words;
    } kinds[] = {
        {"ed25519", "the key uses Ed25519, which is not supported"},
        {"rsa-pss", "the key uses RSASSA-PSS in place of plain RSA, which is not supported"},
        {"rsa-1024", "the key is too short: RSA with 1024 bits"},
        {"secp256k1", "keys of the kind secp256k1 are not supported; RSA, P-256, P-384 and P-521 are"},
        {"P-224", "keys of the kind secp224r1 are not supported; RSA, P-256, P-384 and P-521 are"},
        {"x25519", "keys of the kind x25519 are not supported; RSA, P-256, P-384 and P-521 are"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
        EVP_PKEY *key = rig_key(kinds[i].kind);
        rig_write_key("odd.key", key);
        EVP_PKEY_free(key);
        assert_bad_pair("odd.key", "server.crt", "odd.key", kinds[i].words);
    }
    rig_issue_pair("ed", &(struct rig_request){.subject = "s", .kind = "ed25519"});
    assert_bad_pair("ed.key", "ed.crt", "ed.crt", "certificate 1 uses Ed25519, which is not supported");
}

static void test_a_key_of_another_certificate_is_refused(void **state)
{
    (void)state;
    EVP_PKEY *other = rig_key("P-256");
    EVP_PKEY *rsa = rig_key("rsa");
    rig_write_key("other.key", other);
    rig_write_key("rsa.key", rsa);
    EVP_PKEY_free(other);
    EVP_PKEY_free(rsa);
    assert_bad_pair("other.key", "server.crt", "server.crt", "the key does not belong to the certificate");
    assert_bad_pair("other.key", "server.crt", "other.key", "the key does not belong to the certificate");
    assert_bad_pair("rsa.key", "server.crt", "rsa.key", "the key does not belong to the certificate");
    rig_write_chain("reversed.crt", rig_ca.certificate, server.certificate, NULL);
    assert_bad_pair("server.key", "reversed.crt", "reversed.crt",
                    "the key's certificate must be the first, not number 2, of");
}

static void test_a_certificate_that_is_not_for_servers_is_refused(void **state)
{
    (void)state;
    rig_issue_pair("usage", &(struct rig_request){.subject = "c", .usage = "clientAuth", .issuer = &rig_ca});
    assert_bad_pair("usage.key", "usage.crt", "usage.crt", "not for servers (extended key usage)");
    struct rig_config config;
    rig_config_init(&config, VERIFY_NONE);
    rig_config_add_pair(&config, "usage", NULL);
    load_and_drop(&config, TLS_CLIENT);
    rig_issue_pair("usage", &(struct rig_request){.subject = "c", .key_usage = "keyEncipherment", .issuer = &rig_ca});
    assert_bad_pair("usage.key", "usage.crt", "usage.crt", "not for signatures (key usage)");
}

// "bad.crt" is no certificate, "mixed.crt" begins with that.
static void write_mixed_authorities(void)
{
    char bad[8192];
    char good[8192];
    size_t length = rig_read_file("ca.crt", good, sizeof good);
    memcpy(bad, good, length);
    memset(bad + 40, 'A', 24);
    rig_write_file("bad.crt", bad, length);
    FILE *file = rig_create("mixed.crt");
    assert_int_equal(fwrite(bad, 1, length, file), length);
    assert_int_equal(fwrite(good, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static void test_a_verifying_context_needs_an_authority(void **state)
{
    (void)state;
    struct rig_config config;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add_pair(&config, "server", NULL);
    assert_refused(&config, TLS_SERVER, "verify_mode strict needs an authority");
    config.config.verify_mode = VERIFY_RELAXED;
    assert_refused(&config, TLS_SERVER, "verify_mode relaxed needs an authority");
    rig_config_add(&config, NULL, NULL, "ca.crt", NULL);
    load_and_drop(&config, TLS_SERVER);
    rig_config_add(&config, NULL, NULL, "server.key", NULL);
    assert_refused(&config, TLS_SERVER, "server.key holds a PRIVATE KEY, not a CERTIFICATE");
    rig_config_init(&config, VERIFY_NONE);
    rig_config_add(&config, NULL, NULL, "ca.crt", NULL);
    assert_refused(&config, TLS_SERVER, "needs a certificate and its key");

    // What cannot be used among the CAs is left out, if there is another.
    write_mixed_authorities();
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "mixed.crt", NULL);
    load_and_drop(&config, TLS_CLIENT);
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "bad.crt", NULL);
    assert_refused(&config, TLS_CLIENT, "bad.crt: certificate 1 cannot be read (");

    // libcrypto can use what mbedTLS cannot.
    rig_issue_pair("ed", &(struct rig_request){.subject = "s", .kind = "ed25519", .is_ca = true});
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "ed.crt", NULL);
    load_and_drop(&config, TLS_CLIENT);
}

static void test_a_damaged_revocation_list_is_refused(void **state)
{
    (void)state;
    struct rig_config config;
    rig_write_crl("ca.crl", &rig_ca, server.certificate, RIG_DAY);
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "ca.crt", "ca.crl");
    load_and_drop(&config, TLS_CLIENT);
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "ca.crt", "ca.crt");
    assert_refused(&config, TLS_CLIENT, "ca.crt holds a CERTIFICATE, not a X509 CRL");
    char text[8192];
    size_t length = rig_read_file("ca.crl", text, sizeof text);
    rig_write_file("cut.crl", text, length / 2);
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "ca.crt", "cut.crl");
    assert_refused(&config, TLS_CLIENT, "cut.crl is cut short");
    memset(text + 40, 'A', 24);
    rig_write_file("bad.crl", text, length);
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, NULL, NULL, "ca.crt", "bad.crl");
    assert_refused(&config, TLS_CLIENT, "bad.crl: revocation list 1 cannot be read (");
}

static void test_the_systems_authorities_are_used_where_none_is_configured(void **state)
{
    (void)state;
    char path[RIG_PATH_SIZE];
    struct rig_config config;
    rig_config_init(&config, VERIFY_STRICT);
    assert_int_equal(setenv("SSL_CERT_FILE", rig_path("ca.crt", path), 1), 0);
    load_and_drop(&config, TLS_CLIENT);
    assert_int_equal(setenv("SSL_CERT_FILE", rig_path("missing", path), 1), 0);
    assert_refused(&config, TLS_CLIENT, "no authority is configured, and the system's do not load: cannot read ");
    config.config.verify_mode = VERIFY_NONE; // needs none
    load_and_drop(&config, TLS_CLIENT);
    assert_int_equal(unsetenv("SSL_CERT_FILE"), 0);
    config.config.verify_mode = VERIFY_STRICT;
    if (access("/etc/ssl/certs/ca-certificates.crt", R_OK) == 0)
        load_and_drop(&config, TLS_CLIENT);
}

static void test_a_long_path_loses_its_beginning(void **state)
{
    (void)state;
    char path[2048];
    memset(path, 'x', sizeof path);
    (void)snprintf(path + sizeof path - 16, 16, "/the-end.key");
    path[0] = '/';
    const struct certificate_config pair = {.key.path = path, .certificate.path = path};
    const struct tls_config config = {.certificates = &pair, .certificate_count = 1};
    struct error error = ERROR_INIT;
    assert_null(tls_context_create(&config, TLS_SERVER, &error));
    assert_non_null(strstr(error.text, "/the-end.key: File name too long"));
}

struct warnings {
    size_t count;
    char text[8][512];
};

static void warnings_in(enum tls_role role, const struct rig_config *config, int days, struct warnings *warnings)
{
    struct tls_context *context = rig_context(config, role);
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, "f");
    tls_context_check(context, &config->config, days, "web", &diagnostics);
    assert_int_equal(diagnostics.errors, 0);
    assert_true(diagnostics.kept <= ARRAY_LENGTH(warnings->text));
    warnings->count = diagnostics.kept;
    for (size_t i = 0; i < diagnostics.kept; i++) {
        const struct diagnostic *warning = &diagnostics.list[i];
        assert_string_equal(warning->proxy, "web");
        (void)snprintf(warnings->text[i], sizeof warnings->text[i], "%s: %s", strrchr(warning->file, '/') + 1,
                       warning->text);
    }
    diagnostics_release(&diagnostics);
    tls_context_destroy(&context);
}

static void warnings_of(const struct rig_config *config, int days, struct warnings *warnings)
{
    warnings_in(TLS_SERVER, config, days, warnings);
}

static void assert_warning(long from, long until, const char *words, long date)
{
    rig_issue_pair("shaky", &(struct rig_request){
                                .subject = "shaky", .names = "DNS:a", .from = from, .until = until, .issuer = &rig_ca});
    struct rig_config config;
    rig_config_init(&config, VERIFY_NONE);
    rig_config_add_pair(&config, "shaky", NULL);
    struct warnings warnings;
    warnings_of(&config, 30, &warnings);
    if (words == NULL) {
        assert_int_equal(warnings.count, 0);
        return;
    }
    char expected[128];
    char day[16];
    time_t when = time(NULL) + date;
    struct tm broken;
    assert_non_null(gmtime_r(&when, &broken));
    assert_true(strftime(day, sizeof day, "%Y-%m-%d", &broken) > 0);
    (void)snprintf(expected, sizeof expected, "shaky.crt: the certificate CN=shaky %s %s", words, day);
    assert_int_equal(warnings.count, 1);
    assert_string_equal(warnings.text[0], expected);
}

static void test_dates_outside_the_validity_are_warned_of(void **state)
{
    (void)state;
    assert_warning(-20L * RIG_DAY, -10L * RIG_DAY, "expired on", -10L * RIG_DAY);
    assert_warning(10L * RIG_DAY, 200L * RIG_DAY, "is not valid before", 10L * RIG_DAY);
    assert_warning(-RIG_DAY, 29L * RIG_DAY, "expires on", 29L * RIG_DAY);
    assert_warning(-RIG_DAY, 31L * RIG_DAY, NULL, 0);
}

static void test_each_fault_of_the_files_is_warned_of(void **state)
{
    (void)state;
    char path[RIG_PATH_SIZE];
    struct rig_issued old_ca =
        rig_issue(&(struct rig_request){.subject = "Old CA", .is_ca = true, .from = -9L * RIG_DAY, .until = -RIG_DAY});
    rig_write_chain("old-ca.crt", old_ca.certificate, NULL, NULL);
    rig_write_crl("old.crl", &old_ca, NULL, -2L * RIG_DAY);
    rig_write_chain("odd.crt", server.certificate, old_ca.certificate, NULL);
    write_mixed_authorities();
    rig_drop(&old_ca);
    struct rig_config config;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add(&config, "server.key", "odd.crt", "old-ca.crt", "old.crl");
    rig_config_add(&config, NULL, NULL, "mixed.crt", NULL);
    assert_int_equal(chmod(rig_path("server.key", path), 0644), 0);
    struct warnings warnings;
    warnings_of(&config, 30, &warnings);
    assert_int_equal(chmod(path, 0600), 0);
    static const char *const expected[] = {
        "odd.crt: the certificate CN=Old CA expired on ",
        "odd.crt: the chain is not in order",
        "server.key: every user of this host may read the key",
        "old-ca.crt: the certificate CN=Old CA expired on ",
        "old.crl: the revocation list of CN=Old CA expired on ",
        "mixed.crt: 1 of the authority's certificates cannot be used, and are left out",
    };
    assert_int_equal(warnings.count, ARRAY_LENGTH(expected));
    for (size_t i = 0; i < ARRAY_LENGTH(expected); i++)
        if (strstr(warnings.text[i], expected[i]) != warnings.text[i])
            fail_msg("\"%s\" in place of \"%s\"", warnings.text[i], expected[i]);
}

// A chain of which peers that verify it ask for more.
static void test_weak_links_of_an_own_chain_are_warned_of(void **state)
{
    (void)state;
#define HASH(subject, hash) "odd.crt: the certificate CN=" subject " is signed with a weak hash, " hash ": most "
#define KEY "odd.crt: the certificate CN=middle has a key of only 1024 bits: most "
    const struct {
        const char *digest, *middle_digest, *middle_kind, *root_digest;
        const char *expected[2];
    } cases[] = {
        {NULL, NULL, NULL, NULL, {NULL}},
        {"SHA224", "SHA384", NULL, NULL, {NULL}},
        {"SHA1", NULL, NULL, NULL, {HASH("leaf", "SHA1")}},
        {"MD5", NULL, "rsa", NULL, {HASH("leaf", "MD5")}},
        {NULL, "SHA1", NULL, NULL, {HASH("middle", "SHA1")}},
        {"SHA1", "SHA1", NULL, NULL, {HASH("leaf", "SHA1"), HASH("middle", "SHA1")}},
        {NULL, NULL, "rsa-1024", NULL, {KEY}},
        {NULL, NULL, NULL, "SHA1", {NULL}}, // nobody looks at a root's signature of itself
    };
    for (size_t i = 0; i < 2 * ARRAY_LENGTH(cases); i++) {
        __typeof__(&cases[0]) one = &cases[i / 2];
        enum tls_role role = i % 2 == 0 ? TLS_SERVER : TLS_CLIENT;
        struct rig_issued root =
            rig_issue(&(struct rig_request){.subject = "root", .is_ca = true, .digest = one->root_digest});
        struct rig_issued middle = rig_issue(&(struct rig_request){.subject = "middle",
                                                                   .is_ca = true,
                                                                   .kind = one->middle_kind,
                                                                   .digest = one->middle_digest,
                                                                   .issuer = &root});
        struct rig_issued leaf = rig_issue(
            &(struct rig_request){.subject = "leaf", .names = "DNS:a", .digest = one->digest, .issuer = &middle});
        rig_write_pair("odd", &leaf);
        rig_write_chain("odd.crt", leaf.certificate, middle.certificate, root.certificate);
        struct rig_config config;
        rig_config_init(&config, VERIFY_NONE);
        rig_config_add_pair(&config, "odd", NULL);
        struct warnings warnings;
        warnings_in(role, &config, 30, &warnings);
        size_t count = 0;
        while (count < ARRAY_LENGTH(one->expected) && one->expected[count] != NULL)
            count++;
        assert_int_equal(warnings.count, count);
        for (size_t k = 0; k < count; k++) {
            assert_memory_equal(warnings.text[k], one->expected[k], strlen(one->expected[k]));
            assert_non_null(strstr(warnings.text[k], role == TLS_SERVER ? "clients refuse it" : "servers refuse it"));
        }
        rig_drop(&leaf);
        rig_drop(&middle);
        rig_drop(&root);
    }
}

static int begin(void **state)
{
    (void)state;
    rig_tls_begin();
    server = rig_issue(&(struct rig_request){.subject = "server", .names = "DNS:a.example", .issuer = &rig_ca});
    rig_write_pair("server", &server);
    return 0;
}

static int end(void **state)
{
    rig_drop(&server);
    return rig_tls_end(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_of_key_loads),
        cmocka_unit_test(test_a_pair_may_share_a_file),
        UNIT_TEST_OF_ROWS(test_a_file_that_is_something_else_is_named),
        cmocka_unit_test(test_damaged_files_are_told_as_such),
        cmocka_unit_test(test_a_key_that_cannot_be_used_is_refused),
        cmocka_unit_test(test_a_key_of_another_certificate_is_refused),
        cmocka_unit_test(test_a_certificate_that_is_not_for_servers_is_refused),
        cmocka_unit_test(test_a_verifying_context_needs_an_authority),
        cmocka_unit_test(test_a_damaged_revocation_list_is_refused),
        cmocka_unit_test(test_the_systems_authorities_are_used_where_none_is_configured),
        cmocka_unit_test(test_a_long_path_loses_its_beginning),
        cmocka_unit_test(test_dates_outside_the_validity_are_warned_of),
        cmocka_unit_test(test_each_fault_of_the_files_is_warned_of),
        cmocka_unit_test(test_weak_links_of_an_own_chain_are_warned_of),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
