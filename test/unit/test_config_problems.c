// Bad configurations: a table of them with the exact lines that each must give.

#include <stdlib.h>

#include "config_text.h"

struct bad_case {
    const char *text;
    const char *lines;
};

static void assert_all_bad(const struct bad_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_problems(cases[i].text, cases[i].lines);
}

#define AT_NAME "f:3:11: server.proxies[0].name: "

static void test_a_wrong_structure_is_told(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {"", "f:1:1: the file has no configuration in it\n"},
        {"---\n", "f:2:1: the file has no configuration in it\n"},
        {"just text\n", "f:1:1: must be a mapping of keys to values, not a single value\n"},
        {"- server\n", "f:1:1: must be a mapping of keys to values, not a list\n"},
        {"application: {}\n", "f:1:1: server: this key is required, but missing\n"},
        {"server:\n", "f:1:1: server: this key is required, but has no value\n"},
        {"server: {}\n", "f:1:9: server.proxies: this key is required, but missing\n"},
        {"server: 5\n", "f:1:9: server: must be a mapping of keys to values, not a single value\n"},
        {"server:\n  proxies: {a: b}\n", "f:2:12: server.proxies: must be a list, not a mapping\n"},
        {"server:\n  proxies: web\n", "f:2:12: server.proxies: must be a list, not a single value\n"},
        {"server:\n  proxies: []\n", "f:2:12: server.proxies: must have at least one item\n"},
        {"server:\n  proxies:\n  -\n",
         "f:3:4: server.proxies[0]: must be a mapping of keys to values, not a single value\n"},
        {"server:\n  proxies:\n  - {}\n", "f:3:5: server.proxies[0].name: this key is required, but missing\n"
                                          "f:3:5: server.proxies[0].listener: this key is required, but missing\n"
                                          "f:3:5: server.proxies[0].targets: this key is required, but missing\n"},
        {"server:\n  proxies:\n  - name: a\n    listener: {}\n    targets: [{}, x]\n",
         "f:4:15: server.proxies[0].listener.address: this key is required, but missing\n"
         "f:5:5: warning: server.proxies[0].targets: only the first is used without connection_load_balancer; set that "
         "to none if this is intended\n"
         "f:5:15: server.proxies[0].targets[0].name: this key is required, but missing\n"
         "f:5:15: server.proxies[0].targets[0].address: this key is required, but missing\n"
         "f:5:19: server.proxies[0].targets[1]: must be a mapping of keys to values, not a single value\n"},
        {"server: {proxies: [\n",
         "f:2:1: not valid YAML: did not find expected node content (while parsing a flow node "
         "that begins on line 2)\n"},
    };
    assert_all_bad(cases, ARRAY_LENGTH(cases));
}

