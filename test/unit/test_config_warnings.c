// Keys and targets without an effect: the lines that warn of them.

#include "config_text.h"

#include "bitflow/base/compiler.h"

#define AT_TARGET "warning: server.proxies[0].targets[0]."
#define AT "f:6:33: " AT_TARGET
#define AT_SOURCE_LIMIT "f:7:15: warning: server.proxies[0].options.source_connection_limit: "
#define AT_IN "warning: server.proxies[0].listener."
#define AT_OPTION "f:7:15: warning: server.proxies[0].options."
#define TLS "tls_context: {certificates: [{key: k, certificate: c}]}"
#define SNI "connection_load_balancer: sni"
#define NO_OTHER "max_fails: means nothing without a connection_load_balancer that has another target to go to\n"
#define SOCKS ", proxy: 's:1'"
#define UNIX_TARGET "name: t, address: 'unix:///t'"
#define LITERAL_TARGET "name: t, address: '[::1]:80'"
#define NOTHING_TO_RESOLVE "means nothing without a name to resolve\n"
#define NO_NAME "enable_dual_stack: means nothing without a target whose name is resolved here\n"
#define UNIX_LISTENER "address: 'unix:///s'"

static const struct {
    const char *text;
    const char *lines;
} cases[] = {
    {PROXY("p", LISTENER, TARGET, ""), ""},
    {PROXY("p", LISTENER, TARGET ", resolve_timeout: 1s", ""),
     AT "resolve_timeout: means nothing without enable_dual_stack: true; connect_timeout bounds the look-up, too\n"},
    {PROXY("p", LISTENER, TARGET ", resolve_timeout: 1s", "enable_dual_stack: true"), ""},
    {PROXY("p", LISTENER, TARGET ", resolve_timeout: 0", ""), ""},
    {PROXY("p", LISTENER, TARGET ", resolve_timeout: 1s" SOCKS, "enable_dual_stack: true"),
     AT "resolve_timeout: means nothing with proxy: the SOCKS5 server resolves the name\n" AT_OPTION NO_NAME},
    {PROXY("p", LISTENER, LITERAL_TARGET ", resolve_timeout: 1s", "enable_dual_stack: true"),
     "f:6:38: " AT_TARGET "resolve_timeout: " NOTHING_TO_RESOLVE AT_OPTION NO_NAME},
    {PROXY("p", LISTENER, UNIX_TARGET ", resolve_timeout: 1s", ""),
     "f:6:39: " AT_TARGET "resolve_timeout: " NOTHING_TO_RESOLVE},
    {PROXY("p", LISTENER, "name: t, address: 'fd://9', resolve_timeout: 1s", ""),
     "f:6:36: " AT_TARGET "resolve_timeout: " NOTHING_TO_RESOLVE},
    {PROXY("p", LISTENER, LITERAL_TARGET, "enable_dual_stack: true"), AT_OPTION NO_NAME},
    {PROXY("p", LISTENER, LITERAL_TARGET, "enable_dual_stack: false"), ""},
    {PROXY("p", LISTENER, UNIX_TARGET "}\n    - {name: n, address: 'h:1'",
           "enable_dual_stack: true, connection_load_balancer: failover"),
     ""},
    {PROXY("p", LISTENER, UNIX_TARGET ", keepalive_interval: 30s", ""),
     "f:6:39: " AT_TARGET "keepalive_interval: means nothing over a Unix socket\n"},
    {PROXY("p", LISTENER, UNIX_TARGET ", keepalive_interval: -1", ""),
     "f:6:39: " AT_TARGET "keepalive_interval: means nothing over a Unix socket\n"},
    {PROXY("p", LISTENER, UNIX_TARGET ", keepalive_interval: 0", ""), ""},
    {PROXY("p", LISTENER, TARGET ", keepalive_interval: 30s", ""), ""},
    {PROXY("p", LISTENER, TARGET ", keepalive_interval: 30s" SOCKS, ""), ""},
    {PROXY("p", LISTENER, TARGET ", keepalive_interval: 30s, proxy: 'unix:///s'", ""),
     AT "keepalive_interval: means nothing over a Unix socket\n"},
    {PROXY("p", LISTENER, UNIX_TARGET ", tcp_user_timeout: 30s", ""),
     "f:6:39: " AT_TARGET "tcp_user_timeout: means nothing over a Unix socket\n"},
    {PROXY("p", LISTENER, TARGET ", tcp_user_timeout: 30s", ""), ""},
    {PROXY("p", UNIX_LISTENER ", keepalive_interval: -1, tcp_user_timeout: 1s", TARGET, ""),
     "f:4:38: " AT_IN "keepalive_interval: means nothing over a Unix socket\n"
     "f:4:62: " AT_IN "tcp_user_timeout: means nothing over a Unix socket\n"},
    {PROXY("p", LISTENER ", keepalive_interval: 30s, tcp_user_timeout: 1s", TARGET, ""), ""},
    {PROXY("p", LISTENER, TARGET ", proxy_timeout: 10s", ""), AT "proxy_timeout: means nothing without proxy\n"},
    {PROXY("p", LISTENER, TARGET ", proxy_timeout: 0", ""), AT "proxy_timeout: means nothing without proxy\n"},
    {PROXY("p", LISTENER, TARGET ", proxy_timeout: 10s" SOCKS, ""), ""},
    {PROXY("p", LISTENER, TARGET ", proxy_timeout: ~", ""), ""},
    {PROXY("p", LISTENER, TARGET, "source_connection_limit: 1"), ""},
    {PROXY("p", UNIX_LISTENER, TARGET, "source_connection_limit: 1"),
     AT_SOURCE_LIMIT "means nothing at a unix:// listener: its clients have no IP address\n"},
    {PROXY("p", UNIX_LISTENER ", proxy_protocol: true", TARGET, "source_connection_limit: 1"), ""},
    {PROXY("p", UNIX_LISTENER, TARGET, ""), ""},
    {PROXY("p", LISTENER, TARGET, "source_connection_limit: 5, connection_limit: 6"), ""},
    {PROXY("p", LISTENER, TARGET, "source_connection_limit: 5, connection_limit: 5"),
     AT_SOURCE_LIMIT "protects nobody: a single source can take all of connection_limit\n"},
    {PROXY("p", LISTENER, TARGET, "source_connection_limit: 6, connection_limit: 5"),
     AT_SOURCE_LIMIT "protects nobody: a single source can take all of connection_limit\n"},
};

