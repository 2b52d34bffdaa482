// Handshake messages about as large as mbedTLS's buffers: what fits is served, in both directions; what does not is
// refused at the start, where it is ours, and in true words, where it is the peer's.

#include "tls_peer.h"

enum { BUFFER = 16384, MESSAGE_MAX_1_3 = 16383 };

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

static size_t der_size(const struct rig_issued *issued)
{
    return (size_t)i2d_X509(issued->certificate, NULL);
}

// A certificate of just this size: names of 60 bytes, and a last one that makes up for the rest.
static struct rig_issued issue_of_size(size_t size)
{
    static char names[2 * BUFFER];
    size_t wanted = size - 1000;
    for (unsigned tries = 0; tries < 200; tries++) {
        size_t length = (size_t)snprintf(names, sizeof names, "DNS:s.example");
        size_t last = 20 + (wanted % 62);
        for (size_t i = 0; i < wanted / 62; i++)
            length += (size_t)snprintf(names + length, sizeof names - length, ",DNS:%060zu", i);
        (void)snprintf(names + length, sizeof names - length, ",DNS:%0*d", (int)last, 7);
        struct rig_issued issued = rig_issue(&(struct rig_request){
            .subject = "big", .names = names, .usage = "serverAuth,clientAuth", .issuer = &rig_ca});
        size_t got = der_size(&issued);
        if (got == size)
            return issued;
        wanted += size - got; // an ECDSA signature's size is not the same each time
        rig_drop(&issued);
    }
    fail();
    return (struct rig_issued){.key = NULL};
}

// What the message takes beside the certificates, bytes.
static size_t overhead(int version, size_t certificates)
{
    return version == TLS1_3_VERSION ? 4 + 1 + 3 + certificates * (3 + 2) : 4 + 3 + certificates * 3;
}

// "big.key" and "big.crt", whose message in this version is so large; in two certificates, or in one.
static void write_pair(int version, size_t message, bool has_chain)
{
    struct rig_issued other = rig_issue(&(struct rig_request){.subject = "other", .issuer = &rig_ca});
    size_t rest = has_chain ? der_size(&other) : 0;
    struct rig_issued big = issue_of_size(message - overhead(version, has_chain ? 2 : 1) - rest);
    rig_write_key("big.key", big.key);
    rig_write_chain("big.crt", big.certificate, has_chain ? other.certificate : NULL, NULL);
    rig_drop(&big);
    rig_drop(&other);
}

// A handshake in this version; the peer has `pair`, and asks for our certificate, or we ask for its.
static bool run(enum tls_role role, int version, const char *own, const char *pair, struct error *error, char told[256])
{
    struct rig_config config;
    struct tls_session session;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add_pair(&config, own, "ca.crt");
    struct tls_context *context = rig_context(&config, role);
    struct tls_peer peer = {.minimum = version,
                            .maximum = version,
                            .pair = pair,
                            .authorities = "ca.crt",
                            .server_name = role == TLS_SERVER ? "s.example" : NULL};
    bool is_good = run_session(context, role, "s.example", &peer, &session, error);
    tls_context_destroy(&context);
    memcpy(told, peer.error, sizeof peer.error);
    return is_good;
}

static void test_what_we_can_send_is_received(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        char told[256];
        struct error error;
        write_pair(TLS1_3_VERSION, MESSAGE_MAX_1_3, i % 2 == 1);
        if (!run(i / 4 == 0 ? TLS_SERVER : TLS_CLIENT, versions[i / 2 % 2], "big", "small", &error, told))
            fail_msg("%u: %s", i, error.text);
    }
}

