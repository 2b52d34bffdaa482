// Configurations that are right, and say less than they seem to: the lines that warn of them, and of what comes close
// and is no mistake.

#include "config_text.h"

#include <unistd.h>

#include "bitflow/base/compiler.h"

struct hint_case {
    const char *text;
    const char *lines;
};

static void assert_all(const struct hint_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_warnings(cases[i].text, cases[i].lines);
}

#define WRITE_TIMEOUT(value) PROXY("p", LISTENER ", write_timeout: " value, TARGET, "")
#define SECONDS(length, value)                                                                                       \
    "f:4:46: warning: server.proxies[0].listener.write_timeout: a number without a unit is seconds: this is " length \
    "; milliseconds are written " value "ms\n"

static void test_seconds_that_look_like_milliseconds(void **state)
{
    (void)state;
    static const struct hint_case cases[] = {
        {WRITE_TIMEOUT("5000"), SECONDS("1h23m20s", "5000")},
        {WRITE_TIMEOUT("'1000'"), SECONDS("16m40s", "1000")},
        {WRITE_TIMEOUT("1500"), SECONDS("25m", "1500")},
        {WRITE_TIMEOUT("30000"), SECONDS("8h20m", "30000")},
        {WRITE_TIMEOUT("60000"), SECONDS("16h40m", "60000")},
        {WRITE_TIMEOUT("90000"), SECONDS("25h", "90000")},
        {WRITE_TIMEOUT("3600000"), SECONDS("1000h", "3600000")},
        // Round as seconds, or not round at all, or with a unit.
        {WRITE_TIMEOUT("500"), ""},
        {WRITE_TIMEOUT("900"), ""},
        {WRITE_TIMEOUT("1800"), ""},
        {WRITE_TIMEOUT("3600"), ""},
        {WRITE_TIMEOUT("7200"), ""},
        {WRITE_TIMEOUT("36000"), ""},
        {WRITE_TIMEOUT("86400"), ""},
        {WRITE_TIMEOUT("604800"), ""},
        {WRITE_TIMEOUT("5000s"), ""},
        {WRITE_TIMEOUT("5000ms"), ""},
        {WRITE_TIMEOUT("5000.0"), ""},
        {PROXY("p", LISTENER, TARGET ", keepalive_interval: 30000", ""),
         "f:6:53: warning: server.proxies[0].targets[0].keepalive_interval: a number without a unit is seconds: this "
         "is "
         "8h20m; milliseconds are written 30000ms\n"},
        {PROXY("p", LISTENER, TARGET, "connection_limit: 5000"), ""},
    };
    assert_all(cases, ARRAY_LENGTH(cases));
}

#define EXPANDED "is taken as it is written: nothing in this file is expanded\n"
#define LOG(value) PROXY("p", LISTENER, TARGET, "connection_log: " value)
#define AT_LOG "f:7:31: warning: server.proxies[0].options.connection_log: "
#define LISTENING(address) PROXY("p", "address: " address, TARGET, "")
#define AT_ADDRESS "f:4:25: warning: server.proxies[0].listener.address: "
#define SERVER_TLS(value) PROXY("p", LISTENER ", tls_context: {certificates: [{" value "}]}", TARGET, "")
#define AT_KEY "f:4:66: warning: server.proxies[0].listener.tls_context.certificates[0].key: "