// Each key that means nothing without another, with it and without.
static const struct {
    const char *text;
    const char *lines;
} pairs[] = {
    {"application: {log: {format: json}}\n" PROXY("p", LISTENER, TARGET, ""),
     "f:1:21: warning: application.log.format: means nothing without level\n"},
    {"application: {log: {format: json, level: warn}}\n" PROXY("p", LISTENER, TARGET, ""), ""},
    {PROXY("p", LISTENER ", proxy_protocol: false, proxy_protocol_timeout: 1s", TARGET, ""),
     "f:4:54: " AT_IN "proxy_protocol_timeout: means nothing without proxy_protocol: true\n"},
    {PROXY("p", LISTENER ", proxy_protocol: true, proxy_protocol_timeout: 1s", TARGET, ""), ""},
    {PROXY("p", LISTENER ", client_hello_timeout: 10s", TARGET, ""),
     "f:4:31: " AT_IN "client_hello_timeout: means nothing without connection_load_balancer: sni\n"},
    {PROXY("p", LISTENER ", client_hello_timeout: 10s, " TLS, "name: a.b, address: 'h:1'", SNI),
     "f:4:31: " AT_IN "client_hello_timeout: means nothing with tls_context: its handshake_timeout bounds the "
     "ClientHello, too\n"},
    {PROXY("p", LISTENER ", client_hello_timeout: 10s", "name: a.b, address: 'h:1'", SNI), ""},
    {PROXY("p", LISTENER, TARGET ", connect_backoff: 1s", ""),
     AT "connect_backoff: means nothing without connect_attempts above 1\n"},
    {PROXY("p", LISTENER, TARGET ", connect_backoff: 1s, connect_attempts: 2", ""), ""},
    {PROXY("p", LISTENER, TARGET ", connect_backoff: 0", ""), ""},
    {PROXY("p", LISTENER, TARGET ", fail_timeout: 10s", ""), AT "fail_timeout: means nothing without max_fails\n"},
    {PROXY("p", LISTENER, TARGET ", max_fails: 1", ""), AT NO_OTHER},
    {PROXY("p", LISTENER, TARGET ", max_fails: 1, fail_timeout: 1s", "connection_load_balancer: failover"),
     AT NO_OTHER},
    {PROXY("p", LISTENER, "name: a.b, address: 'h:1', max_fails: 1}\n    - {name: '*', address: 'h:2'", SNI),
     "f:6:35: warning: server.proxies[0].targets[0]." NO_OTHER},
    {PROXY("p", LISTENER, TARGET ", max_fails: 1, fail_timeout: 1s}\n    - {name: spare, address: 'h:2'",
           "connection_load_balancer: failover"),
     ""},
    {PROXY("p", LISTENER, TARGET ", tls_context: {server_name: '::1', verify_mode: none}", ""),
     "f:6:47: warning: server.proxies[0].targets[0].tls_context.server_name: means nothing without verify_mode: "
     "strict: an IP address is only verified, never sent\n"},
    {PROXY("p", LISTENER, TARGET ", tls_context: {server_name: '::1'}", ""), ""},
    {PROXY("p", LISTENER, TARGET ", tls_context: {server_name: a.b, verify_mode: none}", ""), ""},
    {PROXY("p", LISTENER, TARGET, "connection_log_connect: false"),
     AT_OPTION "connection_log_connect: means nothing without connection_log\n"},
    {PROXY("p", LISTENER, TARGET, "connection_log_interval: 10s"),
     AT_OPTION "connection_log_interval: means nothing without connection_log\n"},
    {PROXY("p", LISTENER, TARGET, "connection_log_interval: 10s, connection_log_connect: true, connection_log: /l"),
     ""},
    {PROXY("p", LISTENER, TARGET, "proxy_header_version: 2"),
     AT_OPTION "proxy_header_version: means nothing without enable_proxy_header: true\n"},
    {PROXY("p", LISTENER, TARGET, "proxy_header_version: 2, enable_proxy_header: true"), ""},
};