static void test_wrong_keys_are_told_with_a_suggestion(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {"aplication: {}\n" PROXY("p", LISTENER, TARGET, ""),
         "f:1:1: aplication: unknown key; did you mean application?\n"},
        {"nonsense: {}\n" PROXY("p", LISTENER, TARGET, ""), "f:1:1: nonsense: unknown key\n"},
        {"log: {}\n" PROXY("p", LISTENER, TARGET, ""), "f:1:1: log: unknown key; it belongs at application.log\n"},
        {"'a\x07\nb.c': {}\n" PROXY("p", LISTENER, TARGET, ""),
         "f:1:3: not valid YAML: control characters are not allowed\n"},
        {"\"a\\x07b\\0c\": {}\n" PROXY("p", LISTENER, TARGET, ""), "f:1:1: a?b: unknown key\n"},
        {"\"\\x9bc\\xc2\": {}\n" PROXY("p", LISTENER, TARGET, ""), "f:1:1: ??c\xc3\x82: unknown key\n"},
        {"\"server\\0\": {}\n" PROXY("p", LISTENER, TARGET, ""), "f:1:1: server: unknown key; did you mean server?\n"},
        {"application: {}\n" PROXY("p", LISTENER, TARGET, "") "application: {}\n",
         "f:9:1: application: duplicate key; it is already on line 1\n"},
        {PROXY("p", LISTENER, TARGET, "<<: {connection_limit: 1}"),
         "f:7:15: server.proxies[0].options.<<: merge keys are not supported; write the keys out\n"},
        {PROXY("p", LISTENER, TARGET ", timeout: 5", ""),
         "f:6:33: server.proxies[0].targets[0].timeout: unknown key\n"},
        {PROXY("p", LISTENER, TARGET, "read_timeout: 5"),
         "f:7:15: server.proxies[0].options.read_timeout: unknown key; it belongs at "
         "server.proxies[].listener.read_timeout or server.proxies[].targets[].read_timeout\n"},
        {PROXY("p", LISTENER, TARGET, "connecion_limti: 5"),
         "f:7:15: server.proxies[0].options.connecion_limti: unknown key; did you mean connection_limit?\n"},
        {PROXY("p", LISTENER, TARGET, "connection_limit: 5, connection_limit: 6, connection_limit: 7"),
         "f:7:36: server.proxies[0].options.connection_limit: duplicate key; it is already on line 7\n"
         "f:7:57: server.proxies[0].options.connection_limit: duplicate key; it is already on line 7\n"},
    };
    assert_all_bad(cases, ARRAY_LENGTH(cases));
}

static void test_wrong_names_are_told(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {PROXY("", LISTENER, TARGET, ""), "f:3:5: server.proxies[0].name: this key is required, but has no value\n"},
        {PROXY("''", LISTENER, TARGET, ""), AT_NAME "must not be empty\n"},
        {PROXY("[a]", LISTENER, TARGET, ""), AT_NAME "must be a string, not a list\n"},
        {PROXY("{a: b}", LISTENER, TARGET, ""), AT_NAME "must be a string, not a mapping\n"},
        {PROXY("\"a\\nb\"", LISTENER, TARGET, ""), AT_NAME "\"a\\x0ab\" must not contain control characters\n"},
        {PROXY("\"a\\x9bb\"", LISTENER, TARGET, ""), AT_NAME "\"a\\xc2\\x9bb\" must not contain control characters\n"},
        {PROXY("\"a\\0b\"", LISTENER, TARGET, ""), AT_NAME "must be a string, without zero bytes: \"a\\x00b\"\n"},
        {PROXY("x123456789012345678901234567890123456789012345678901234567890wxyz", LISTENER, TARGET, ""),
         AT_NAME "\"x123456789012345678901234567890123456789012345678901234567890wxyz\" is too long: 65 bytes, at "
                 "most 64\n"},
        {"server:\n  proxies:\n"
         "  - {name: a, listener: {address: ':1'}, targets: [{name: t, address: 'h:1'}, {name: t, address: 'h:2'}]}\n"
         "  - {name: b, listener: {address: ':2'}, targets: [{name: t, address: 'h:1'}]}\n"
         "  - {name: a, listener: {address: ':3'}, targets: [{name: t, address: 'h:1'}]}\n"
         "  - {name: a, listener: {address: 'tcp://:2'}, targets: [{name: t, address: 'h:1'}]}\n",
         "f:3:42: warning: server.proxies[0].targets: only the first is used without connection_load_balancer; set "
         "that "
         "to none if this is intended\n"
         "f:3:86: server.proxies[0].targets[1].name: the name is taken: targets[0] of this proxy has it\n"
         "f:5:12: server.proxies[2].name: the name is taken: server.proxies[0] has it\n"
         "f:6:12: server.proxies[3].name: the name is taken: server.proxies[0] has it\n"
         "f:6:35: server.proxies[3].listener.address: server.proxies[1] already listens there\n"},
    };
    assert_all_bad(cases, ARRAY_LENGTH(cases));
}