static void test_variables_that_nothing_expands(void **state)
{
    (void)state;
    static const struct hint_case cases[] = {
        {LOG("'${LOGS}/web.json'"), AT_LOG "a variable " EXPANDED},
        {LOG("$HOME/web.json"), AT_LOG "a variable " EXPANDED},
        {LOG("/tmp/$(hostname).json"), AT_LOG "a variable " EXPANDED},
        {LOG("'/tmp/${HOST:-a}.json'"), AT_LOG "a variable " EXPANDED},
        {LOG("'/tmp/{{ host }}.json'"), AT_LOG "a variable " EXPANDED},
        {LOG("~/web.json"), AT_LOG "~ " EXPANDED},
        {LOG("~me/web.json"), AT_LOG "~ " EXPANDED},
        {LISTENING("'unix:///run/${NAME}.sock'"), AT_ADDRESS "a variable " EXPANDED},
        {SERVER_TLS("key: ~/k, certificate: c"), AT_KEY "~ " EXPANDED},
        {"application: {metrics: {address: 'h:1', prefix: 'b.${HOSTNAME}'}}\n" PROXY("p", LISTENER, TARGET, ""),
         "f:1:49: warning: application.metrics.prefix: a variable " EXPANDED},
        {PROXY("'${NAME}'", LISTENER, TARGET, ""), "f:3:11: warning: server.proxies[0].name: a variable " EXPANDED},
        // A secret is not repeated.
        {PROXY("p", LISTENER, TARGET ", proxy: 'socks5://me:${SECRET}@h:1'", ""),
         "f:6:40: warning: server.proxies[0].targets[0].proxy: a variable " EXPANDED},
        // What only looks like it.
        {LOG("/tmp/a~"), ""},
        {LOG("/tmp/a$b"), ""},
        {LOG("'/tmp/${}'"), ""},
        {LOG("'/tmp/{a}'"), ""},
        {LOG("~"), ""},
        {PROXY("US$A", LISTENER, TARGET, ""), ""},
        {PROXY("p", LISTENER, TARGET ", proxy: 'socks5://me:a$B@h:1'", ""), ""},
    };
    assert_all(cases, ARRAY_LENGTH(cases));
    assert_problems(
        LISTENING("'${HOST}:80'"),
        "f:4:25: server.proxies[0].listener.address: \"${HOST}:80\": \"${HOST}\" is not a host name\n" AT_ADDRESS
        "a variable " EXPANDED);
    assert_problems(PROXY("p", LISTENER, TARGET, "connection_limit: '${LIMIT}'"),
                    "f:7:33: server.proxies[0].options.connection_limit: must be an integer, not a quoted string\n"
                    "f:7:33: warning: server.proxies[0].options.connection_limit: a variable " EXPANDED);
}

static void test_white_space_that_is_part_of_a_value(void **state)
{
    (void)state;
    static const struct hint_case cases[] = {
        {LOG("'/tmp/web.json '"), AT_LOG "\"/tmp/web.json \" has white space at its end, which is part of it\n"},
        {LOG("' /tmp'"), AT_LOG "\" /tmp\" has white space at its beginning, which is part of it\n" AT_LOG
                                "the directory \" \" does not exist: unless it does by then, the start will fail\n"},
        {LOG("\"/tmp/a\\n\""), AT_LOG "\"/tmp/a\\x0a\" has white space at its end, which is part of it\n"},
        {SERVER_TLS("key: 'k ', certificate: c"), AT_KEY "\"k \" has white space at its end, which is part of it\n"},
        {PROXY("'p '", LISTENER, TARGET, ""),
         "f:3:11: warning: server.proxies[0].name: \"p \" has white space at its end, which is part of it\n"},
        {PROXY("p", LISTENER, TARGET ", tls_context: {application_protocols: [h2, 'a ']}", ""),
         "f:6:75: warning: server.proxies[0].targets[0].tls_context.application_protocols[1]: \"a \" has white space "
         "at "
         "its end, which is part of it\n"},
        {LOG("'/tmp/a b'"), ""},
        {LOG("   /tmp/a   "), ""}, // YAML drops it
        {PROXY("p q", LISTENER, TARGET, ""), ""},
    };
    assert_all(cases, ARRAY_LENGTH(cases));
}

static void test_files_that_cannot_be_made(void **state)
{
    (void)state;
    static const struct hint_case cases[] = {
        {LOG("/nowhere/at/all.json"),
         AT_LOG "the directory \"/nowhere/at\" does not exist: unless it does by then, the start will fail\n"},
        {LOG("nowhere/a.json"),
         AT_LOG "the directory \"nowhere\" does not exist: unless it does by then, the start will fail\n"},
        {LOG("/dev/null/a.json"), AT_LOG "\"/dev/null\" is not a directory: the start will fail\n"},
        {LOG("/dev"), AT_LOG "is a directory, not a file: the start will fail\n"},
        {LISTENING("unix:///nowhere/a.sock"),
         AT_ADDRESS "the directory \"/nowhere\" does not exist: unless it does by then, the start will fail\n"},
        {LISTENING("unix:///dev/null"),
         AT_ADDRESS "what is there is not a socket, and is not replaced: the start will fail\n"},
        {LOG("/a.json"), ""},
        {LOG("a.json"), ""},
        {LOG("/dev/null"), ""},
        {LOG("/dev/a.json"), ""},
        {LISTENING("unix:///dev/a.sock"), ""},
        {LISTENING("unix://@/nowhere/a"), ""},
        {PROXY("p", LISTENER, "name: t, address: 'unix:///nowhere/a.sock'", ""), ""}, // another program's
    };
    assert_all(cases, ARRAY_LENGTH(cases));
}