#define STANDS_FOR_TARGET(n)                                                                                    \
    "f:4:31: " AT_IN "read_timeout: is also how long targets[" #n "] may be silent once the client has ended, " \
    "as it has no read_timeout; set that, or half_close_timeout\n"
#define STANDS_FOR_CLIENT                                                                                  \
    AT "read_timeout: is also how long a client may be silent once the target has ended, as the listener " \
       "has no read_timeout; set that, or half_close_timeout\n"

static void test_a_read_timeout_of_one_side_alone_is_warned_of(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *lines;
    } sides[] = {
        {PROXY("p", LISTENER ", read_timeout: 1s", TARGET, ""), STANDS_FOR_TARGET(0)},
        {PROXY("p", LISTENER, TARGET ", read_timeout: 1s", ""), STANDS_FOR_CLIENT},
        {PROXY("p", LISTENER ", read_timeout: 0", TARGET ", read_timeout: 1s", ""), STANDS_FOR_CLIENT},
        {PROXY("p", LISTENER ", read_timeout: 1s", TARGET ", read_timeout: 1h", ""), ""},
        {PROXY("p", LISTENER ", read_timeout: 0", TARGET ", read_timeout: 0", ""), ""},
        {PROXY("p", LISTENER ", read_timeout: 1s", TARGET, "half_close_timeout: 1s"), ""},
        {PROXY("p", LISTENER, TARGET ", read_timeout: 1s", "half_close_timeout: 1s"), ""},
        {PROXY("p", LISTENER, TARGET, "half_close_timeout: 1s"), ""},
        {PROXY("p", LISTENER ", read_timeout: 1s", TARGET ", read_timeout: 1s}\n    - {name: n, address: 'h:1'",
               "connection_load_balancer: failover"),
         STANDS_FOR_TARGET(1)},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(sides); i++)
        assert_warnings(sides[i].text, sides[i].lines);
    // What was refused may have been one.
    assert_problems(PROXY("p", LISTENER ", read_timeout: x", TARGET ", read_timeout: 1s", ""),
                    "f:4:45: server.proxies[0].listener.read_timeout: \"x\" is not a valid duration: expected one such "
                    "as 30s, 250ms or 1h2m3.5s\n");
}

static void test_a_key_that_means_nothing_without_another_is_warned_of(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(pairs); i++)
        assert_warnings(pairs[i].text, pairs[i].lines);
}

// What it would have been is not known.
static void test_what_was_refused_elsewhere_is_not_warned_of(void **state)
{
    (void)state;
    assert_problems(
        PROXY("p", LISTENER ", client_hello_timeout: 1s", TARGET ", max_fails: 1", "connection_load_balancer: snii"),
        "f:7:41: server.proxies[0].options.connection_load_balancer: must be one of none, failover, "
        "round-robin, least-connections, sni, not \"snii\"; did you mean sni?\n");
    assert_problems(PROXY("p", LISTENER, TARGET ", connect_attempts: x, connect_backoff: 1s", ""),
                    "f:6:51: server.proxies[0].targets[0].connect_attempts: must be an integer, not \"x\"\n");
}