#define OPTION(key, value) PROXY("p", LISTENER, TARGET, key ": " value)
#define AT_SOURCE_LIMIT "f:7:40: server.proxies[0].options.source_connection_limit: "
#define AT_LIMIT "f:7:33: server.proxies[0].options.connection_limit: "
#define AT_HEADER "f:7:36: server.proxies[0].options.enable_proxy_header: "
#define AT_LIFETIME "f:7:36: server.proxies[0].options.connection_lifetime: "
#define AT_BALANCER "f:7:41: server.proxies[0].options.connection_load_balancer: "

static void test_wrong_scalars_are_told(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {OPTION("connection_limit", "0"), AT_LIMIT "must be at least 1, not 0\n"},
        {OPTION("connection_limit", "-9223372036854775808"), AT_LIMIT "must be at least 1, not -9223372036854775808\n"},
        {OPTION("source_connection_limit", "0"), AT_SOURCE_LIMIT "must be at least 1, not 0\n"},
        {OPTION("connection_limit", "many"), AT_LIMIT "must be an integer, not \"many\"\n"},
        {OPTION("connection_limit", "1.5"), AT_LIMIT "must be an integer, not \"1.5\"\n"},
        {OPTION("connection_limit", "0x10"), AT_LIMIT "must be an integer, not \"0x10\"\n"},
        {OPTION("connection_limit", "+"), AT_LIMIT "must be an integer, not \"+\"\n"},
        {OPTION("connection_limit", "'5'"), AT_LIMIT "must be an integer, not a quoted string\n"},
        {OPTION("connection_limit", "[5]"), AT_LIMIT "must be an integer, not a list\n"},
        {OPTION("connection_limit", "9223372036854775808"),
         AT_LIMIT "must be from 1 to 9223372036854775807, not 9223372036854775808\n"},
        {OPTION("enable_proxy_header", "yes"), AT_HEADER "must be true or false, not yes; did you mean true?\n"},
        {OPTION("enable_proxy_header", "Off"), AT_HEADER "must be true or false, not Off; did you mean false?\n"},
        {OPTION("enable_proxy_header", "tRUE"), AT_HEADER "must be true or false, not \"tRUE\"\n"},
        {OPTION("enable_proxy_header", "1"), AT_HEADER "must be true or false, not \"1\"\n"},
        {OPTION("enable_proxy_header", "'true'"), AT_HEADER "must be true or false, not a quoted string\n"},
        {OPTION("connection_lifetime", "-5"), AT_LIFETIME "\"-5\" is negative\n"},
        {OPTION("connection_lifetime", "5 minutes"),
         AT_LIFETIME "\"5 minutes\" has a number whose unit is not one of ns, us, ms, s, m and h\n"},
        {OPTION("connection_lifetime", "876001h"), AT_LIFETIME "is too long: at most 876000h\n"},
        {OPTION("connection_lifetime", "99999999999h"), AT_LIFETIME "\"99999999999h\" is too long for a duration\n"},
        {OPTION("connection_lifetime", "{}"), AT_LIFETIME "must be a duration, not a mapping\n"},
        {OPTION("connection_load_balancer", "roundrobin"),
         AT_BALANCER "must be one of none, failover, round-robin, least-connections, sni, not \"roundrobin\"; did you "
                     "mean round-robin?\n"},
        {OPTION("connection_load_balancer", "least"),
         AT_BALANCER "must be one of none, failover, round-robin, least-connections, sni, not \"least\"\n"},
        {OPTION("connection_load_balancer", "[]"),
         AT_BALANCER "must be one of none, failover, round-robin, least-connections, sni, not a list\n"},
        {OPTION("connection_log", "''"), "f:7:31: server.proxies[0].options.connection_log: must not be empty\n"},
        {PROXY("p", LISTENER, TARGET ", connect_attempts: 1001", ""),
         "f:6:51: server.proxies[0].targets[0].connect_attempts: must be from 1 to 1000, not 1001\n"},
        {PROXY("p", LISTENER, TARGET ", connect_attempts: 99999999999999999999", ""),
         "f:6:51: server.proxies[0].targets[0].connect_attempts: must be from 1 to 1000, not 99999999999999999999\n"},
        {PROXY("p", LISTENER, TARGET ", keepalive_interval: -2", ""),
         "f:6:53: server.proxies[0].targets[0].keepalive_interval: \"-2\" is negative; only -1 is allowed, which turns "
         "it off\n"},
        {PROXY("p", LISTENER, TARGET ", keepalive_interval: 10h", ""),
         "f:6:53: server.proxies[0].targets[0].keepalive_interval: is too long: at most 9h6m7s\n"},
        {"application: {log: {level: verbose}}\n" PROXY("p", LISTENER, TARGET, ""),
         "f:1:28: application.log.level: must be one of debug, info, warn, error, not \"verbose\"\n"},
    };
    assert_all_bad(cases, ARRAY_LENGTH(cases));
}