#define TWO(first, second)                                                                          \
    "server:\n"                                                                                     \
    "  proxies:\n"                                                                                  \
    "  - {name: a, listener: {address: '" first "'}, targets: [{name: t, address: 'unix:///t'}]}\n" \
    "  - {name: b, listener: {address: '" second "'}, targets: [{name: t, address: 'unix:///t'}]}\n"
#define OVERLAP                                                                                                  \
    "f:4:35: warning: server.proxies[1].listener.address: overlaps with that of server.proxies[0]: only one of " \
    "them can be opened, and the start will fail\n"

static void test_listeners_that_overlap(void **state)
{
    (void)state;
    static const struct hint_case cases[] = {
        {TWO(":80", "127.0.0.1:80"), OVERLAP},
        {TWO("127.0.0.1:80", ":80"), OVERLAP},
        {TWO(":80", "[::1]:80"), OVERLAP},
        {TWO(":80", "[::]:80"), OVERLAP},
        {TWO(":80", "0.0.0.0:80"), OVERLAP},
        {TWO(":80", "tcp6://:80"), OVERLAP},
        {TWO(":80", "some.name.example:80"), OVERLAP},
        {TWO("tcp4://:80", "0.0.0.0:80"), OVERLAP},
        {TWO("tcp4://:80", "192.0.2.1:80"), OVERLAP},
        {TWO("tcp4://:80", "tcp4://some.name.example:80"), OVERLAP},
        {TWO("[::]:80", "[2001:db8::1]:80"), OVERLAP},
        {TWO("localhost:80", "127.0.0.1:80"), OVERLAP},
        {TWO("127.0.0.1:80", "tcp4://LOCALHOST.:80"), OVERLAP},
        {TWO("[::1]:80", "localhost:80"), OVERLAP},
        {TWO("0.0.0.0:80", "localhost:80"), OVERLAP},
        // Not both at the same address, or it is not known.
        {TWO(":80", "127.0.0.1:81"), ""},
        {TWO("0.0.0.0:80", "[::]:80"), ""},
        {TWO("tcp4://:80", "tcp6://:80"), ""},
        {TWO("tcp6://:80", "127.0.0.1:80"), ""},
        {TWO("tcp6://:80", "tcp4://localhost:80"), ""},
        {TWO("tcp4://:80", "some.name.example:80"), ""},
        {TWO("tcp4://some.name.example:80", "tcp6://some.name.example:80"), ""},
        {TWO("127.0.0.1:80", "127.0.0.2:80"), ""},
        {TWO("[fe80::1%lo]:80", "[fe80::1%eth0]:80"), ""},
        {TWO(":0", "127.0.0.1:0"), ""},
        {TWO(":80", "unix:///s"), ""},
    };
    assert_all(cases, ARRAY_LENGTH(cases));
}

#define LOOP(listener, target) PROXY("p", "address: '" listener "'", "name: t, address: '" target "'", "")
#define OWN                                                                                                 \
    "f:6:26: warning: server.proxies[0].targets[0].address: is this proxy's own listener: each connection " \
    "would open another one, until none can be opened\n"

