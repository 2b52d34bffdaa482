// The list of close reasons is what users filter their logs by: its names, who ended it and what counts as an error are
// held to a table.

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/relay/close_reason.h"

static const struct {
    enum close_reason reason;
    const char *name;
    const char *ended_by;
    bool is_error;
} table[] = {
    {CLOSE_COMPLETED, "completed", "client", false},
    {CLOSE_CLIENT_RESET, "client_reset", "client", false},
    {CLOSE_TARGET_RESET, "target_reset", "target", true},
    {CLOSE_CLIENT_LOST, "client_lost", "client", false},
    {CLOSE_TARGET_LOST, "target_lost", "target", true},
    {CLOSE_CLIENT_READ_TIMEOUT, "client_read_timeout", "proxy", false},
    {CLOSE_CLIENT_WRITE_TIMEOUT, "client_write_timeout", "proxy", false},
    {CLOSE_TARGET_READ_TIMEOUT, "target_read_timeout", "proxy", true},
    {CLOSE_TARGET_WRITE_TIMEOUT, "target_write_timeout", "proxy", true},
    {CLOSE_CLIENT_TRUNCATED, "client_truncated", "client", false},
    {CLOSE_TARGET_TRUNCATED, "target_truncated", "target", false},
    {CLOSE_CLIENT_TLS_ERROR, "client_tls_error", "client", false},
    {CLOSE_TARGET_TLS_ERROR, "target_tls_error", "target", true},
    {CLOSE_PROXY_HEADER_INVALID, "proxy_header_invalid", "client", false},
    {CLOSE_PROXY_HEADER_TIMEOUT, "proxy_header_timeout", "proxy", false},
    {CLOSE_CLIENT_HANDSHAKE_FAILED, "client_handshake_failed", "client", false},
    {CLOSE_CLIENT_HANDSHAKE_TIMEOUT, "client_handshake_timeout", "proxy", false},
    {CLOSE_TARGET_HANDSHAKE_FAILED, "target_handshake_failed", "target", true},
    {CLOSE_TARGET_HANDSHAKE_TIMEOUT, "target_handshake_timeout", "proxy", true},
    {CLOSE_UNRECOGNIZED_NAME, "unrecognized_name", "proxy", false},
    {CLOSE_SNI_UNMATCHED, "sni_unmatched", "proxy", false},
    {CLOSE_LIFETIME, "lifetime", "proxy", false},
    {CLOSE_DRAIN, "drain", "proxy", false},
    {CLOSE_CLIENT_LEFT, "client_left", "client", false},
    {CLOSE_RESOLVE_FAILED, "resolve_failed", "proxy", true},
    {CLOSE_CONNECT_REFUSED, "connect_refused", "target", true},
    {CLOSE_CONNECT_TIMEOUT, "connect_timeout", "proxy", true},
    {CLOSE_CONNECT_FAILED, "connect_failed", "proxy", true},
    {CLOSE_SOCKS_AUTH_FAILED, "socks_auth_failed", "target", true},
    {CLOSE_SOCKS_REFUSED, "socks_refused", "target", true},
    {CLOSE_SOCKS_FAILED, "socks_failed", "target", true},
    {CLOSE_SOCKS_TIMEOUT, "socks_timeout", "proxy", true},
    {CLOSE_PROXY_SOURCE_NOT_TRUSTED, "proxy_source_not_trusted", "proxy", false},
    {CLOSE_SOURCE_NOT_AUTHORIZED, "source_not_authorized", "proxy", false},
    {CLOSE_SOURCE_CONNECTION_LIMIT, "source_connection_limit", "proxy", false},
    {CLOSE_CONNECTION_LIMIT, "connection_limit", "proxy", true},
    {CLOSE_OUT_OF_DESCRIPTORS, "out_of_descriptors", "proxy", true},
    {CLOSE_OUT_OF_PORTS, "out_of_ports", "proxy", true},
    {CLOSE_OUT_OF_THREADS, "out_of_threads", "proxy", true},
    {CLOSE_OUT_OF_MEMORY, "out_of_memory", "proxy", true},
};

static void test_table(void **state)
{
    (void)state;
    assert_int_equal(ARRAY_LENGTH(table), CLOSE_REASON_COUNT - 1); // without CLOSE_NONE
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++) {
        assert_string_equal(close_reason_name(table[i].reason), table[i].name);
        assert_string_equal(ended_by_name(close_reason_ended_by(table[i].reason)), table[i].ended_by);
        assert_int_equal(close_reason_is_error(table[i].reason), table[i].is_error);
    }
}

static void test_every_reason_has_a_name_and_a_text_of_its_own(void **state)
{
    (void)state;
    for (enum close_reason a = CLOSE_NONE; a < CLOSE_REASON_COUNT; a++) {
        const char *name = close_reason_name(a);
        assert_true(strlen(name) > 0);
        for (const char *at = name; *at != '\0'; at++)
            assert_true(islower((unsigned char)*at) || *at == '_');
        for (enum close_reason b = CLOSE_NONE; b < a; b++) {
            assert_string_not_equal(name, close_reason_name(b));
            assert_string_not_equal(close_reason_text(a), close_reason_text(b));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_every_reason_has_a_name_and_a_text_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
