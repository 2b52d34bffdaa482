// Whole handshakes with OpenSSL: that their arithmetic is libcrypto's, on both sides and with every kind of key.

#include "tls_peer.h"

#include "tls/engine/arithmetic_internal.h"

static const char *const kinds[] = {"rsa", "P-256", "P-384", "P-521"};

// What libcrypto has done for a handshake of this thread.
static struct arithmetic_counts shake_hands(enum tls_role role, int version, const char *kind, const char *groups)
{
    struct rig_config config;
    rig_config_init(&config, VERIFY_STRICT);
    rig_config_add_pair(&config, kind, "ca.crt");
    struct tls_context *context = rig_context(&config, role);
    struct tls_peer peer = {.minimum = version,
                            .maximum = version,
                            .groups = groups,
                            .server_name = role == TLS_SERVER ? "s.example" : NULL,
                            .pair = kind,
                            .authorities = "ca.crt"};
    struct tls_session session;
    struct error error;
    const struct arithmetic_counts before = arithmetic_counts;
    if (!run_session(context, role, "s.example", &peer, &session, &error))
        fail_msg("%s, %s, %d: %s (the peer: %s)", groups, kind, role, error.text, peer.error);
    struct arithmetic_counts done = arithmetic_counts;
    for (size_t i = 0; i < ARITHMETIC_COUNT; i++) {
        done.entered[i] -= before.entered[i];
        done.done[i] -= before.done[i];
    }
    tls_context_destroy(&context);
    return done;
}

static void test_every_handshake_is_done_by_libcrypto(void **state)
{
    (void)state;
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    // The certificate's own curve must be among them in TLS 1.2; 1.3 takes the first.
    static const char *const groups[] = {"X25519:P-256:P-384:P-521", "P-256:P-384:P-521", "P-384:P-256:P-521",
                                         "P-521:P-256:P-384"};
    for (size_t i = 0; i < ARRAY_LENGTH(versions); i++)
        for (size_t j = 0; j < ARRAY_LENGTH(kinds); j++)
            for (size_t k = 0; k < ARRAY_LENGTH(groups); k++) {
                bool is_rsa = j == 0;
                struct arithmetic_counts as_server = shake_hands(TLS_SERVER, versions[i], kinds[j], groups[k]);
                struct arithmetic_counts as_client = shake_hands(TLS_CLIENT, versions[i], kinds[j], groups[k]);
                // The exchange of keys. Of the base point of P-384, mbedTLS makes products itself before OpenSSL 3.2.
                unsigned long least = k == 2 && !OPENSSL_VERSION_PREREQ(3, 2) ? 1 : 2;
                assert_true(as_server.done[CURVE_PRODUCT] >= least && as_client.done[CURVE_PRODUCT] >= least);
                // Each side signs with its certificate's key; the authority's own is P-256.
                assert_int_equal(as_server.done[RSA_PRIVATE], is_rsa);
                assert_int_equal(as_server.entered[RSA_PRIVATE], is_rsa);
                // As with the base point: with P-384 mbedTLS signs itself before OpenSSL 3.2.
                assert_int_equal(as_server.entered[ECDSA_SIGN], !is_rsa);
                assert_int_equal(as_server.done[ECDSA_SIGN],
                                 j == 1 || j == 3 || (j == 2 && OPENSSL_VERSION_PREREQ(3, 2)));
                // The transcript is hashed with both until the suite is known.
                assert_true(as_server.done[SHA256_BLOCK] > 0 && as_client.done[SHA256_BLOCK] > 0);
                assert_true(as_server.done[SHA512_BLOCK] > 0 && as_client.done[SHA512_BLOCK] > 0);
                assert_true(as_server.done[SHA256_BLOCK] + as_server.done[SHA512_BLOCK] > 20);
                // The server's proof that it has its key; the authority's signature is verified by libcrypto alone.
                assert_int_equal(as_client.done[CURVE_SUM] > 0, !is_rsa);
                assert_int_equal(as_client.done[CURVE_SUM], as_client.entered[CURVE_SUM]);
                assert_int_equal(as_client.done[RSA_PUBLIC] > 0, is_rsa);
                assert_int_equal(as_client.done[RSA_PUBLIC], as_client.entered[RSA_PUBLIC]);
            }
}

static int begin(void **state)
{
    (void)state;
    rig_tls_begin();
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++)
        rig_issue_pair(
            kinds[i],
            &(struct rig_request){.subject = "server", .names = "DNS:s.example", .kind = kinds[i], .issuer = &rig_ca});
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_handshake_is_done_by_libcrypto),
    };
    return cmocka_run_group_tests(tests, begin, rig_tls_end);
}