static void test_targets_that_are_their_own_listener(void **state)
{
    (void)state;
    static const struct hint_case cases[] = {
        {LOOP("127.0.0.1:80", "127.0.0.1:80"), OWN},
        {LOOP(":80", "127.0.0.1:80"), OWN},
        {LOOP(":80", "127.9.9.9:80"), OWN},
        {LOOP(":80", "[::1]:80"), OWN},
        {LOOP(":80", "[::ffff:127.0.0.1]:80"), OWN},
        {LOOP(":80", "localhost:80"), OWN},
        {LOOP("127.0.0.1:80", "localhost:80"), OWN},
        {LOOP("localhost:80", "127.0.0.1:80"), OWN},
        {LOOP("127.0.0.1:80", "web.localhost:80"), OWN},
        {LOOP("[::1]:80", "tcp6://localhost:80"), OWN},
        {LOOP(":80", "0.0.0.0:80"), OWN},
        {LOOP("127.0.0.1:80", "0.0.0.0:80"), OWN},
        {LOOP("some.name.example:80", "some.name.example:80"), OWN},
        {LOOP("unix:///s", "unix:///s"), OWN},
        {LOOP("unix://@s", "unix://@s"), OWN},
        {LOOP(":80", "127.0.0.1:81"), ""},
        {LOOP("127.0.0.1:80", "127.0.0.2:80"), ""},
        {LOOP("127.0.0.1:80", "tcp6://localhost:80"), ""},
        {LOOP("[::]:80", "127.0.0.1:80"), ""},
        {LOOP("tcp4://:80", "[::1]:80"), ""},
        {LOOP(":80", "192.0.2.1:80"), ""}, // no address of any host
        {LOOP(":80", "some.name.example:80"), ""},
        {LOOP(":80", "notlocalhost:80"), ""},
        {LOOP("unix:///s", "unix://@/s"), ""},
        {PROXY("p", "address: ':80'", "name: t, address: '127.0.0.1:80', proxy: 's:1'", ""), ""},
        {PROXY("p", "address: ':80'", "name: t, address: 'h:1'}\n    - {name: u, address: '127.0.0.1:80'",
               "connection_load_balancer: none"),
         ""},
    };
    assert_all(cases, ARRAY_LENGTH(cases));
}

// What this host calls itself.
static void test_a_target_that_is_its_own_listener_by_the_hosts_name(void **state)
{
    (void)state;
    char name[256];
    char text[1024];
    assert_int_equal(gethostname(name, sizeof name), 0);
    (void)snprintf(text, sizeof text, LOOP("%s:80", "%s:80"), "", name);
    assert_warnings(text, OWN);
    (void)snprintf(text, sizeof text, LOOP("%s:80", "%s:80"), "192.0.2.1", name);
    assert_warnings(text, "");
}

#define PAIR(target, other)                                                                    \
    "server:\n"                                                                                \
    "  proxies:\n"                                                                             \
    "  - {name: a, listener: {address: ':80'}, targets: [{name: t, address: '" target "'}]}\n" \
    "  - {name: b, listener: {address: '[::1]:81'}, targets: [{name: t, address: '" other "'}]}\n"
#define EACH_OTHER \
    "which has this proxy's as a target: each connection would open another one, until none can be opened\n"

static void test_two_proxies_that_lead_to_each_other(void **state)
{
    (void)state;
    static const struct hint_case cases[] = {
        {PAIR("localhost:81", "127.0.0.1:80"),
         "f:3:72: warning: server.proxies[0].targets[0].address: is the listener of server.proxies[1], " EACH_OTHER
         "f:4:77: warning: server.proxies[1].targets[0].address: is the listener of server.proxies[0], " EACH_OTHER},
        {PAIR("localhost:81", "127.0.0.1:82"), ""}, // a chain
    };
    assert_all(cases, ARRAY_LENGTH(cases));
}

#define NEVER " is never reached: connect_timeout, which bounds it, too, is "
#define AT_TARGET "warning: server.proxies[0].targets[0]."

static void test_names_and_bounds_that_are_never_reached(void **state)
{
    (void)state;
    static const struct hint_case cases[] = {
        {PROXY("p", LISTENER, "name: 192.0.2.1, address: 'h:1'", "connection_load_balancer: sni"),
         "f:6:14: " AT_TARGET "name: is an IP address, which clients do not send as a server name: \"*\" is for those "
         "that ask for no target's name\n"},
        {PROXY("p", LISTENER, "name: '::1', address: 'h:1'", "connection_load_balancer: sni"),
         "f:6:14: " AT_TARGET "name: is an IP address, which clients do not send as a server name: \"*\" is for those "
         "that ask for no target's name\n"},
        {PROXY("p", LISTENER, "name: 192.0.2.1, address: 'h:1'", ""), ""},
        {PROXY("p", LISTENER, TARGET ", connect_timeout: 5s, tls_context: {handshake_timeout: 10s}", ""),
         "f:6:68: " AT_TARGET "tls_context.handshake_timeout:" NEVER "5s\n"},
        {PROXY("p", LISTENER, TARGET ", connect_timeout: 5s, proxy: 's:1', proxy_timeout: 6s", ""),
         "f:6:68: " AT_TARGET "proxy_timeout:" NEVER "5s\n"},
        {PROXY("p", LISTENER, TARGET ", connect_timeout: 5s, resolve_timeout: 6s", "enable_dual_stack: true"),
         "f:6:54: " AT_TARGET "resolve_timeout:" NEVER "5s\n"},
        {PROXY("p", LISTENER, TARGET ", connect_timeout: 5s, tls_context: {handshake_timeout: 5s}", ""), ""},
        {PROXY("p", LISTENER, TARGET ", connect_timeout: 5s, tls_context: {}", ""), ""},
        {PROXY("p", LISTENER, TARGET ", tls_context: {handshake_timeout: 30s}", ""), ""},
    };
    assert_all(cases, ARRAY_LENGTH(cases));
}