static void test_errors_have_room_beside_many_warnings(void **state)
{
    (void)state;
    char text[32768] = "server:\n  proxies:\n";
    size_t used = strlen(text);
    for (int i = 0; i < 150; i++)
        used += (size_t)snprintf(text + used, sizeof text - used,
                                 "  - {name: p%d, listener: {address: ':%d'}, targets: [{name: t, address: 'h:1', "
                                 "proxy_timeout: 1}]}\n",
                                 i, i + 1);
    (void)snprintf(text + used, sizeof text - used, "application: 5\n");
    struct diagnostics diagnostics;
    assert_null(load(text, &diagnostics));
    assert_int_equal(diagnostics.errors, 1);
    assert_int_equal(diagnostics.warnings, 150);
    assert_int_equal(diagnostics.kept, DIAGNOSTICS_MAX + 1);
    assert_int_equal(diagnostics_left_out(&diagnostics, DIAGNOSTIC_ERROR), 0);
    assert_int_equal(diagnostics_left_out(&diagnostics, DIAGNOSTIC_WARNING), 50);
    assert_non_null(strstr(line_of(&diagnostics, DIAGNOSTICS_MAX - 1), "server.proxies[99].targets[0].proxy_timeout"));
    assert_string_equal(line_of(&diagnostics, DIAGNOSTICS_MAX),
                        "f:153:14: application: must be a mapping of keys to values, not a single value");
    diagnostics_release(&diagnostics);
}

static void test_a_warning_about_another_file_names_its_proxy(void **state)
{
    (void)state;
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, "f");
    diagnostics_add(&diagnostics, &(struct diagnostic){.severity = DIAGNOSTIC_WARNING,
                                                       .mark = {.line = 7, .column = 9},
                                                       .proxy = "web",
                                                       .file = "/a.crt",
                                                       .text = "it expires"});
    diagnostics_add_general(&diagnostics, "out of paper");
    assert_string_equal(line_of(&diagnostics, 0), "f: out of paper");
    assert_string_equal(line_of(&diagnostics, 1), "f:7:9: warning: proxy web: /a.crt: it expires");
    diagnostics_release(&diagnostics);
}

#define SPARE TARGET "}\n    - {name: spare, address: 'h:2'"
#define UNUSED                                                                                                 \
    "f:5:5: warning: server.proxies[0].targets: only the first is used without connection_load_balancer; set " \
    "that to none if this is intended\n"

static const struct {
    const char *text;
    const char *lines;
} balancers[] = {
    {PROXY("p", LISTENER, SPARE, ""), UNUSED},
    {PROXY("p", LISTENER, SPARE, "connection_load_balancer: ~"), UNUSED},
    {PROXY("p", LISTENER, SPARE, "connection_load_balancer: none"), ""},
    {PROXY("p", LISTENER, SPARE, "connection_load_balancer: failover"), ""},
    {PROXY("p", LISTENER, "name: a.example, address: 'h:1'}\n    - {name: '*', address: 'h:2'",
           "connection_load_balancer: sni"),
     ""},
    {PROXY("p", LISTENER, TARGET, "connection_load_balancer: none"), ""},
};

static void test_targets_without_a_balancer_are_warned_of(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(balancers); i++)
        assert_warnings(balancers[i].text, balancers[i].lines);
}

static void test_each_warning_is_told_where_it_applies(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_warnings(cases[i].text, cases[i].lines);
}

static void test_warnings_are_in_the_files_order_and_name_their_place(void **state)
{
    (void)state;
    assert_warnings("server:\n"
                    "  proxies:\n"
                    "  - name: one\n"
                    "    listener: {address: ':1'}\n"
                    "    targets: &targets\n"
                    "    - {name: a, address: 'h:1'}\n"
                    "    - name: b\n"
                    "      address: h:2\n"
                    "      proxy_timeout: 3s\n"
                    "      resolve_timeout: 3s\n"
                    "    options: {enable_dual_stack: true, connection_load_balancer: failover}\n"
                    "  - name: two\n"
                    "    listener: {address: ':2'}\n"
                    "    targets: *targets\n",
                    "f:9:7: warning: server.proxies[0].targets[1].proxy_timeout: means nothing without proxy\n"
                    "f:9:7: warning: server.proxies[1].targets[1].proxy_timeout: means nothing without proxy\n"
                    "f:10:7: warning: server.proxies[1].targets[1].resolve_timeout: means nothing without "
                    "enable_dual_stack: true; connect_timeout bounds the look-up, too\n"
                    "f:14:5: warning: server.proxies[1].targets: only the first is used without "
                    "connection_load_balancer; set that to none if this is intended\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_warning_is_told_where_it_applies),
        cmocka_unit_test(test_a_key_that_means_nothing_without_another_is_warned_of),
        cmocka_unit_test(test_a_read_timeout_of_one_side_alone_is_warned_of),
        cmocka_unit_test(test_what_was_refused_elsewhere_is_not_warned_of),
        cmocka_unit_test(test_errors_have_room_beside_many_warnings),
        cmocka_unit_test(test_a_warning_about_another_file_names_its_proxy),
        cmocka_unit_test(test_targets_without_a_balancer_are_warned_of),
        cmocka_unit_test(test_warnings_are_in_the_files_order_and_name_their_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
