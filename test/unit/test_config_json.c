// A configuration in JSON: what is told of each kind of value, what is left out, and what is secret.

#include <jansson.h>
#include <stdlib.h>

#include "bitflow/config/config_json.h"
#include "config_text.h"

static json_t *json_of(const char *text)
{
    struct diagnostics diagnostics;
    const struct config *config = load(text, &diagnostics);
    assert_non_null(config);
    json_t *json = config_json(config);
    assert_non_null(json);
    config_drop(&config);
    diagnostics_release(&diagnostics);
    return json;
}

// As text, without spaces.
static void assert_told(const json_t *object, const char *key, const char *expected)
{
    const json_t *value = json_object_get(object, key);
    char *text = value == NULL ? strdup("(left out)") : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (strcmp(text, expected) != 0)
        fail_msg("%s: %s, not %s", key, text, expected);
    free(text);
}

static const json_t *proxy_of(const json_t *root)
{
    return json_array_get(json_object_get(json_object_get(root, "server"), "proxies"), 0);
}

static void test_each_kind_of_value_is_told_as_the_file_has_it(void **state)
{
    (void)state;
    json_t *root = json_of(PROXY("web",
                                 "address: '[::1]:80', read_timeout: 90, keepalive_interval: -1, proxy_protocol: true, "
                                 "proxy_protocol_sources: [10.0.0.0/8, '::1']",
                                 "name: t, address: 'h:1', connect_attempts: 7, tls_context: {application_protocols: "
                                 "[h2, http/1.1], certificates: [{authority: /ca.pem}]}",
                                 "connection_limit: 5, connection_load_balancer: failover, enable_proxy_header: true, "
                                 "proxy_header_version: 2, proxy_header_tlvs: [alpn, crc32c]"));
    const json_t *proxy = proxy_of(root), *listener = json_object_get(proxy, "listener");
    const json_t *target = json_array_get(json_object_get(proxy, "targets"), 0);
    const json_t *tls = json_object_get(target, "tls_context"), *options = json_object_get(proxy, "options");
    assert_told(proxy, "name", "\"web\"");
    assert_told(listener, "address", "\"tcp://[::1]:80\"");
    assert_told(listener, "read_timeout", "\"1m30s\"");
    assert_told(listener, "keepalive_interval", "-1");
    assert_told(listener, "proxy_protocol", "true");
    assert_told(listener, "proxy_protocol_sources", "[\"10.0.0.0/8\",\"::1/128\"]");
    assert_told(listener, "authorized_sources", "(left out)");
    assert_told(listener, "tls_context", "(left out)");
    assert_told(listener, "unix_mode", "(left out)");
    assert_told(target, "connect_attempts", "7");
    assert_told(target, "proxy", "(left out)");
    assert_told(tls, "verify_mode", "\"strict\"");
    assert_told(tls, "application_protocols", "[\"h2\",\"http/1.1\"]");
    assert_told(tls, "certificates", "[{\"authority\":\"/ca.pem\"}]");
    assert_told(options, "connection_limit", "5");
    assert_told(options, "source_connection_limit", "(left out)");
    assert_told(options, "connection_load_balancer", "\"failover\"");
    assert_told(options, "proxy_header_tlvs", "[\"alpn\",\"crc32c\"]");
    json_decref(root);
}

static void test_who_is_let_in_is_told_by_names_and_by_numbers(void **state)
{
    (void)state;
    json_t *root =
        json_of(PROXY("web", "address: 'unix:///s', authorized_peers: [user:root, gid:33]",
                      "name: t, address: 'h:1', tls_context: {authorized_names: ['dns:*.a.example', cn:b]}", ""));
    const json_t *proxy = proxy_of(root), *listener = json_object_get(proxy, "listener");
    const json_t *target = json_array_get(json_object_get(proxy, "targets"), 0);
    assert_told(listener, "authorized_peers", "[\"uid:0\",\"gid:33\"]");
    assert_told(json_object_get(target, "tls_context"), "authorized_names", "[\"dns:*.a.example\",\"cn:b\"]");
    json_decref(root);
}

static void test_of_secrets_only_that_they_are_there(void **state)
{
    (void)state;
    json_t *root = json_of("application: {sentry_dsn: 'http://key@h/1'}\n" PROXY(
        "web", LISTENER, TARGET ", proxy: 'socks5://user:sesame@h:1'", ""));
    const json_t *target = json_array_get(json_object_get(proxy_of(root), "targets"), 0);
    assert_told(json_object_get(root, "application"), "sentry_dsn", "\"(secret)\"");
    assert_told(target, "proxy", "\"(secret)\"");
    char *text = json_dumps(root, 0);
    assert_null(strstr(text, "key@"));
    assert_null(strstr(text, "sesame"));
    free(text);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_of_value_is_told_as_the_file_has_it),
        cmocka_unit_test(test_who_is_let_in_is_told_by_names_and_by_numbers),
        cmocka_unit_test(test_of_secrets_only_that_they_are_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