#define LISTENING(address) PROXY("p", "address: " address, TARGET, "")
#define CONNECTING(address) PROXY("p", LISTENER, "name: t, address: " address, "")
#define AT_LISTENER "f:4:25: server.proxies[0].listener.address: "
#define AT_TARGET "f:6:26: server.proxies[0].targets[0].address: "

// What exactly is wrong with an address is net/address.h's to say; here, that it is asked, with the right use.
static void test_addresses_are_asked_for_with_their_use(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *begins;
    } cases[] = {
        {LISTENING("nowhere"), AT_LISTENER "\"nowhere\": "},
        {LISTENING("'tcp://:65536'"), AT_LISTENER "\"tcp://:65536\": "},
        {LISTENING("http://a:1"), AT_LISTENER "\"http://a:1\": "},
        {LISTENING("[a]"), AT_LISTENER "must be an address, not a list"},
        {CONNECTING("':80'"), AT_TARGET "\":80\": "},
        {CONNECTING("'a:0'"), AT_TARGET "\"a:0\": "},
        {CONNECTING("unix://"), AT_TARGET "\"unix://\": "},
        {CONNECTING("'fd://-1'"), AT_TARGET "\"fd://-1\": "},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct diagnostics diagnostics;
        assert_null(load(cases[i].text, &diagnostics));
        assert_int_equal(diagnostics.errors, 1);
        size_t length = strlen(cases[i].begins);
        if (strncmp(line_of(&diagnostics, 0), cases[i].begins, length) != 0)
            fail_msg("%s, in place of %s...", line_of(&diagnostics, 0), cases[i].begins);
        diagnostics_release(&diagnostics);
    }
}

#define SOURCES(value) PROXY("p", LISTENER ", authorized_sources: " value, TARGET, "")

static void test_wrong_authorized_sources_are_told(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {SOURCES("10.0.0.0/8"), "f:4:51: server.proxies[0].listener.authorized_sources: must be a list, not a single "
                                "value\n"},
        {SOURCES("[]"), "f:4:51: server.proxies[0].listener.authorized_sources: must have at least one item; leave the "
                        "key out for no restriction\n"},
        {SOURCES("~"), "f:4:31: server.proxies[0].listener.authorized_sources: has no value; give it one, or leave the "
                       "key out for no restriction\n"},
        {SOURCES("[10.0.0.1, [], ~]"),
         "f:4:62: server.proxies[0].listener.authorized_sources[1]: must be an address block such as 10.0.0.0/8, not a "
         "list\n"
         "f:4:66: server.proxies[0].listener.authorized_sources[2]: must be an address block such as 10.0.0.0/8, but "
         "has "
         "no value\n"},
        {PROXY("p", "address: unix:///s, authorized_sources: [10.0.0.0/8]", TARGET, ""),
         "f:4:36: server.proxies[0].listener.authorized_sources: clients of a unix:// listener have no IP address to "
         "match\n"},
    };
    assert_all_bad(cases, ARRAY_LENGTH(cases));

    struct diagnostics diagnostics;
    assert_null(load(SOURCES("[10.0.0.0/8, 10.0.0.0/33, 10.1.0.0/8]"), &diagnostics));
    assert_int_equal(diagnostics.errors, 2);
    assert_non_null(strstr(line_of(&diagnostics, 0),
                           "f:4:64: server.proxies[0].listener.authorized_sources[1]: \"10.0.0.0/33\": "));
    assert_non_null(
        strstr(line_of(&diagnostics, 1), "f:4:77: server.proxies[0].listener.authorized_sources[2]: \"10.1.0.0/8\": "));
    diagnostics_release(&diagnostics);
}

