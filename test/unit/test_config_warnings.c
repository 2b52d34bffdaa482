// Keys and targets without an effect: the lines that they are told in.

#include "config_text.h"

#include "bitflow/base/compiler.h"
#include "bitflow/config/warnings.h"

struct lines {
    char text[2000];
    size_t length;
};

static void take(void *argument, const char *line)
{
    struct lines *lines = argument;
    lines->length += (size_t)snprintf(lines->text + lines->length, sizeof lines->text - lines->length, "%s\n", line);
    assert_true(lines->length < sizeof lines->text);
}

static void assert_warnings(const char *text, const char *wanted)
{
    struct config_problems problems;
    const struct config *config = load(text, &problems);
    struct lines lines = {.length = 0};
    if (config == NULL)
        fail_msg("%s\n%s", text, problems.lines[0]);
    config_warn("f", config, take, &lines);
    assert_string_equal(lines.text, wanted);
    config_drop(&config);
    config_problems_release(&problems);
}

#define AT "f:6:33: warning: server.proxies[0].targets[0]."
#define AT_SOURCE_LIMIT "f:7:15: warning: server.proxies[0].options.source_connection_limit: "
#define SOCKS ", proxy: 's:1'"
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
     AT "resolve_timeout: means nothing beside proxy: the SOCKS5 server resolves the name\n"},
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

#define SPARE TARGET "}\n    - {name: spare, address: 'h:2'"
#define UNUSED                                                                                                   \
    "f:5:5: warning: server.proxies[0].targets: only the first is used without connection_load_balancer; write " \
    "none there if it is to be so\n"

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

static void test_targets_without_a_balancer(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(balancers); i++)
        assert_warnings(balancers[i].text, balancers[i].lines);
}

static void test_each(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        assert_warnings(cases[i].text, cases[i].lines);
}

static void test_the_place_is_told(void **state)
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
                    "f:14:5: warning: server.proxies[1].targets: only the first is used without "
                    "connection_load_balancer; write none there if it is to be so\n"
                    "f:10:7: warning: server.proxies[1].targets[1].resolve_timeout: means nothing without "
                    "enable_dual_stack: true; connect_timeout bounds the look-up, too\n"
                    "f:9:7: warning: server.proxies[1].targets[1].proxy_timeout: means nothing without proxy\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each),
        cmocka_unit_test(test_targets_without_a_balancer),
        cmocka_unit_test(test_the_place_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