static void test_what_we_cannot_send_is_refused_at_the_start(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct rig_config config;
        struct error error = ERROR_INIT;
        write_pair(TLS1_3_VERSION, MESSAGE_MAX_1_3 + 1, i % 2 == 1);
        rig_config_init(&config, VERIFY_STRICT);
        rig_config_add_pair(&config, "big", "ca.crt");
        assert_null(tls_context_create(&config.config, i / 2 == 0 ? TLS_SERVER : TLS_CLIENT, &error));
        const char *words =
            i % 2 == 1 ? "big.crt: the certificate and its chain would take 16384 bytes in a handshake, more than the "
                         "16383 that mbedTLS can send"
                       : "big.crt: the certificate would take 16384 bytes in a handshake, more than the 16383 that "
                         "mbedTLS can send";
        if (strstr(error.text, words) == NULL)
            fail_msg("%s", error.text);
    }
}

static void test_a_peers_certificate_is_taken_up_to_the_limit(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        enum tls_role role = i / 2 == 0 ? TLS_SERVER : TLS_CLIENT;
        char told[256];
        struct error error;
        write_pair(versions[i % 2], BUFFER, false);
        if (!run(role, versions[i % 2], "small", "big", &error, told))
            fail_msg("%u: %s", i, error.text);
        write_pair(versions[i % 2], BUFFER + 400, false);
        assert_false(run(role, versions[i % 2], "small", "big", &error, told));
        assert_string_equal(told, "tlsv1 alert internal error");
        assert_string_equal(error.text, role == TLS_SERVER
                                            ? "the client's Certificate message is larger than 16 KiB, more than "
                                              "mbedTLS takes"
                                            : "the target's Certificate message is larger than 16 KiB, more than "
                                              "mbedTLS takes");
    }
}

// A server that lists this many CAs.
static bool run_with_authorities(int version, unsigned count, struct tls_info *info, struct error *error)
{
    struct rig_config config;
    struct tls_session session;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add_pair(&config, "small", "ca.crt");
    struct tls_context *context = rig_context(&config, TLS_CLIENT);
    struct tls_peer peer = {
        .is_server = true, .minimum = version, .maximum = version, .pair = "small", .authorities = "ca.crt"};
    tls_peer_configure(&peer);
    for (unsigned i = 0; i < count; i++) {
        char name[64];
        X509_NAME *authority = X509_NAME_new();
        (void)snprintf(name, sizeof name, "%060u", i);
        assert_int_equal(
            X509_NAME_add_entry_by_txt(authority, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0), 1);
        X509 *holder = X509_new();
        assert_int_equal(X509_set_subject_name(holder, authority), 1);
        assert_int_equal(SSL_CTX_add_client_CA(peer.context, holder), 1);
        X509_free(holder);
        X509_NAME_free(authority);
    }
    bool is_good = run_session(context, TLS_CLIENT, "s.example", &peer, &session, error);
    *info = session.info;
    tls_context_destroy(&context);
    return is_good;
}

static void test_a_targets_list_of_authorities_is_taken_up_to_the_limit(void **state)
{
    (void)state;
    // 75 bytes each.
    for (size_t i = 0; i < ARRAY_LENGTH(versions); i++) {
        struct tls_info info;
        struct error error;
        if (!run_with_authorities(versions[i], 216, &info, &error))
            fail_msg("%s", error.text);
        assert_false(run_with_authorities(versions[i], 230, &info, &error));
        assert_string_equal(error.text,
                            "the target's CertificateRequest message is larger than 16 KiB, more than mbedTLS takes");
        assert_int_equal(info.failure, TLS_FAILURE_OTHER);
    }
}

static int begin(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    rig_tls_begin();
    rig_issue_pair("small", &(struct rig_request){.subject = "small", .names = "DNS:s.example", .issuer = &rig_ca});
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_we_can_send_is_received),
        cmocka_unit_test(test_what_we_cannot_send_is_refused_at_the_start),
        cmocka_unit_test(test_a_peers_certificate_is_taken_up_to_the_limit),
        cmocka_unit_test(test_a_targets_list_of_authorities_is_taken_up_to_the_limit),
    };
    return cmocka_run_group_tests(tests, begin, rig_tls_end);
}