#define SERVER_TLS(value) PROXY("p", LISTENER ", tls_context: {" value "}", TARGET, "")
#define CLIENT_TLS(value) PROXY("p", LISTENER, TARGET ", tls_context: {" value "}", "")
#define AT_SERVER_TLS "server.proxies[0].listener.tls_context"
#define AT_CLIENT_TLS "server.proxies[0].targets[0].tls_context"
#define NEEDS_CERTIFICATE "f:4:31: " AT_SERVER_TLS ": a listener with TLS needs at least one certificate with its key\n"

static void test_incomplete_tls_contexts_are_told(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {SERVER_TLS(""), NEEDS_CERTIFICATE},
        {SERVER_TLS("certificates: []"), NEEDS_CERTIFICATE},
        {SERVER_TLS("certificates: [{authority: a}]"), NEEDS_CERTIFICATE},
        {SERVER_TLS("certificates: [{key: k}]"),
         NEEDS_CERTIFICATE "f:4:61: " AT_SERVER_TLS ".certificates[0].key: a key needs a certificate beside it\n"},
        {SERVER_TLS("certificates: [{key: k, certificate: c}, {certificate: d}]"),
         "f:4:87: " AT_SERVER_TLS ".certificates[1].certificate: a certificate needs a key beside it\n"},
        {SERVER_TLS("certificates: [{key: k, certificate: c}, {}]"),
         "f:4:86: " AT_SERVER_TLS ".certificates[1]: must have a key and a certificate, an authority, or all three\n"},
        {CLIENT_TLS("certificates: [{key: k}]"),
         "f:6:63: " AT_CLIENT_TLS ".certificates[0].key: a key needs a certificate beside it\n"},
        {CLIENT_TLS("certificates: [{key: '', certificate: c}]"),
         "f:6:68: " AT_CLIENT_TLS ".certificates[0].key: must not be empty\n"},
        {CLIENT_TLS("verify_mode: full"),
         "f:6:60: " AT_CLIENT_TLS ".verify_mode: must be one of none, relaxed, strict, not \"full\"\n"},
        {CLIENT_TLS("application_protocols: [h2, '']"),
         "f:6:75: " AT_CLIENT_TLS ".application_protocols[1]: must be 1 to 255 bytes long\n"},
        {CLIENT_TLS("certificates: [{key: k, certificate: c, revocation_list: r}]"),
         "f:6:87: " AT_CLIENT_TLS ".certificates[0].revocation_list: a revocation_list needs an authority beside it\n"},
        {CLIENT_TLS("minimum_version: 1.1"),
         "f:6:64: " AT_CLIENT_TLS ".minimum_version: must be one of 1.2, 1.3, not \"1.1\"; did you mean 1.2?\n"},
        {CLIENT_TLS("server_name: 'a..b'"),
         "f:6:60: " AT_CLIENT_TLS ".server_name: \"a..b\" is not a server name: expected a host name in ASCII or an IP "
         "address, without a port\n"},
        {SERVER_TLS("certificates: [{key: k, certificate: c}], server_name: x"),
         "f:4:87: " AT_SERVER_TLS ".server_name: unknown key; it belongs at "
         "server.proxies[].targets[].tls_context.server_name\n"},
        {PROXY("p", LISTENER, "name: t, address: 'unix:///s', tls_context: {}", ""),
         "f:6:39: " AT_CLIENT_TLS ": verify_mode strict needs a name to verify, and this kind of address has none: set "
         "server_name, authorized_names, or another verify_mode\n"},
        {CLIENT_TLS("application_protocols: h2"),
         "f:6:70: " AT_CLIENT_TLS ".application_protocols: must be a list, not a "
         "single value\n"},
        {PROXY("p", LISTENER, TARGET ", tls_context: ", ""),
         "f:6:33: " AT_CLIENT_TLS ": has no value; give it one, or leave the key out for no TLS\n"},
    };
    assert_all_bad(cases, ARRAY_LENGTH(cases));
}