#define LEVEL(value) "application: {log: {level: " value "}}\n" PROXY("p", LISTENER, TARGET, "")
#define AT_LEVEL "f:1:28: application.log.level: must be one of debug, info, warn, error, not "
#define BALANCER(value) PROXY("p", LISTENER, TARGET, "connection_load_balancer: " value)
#define AT_BALANCER                                                                                            \
    "f:7:41: server.proxies[0].options.connection_load_balancer: must be one of none, failover, round-robin, " \
    "least-connections, sni, not "
#define VERIFY(value) PROXY("p", LISTENER, TARGET ", tls_context: {verify_mode: " value "}", "")
#define AT_VERIFY \
    "f:6:60: server.proxies[0].targets[0].tls_context.verify_mode: must be one of none, relaxed, strict, not "

static void test_words_of_other_programs_are_understood(void **state)
{
    (void)state;
    static const struct hint_case cases[] = {
        {LEVEL("WARN"), AT_LEVEL "\"WARN\"; did you mean warn?\n"},
        {LEVEL("Warning"), AT_LEVEL "\"Warning\"; did you mean warn?\n"},
        {LEVEL("crit"), AT_LEVEL "\"crit\"; did you mean error?\n"},
        {BALANCER("leastconn"), AT_BALANCER "\"leastconn\"; did you mean least-connections?\n"},
        {BALANCER("least_conn"), AT_BALANCER "\"least_conn\"; did you mean least-connections?\n"},
        {BALANCER("roundrobin"), AT_BALANCER "\"roundrobin\"; did you mean round-robin?\n"},
        {BALANCER("ROUND_ROBIN"), AT_BALANCER "\"ROUND_ROBIN\"; did you mean round-robin?\n"},
        {BALANCER("first"), AT_BALANCER "\"first\"; did you mean failover?\n"},
        {BALANCER("prio"), AT_BALANCER "\"prio\"; did you mean failover?\n"},
        {BALANCER("source"), AT_BALANCER "\"source\"\n"},
        {VERIFY("required"), AT_VERIFY "\"required\"; did you mean strict?\n"},
        {VERIFY("optional"), AT_VERIFY "\"optional\"; did you mean relaxed?\n"},
        {VERIFY("crit"), AT_VERIFY "\"crit\"\n"}, // it is not a word of this key
        {PROXY("p", LISTENER, TARGET ", tls_context: {minimum_version: TLSv1.3}", ""),
         "f:6:64: server.proxies[0].targets[0].tls_context.minimum_version: must be one of 1.2, 1.3, not \"TLSv1.3\"; "
         "did you mean 1.3?\n"},
        {PROXY("p", LISTENER ", READ_TIMEOUT: 1s", TARGET, ""),
         "f:4:31: server.proxies[0].listener.READ_TIMEOUT: unknown key; did you mean read_timeout?\n"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_problems(cases[i].text, cases[i].lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seconds_that_look_like_milliseconds),
        cmocka_unit_test(test_variables_that_nothing_expands),
        cmocka_unit_test(test_white_space_that_is_part_of_a_value),
        cmocka_unit_test(test_files_that_cannot_be_made),
        cmocka_unit_test(test_listeners_that_overlap),
        cmocka_unit_test(test_targets_that_are_their_own_listener),
        cmocka_unit_test(test_a_target_that_is_its_own_listener_by_the_hosts_name),
        cmocka_unit_test(test_two_proxies_that_lead_to_each_other),
        cmocka_unit_test(test_names_and_bounds_that_are_never_reached),
        cmocka_unit_test(test_words_of_other_programs_are_understood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