static void test_targets_under_sni_need_server_names(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {PROXY("p", LISTENER, "name: a b, address: 'h:1'", "connection_load_balancer: sni"),
         "f:6:14: server.proxies[0].targets[0].name: is not a server name, as sni requires: example.com, "
         "*.example.com or *\n"},
        {PROXY("p", LISTENER, "name: a.*.b, address: 'h:1'", "connection_load_balancer: sni"),
         "f:6:14: server.proxies[0].targets[0].name: is not a server name, as sni requires: example.com, "
         "*.example.com or *\n"},
        {PROXY("p", LISTENER, "name: '*.A.b', address: 'h:1'}\n    - {name: '*.a.B', address: 'h:1'",
               "connection_load_balancer: sni"),
         "f:7:14: server.proxies[0].targets[1].name: is the same server name as that of targets[0]\n"},
    };
    assert_all_bad(cases, ARRAY_LENGTH(cases));
}

#define IN(value) PROXY("p", LISTENER ", " value, TARGET, "")
#define OUT(value) PROXY("p", LISTENER, TARGET ", " value, "")
#define AT_IN "server.proxies[0].listener."
#define AT_OUT "server.proxies[0].targets[0]."

static void test_keys_that_no_target_can_be_reached_with_are_told(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {IN("proxy_protocol_sources: [10.0.0.1]"),
         "f:4:31: " AT_IN
         "proxy_protocol_sources: needs proxy_protocol: true; without that it would keep nobody out\n"},
        {IN("proxy_protocol: true, proxy_protocol_sources: []"),
         "f:4:77: " AT_IN
         "proxy_protocol_sources: must have at least one item; leave the key out for no restriction\n"},
        {PROXY("p", "address: unix:///s, proxy_protocol: true, proxy_protocol_sources: [10.0.0.1]", TARGET, ""),
         "f:4:58: " AT_IN "proxy_protocol_sources: clients of a unix:// listener have no IP address to match\n"},
        {IN("proxy_protocoll: true"), "f:4:31: " AT_IN "proxy_protocoll: unknown key; did you mean proxy_protocol?\n"},
        {PROXY("p", LISTENER, TARGET, "enable_proxy_header: true, proxy_header_version: 3"),
         "f:7:64: server.proxies[0].options.proxy_header_version: must be one of 1, 2, not \"3\"; did you mean 1?\n"},
        {PROXY("p", LISTENER, "name: t, address: 'unix:///s', proxy: 'h:1'", ""),
         "f:6:39: " AT_OUT "proxy: a SOCKS5 server connects to TCP addresses only\n"},
        {PROXY("p", LISTENER, "name: t, address: 'tcp://[fe80::1%lo]:1', proxy: 'h:1'", ""),
         "f:6:50: " AT_OUT "proxy: a SOCKS5 server cannot be given an IPv6 address with a zone\n"},
        {OUT("max_fails: 1, fail_timeout: 0"), "f:6:33: " AT_OUT "max_fails: needs a fail_timeout above 0\n"},
        {OUT("max_fails: 1001"), "f:6:44: " AT_OUT "max_fails: must be from 0 to 1000, not 1001\n"},
    };
    assert_all_bad(cases, ARRAY_LENGTH(cases));
}

static void test_wrong_keys_of_periodic_records_are_told(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {OPTION("connection_log: /l, connection_log_interval", "999ms"),
         "f:7:60: server.proxies[0].options.connection_log_interval: is too short: at least 1s\n"},
        {OPTION("connection_log: /l, connection_log_connect", "1s"),
         "f:7:59: server.proxies[0].options.connection_log_connect: must be true or false, not \"1s\"\n"},
        {OPTION("log_probes", "none"),
         "f:7:27: server.proxies[0].options.log_probes: must be true or false, not \"none\"\n"},
    };
    assert_all_bad(cases, ARRAY_LENGTH(cases));
}

// Also those of what is right by itself, so that one look at the list is enough.
static void test_all_problems_are_told_at_once(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {"application: {sentry_dsn: 'https://key@h/1', metrics: {prefix: x.}, lgo: {}}\n" PROXY(
             "p", LISTENER, TARGET ", proxy: 'h:1', read_timeout: soon, resolve_timeout: 1",
             "enable_dual_stack: maybe"),
         "f:1:56: warning: application.metrics.prefix: means nothing without address\n"
         "f:1:69: application.lgo: unknown key; did you mean log?\n"
         "f:7:61: server.proxies[0].targets[0].read_timeout: \"soon\" is not a valid duration: expected one such as "
         "30s, 250ms "
         "or 1h2m3.5s\n"
         "f:7:67: warning: server.proxies[0].targets[0].resolve_timeout: means nothing with proxy: the SOCKS5 server "
         "resolves the name\n"
         "f:8:34: server.proxies[0].options.enable_dual_stack: must be true or false, not \"maybe\"\n"},
        // Where there is nothing to go by.
        {"application: {metrics: {prefix: x.}}\nserver: 5\n",
         "f:1:25: warning: application.metrics.prefix: means nothing without address\n"
         "f:2:9: server: must be a mapping of keys to values, not a single value\n"},
        {"application: []\nserver: {proxies: [5, {targets: 5, options: []}]}\n",
         "f:1:14: application: must be a mapping of keys to values, not a list\n"
         "f:2:20: server.proxies[0]: must be a mapping of keys to values, not a single value\n"
         "f:2:23: server.proxies[1].name: this key is required, but missing\n"
         "f:2:23: server.proxies[1].listener: this key is required, but missing\n"
         "f:2:33: server.proxies[1].targets: must be a list, not a single value\n"
         "f:2:45: server.proxies[1].options: must be a mapping of keys to values, not a list\n"},
    };
    assert_all_bad(cases, ARRAY_LENGTH(cases));
}

static void test_problems_are_in_the_files_order_and_bounded(void **state)
{
    (void)state;
    // The first key is what is checked last: a required key of the root.
    char text[16384];
    size_t used = (size_t)snprintf(text, sizeof text, "application: {log: {\n");
    for (int i = 0; i < 150; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "  key%d: 1,\n", i);
    (void)snprintf(text + used, sizeof text - used, "}}\n");
    struct diagnostics diagnostics;
    assert_null(load(text, &diagnostics));
    assert_int_equal(diagnostics.errors, 151);
    assert_int_equal(diagnostics.kept, DIAGNOSTICS_MAX);
    assert_string_equal(line_of(&diagnostics, 0), "f:1:1: server: this key is required, but missing");
    for (size_t i = 1; i < DIAGNOSTICS_MAX; i++) {
        char line[128];
        (void)snprintf(line, sizeof line, "f:%zu:3: application.log.key%zu: unknown key", i + 1, i - 1);
        assert_string_equal(line_of(&diagnostics, i), line);
    }
    diagnostics_release(&diagnostics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_wrong_structure_is_told),
        cmocka_unit_test(test_wrong_keys_are_told_with_a_suggestion),
        cmocka_unit_test(test_wrong_names_are_told),
        cmocka_unit_test(test_wrong_scalars_are_told),
        cmocka_unit_test(test_addresses_are_asked_for_with_their_use),
        cmocka_unit_test(test_wrong_authorized_sources_are_told),
        cmocka_unit_test(test_incomplete_tls_contexts_are_told),
        cmocka_unit_test(test_targets_under_sni_need_server_names),
        cmocka_unit_test(test_keys_that_no_target_can_be_reached_with_are_told),
        cmocka_unit_test(test_wrong_keys_of_periodic_records_are_told),
        cmocka_unit_test(test_all_problems_are_told_at_once),
        cmocka_unit_test(test_problems_are_in_the_files_order_and_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
