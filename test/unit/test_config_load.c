// Configurations from text and files: what must be read from good ones, what is kept secret, and what cannot be read.

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "config_text.h"

static const struct config *load_good(const char *text)
{
    struct diagnostics diagnostics;
    const struct config *config = load(text, &diagnostics);
    if (config == NULL)
        fail_msg("%s", line_of(&diagnostics, 0));
    assert_int_equal(diagnostics.errors, 0);
    diagnostics_release(&diagnostics);
    return config;
}

static const char *const bad_socks[] = {
    "s3cret",
    "http://a:1",
    "socks5://",
    "socks5://a",
    "socks5://s3cret%@h:1",
    "'socks5://:s3cret@h:1'",
    "s3cret:p@h:1",
    "socks5://u:s3cret@h",
    "socks5://u:s3cret@h:0",
    "socks5://u:s3cret",
    "socks5://tcp://h:1",
    "socks4://s3cret@h:1",
    "socks5+unix://u:s3cret@h:1",
    "'socks5+unix://u:s3cret@'",
    "socks5://u:s3cret%4@h:1",
    "[s3cret]",
    "\"s3cret\\0:1\"",
};

static const char *const bad_dsns[] = {
    "s3cret",
    "ftp://s3cret@h/1",
    "https://s3cret",
    "https://h/s3cret",
    "https://s3cret@",
    "https://s3cret@h",
    "https://s3cret@h/",
    "https://s3cret@/1",
    "https://s3cret@h:x/1",
    "https://@h/s3cret",
    "https://s3cret@h:0/1",
    "https://s3/cret@h/1",
    "https://s3cret@h@i/1",
    "https://s3cret@h/1?a=b",
    "'https://s3 cret@h/1'",
    "[s3cret]",
};

static void assert_secret_refused(const char *text, const char *where, const char *value)
{
    struct diagnostics diagnostics;
    if (load(text, &diagnostics) != NULL || diagnostics.errors != 1)
        fail_msg("%s: not one problem", value);
    if (strncmp(line_of(&diagnostics, 0), where, strlen(where)) != 0)
        fail_msg("%s: %s", value, line_of(&diagnostics, 0));
    if (strstr(line_of(&diagnostics, 0), "not supported") != NULL)
        fail_msg("%s was accepted", value);
    if (strstr(line_of(&diagnostics, 0), "cret") != NULL)
        fail_msg("%s: the secret is in the message: %s", value, line_of(&diagnostics, 0));
    diagnostics_release(&diagnostics);
}

static void test_secrets_are_not_repeated(void **state)
{
    (void)state;
    char text[1024];
    for (size_t i = 0; i < ARRAY_LENGTH(bad_socks); i++) {
        (void)snprintf(text, sizeof text, PROXY("p", LISTENER, TARGET ", proxy: %s", ""), bad_socks[i]);
        assert_secret_refused(text, "f:6:40: server.proxies[0].targets[0].proxy: ", bad_socks[i]);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(bad_dsns); i++) {
        (void)snprintf(text, sizeof text, "application: {sentry_dsn: %s}\n" PROXY("p", LISTENER, TARGET, ""),
                       bad_dsns[i]);
        assert_secret_refused(text, "f:1:27: application.sentry_dsn: ", bad_dsns[i]);
    }
}

static void test_metrics_keys_are_checked_and_arrive(void **state)
{
    (void)state;
#define METRICS(keys) "application: {metrics: {" keys "}}\n" PROXY("p", LISTENER, TARGET, "")
    static const char wrong[] = "is not a statsd address: expected HOST:PORT, udp://HOST:PORT or unix:///path\n";
    static const char *const addresses[] = {"statsd", "tcp://h:1", "udp://h", "udp://tcp://h:1", "fd://3", "h:0"};
    for (size_t i = 0; i < ARRAY_LENGTH(addresses); i++) {
        char text[512];
        char lines[512];
        (void)snprintf(text, sizeof text, METRICS("address: \"%s\""), addresses[i]);
        (void)snprintf(lines, sizeof lines, "f:1:34: application.metrics.address: \"%s\" %s", addresses[i], wrong);
        assert_problems(text, lines);
    }
    assert_problems(METRICS("prefix: 'a b'"),
                    "f:1:25: warning: application.metrics.prefix: means nothing without address\n"
                    "f:1:33: application.metrics.prefix: \"a b\" must be printable ASCII without "
                    "spaces and without any of :|@#,;=\n");
    assert_problems(METRICS("prefix: 'a:b'"),
                    "f:1:25: warning: application.metrics.prefix: means nothing without address\n"
                    "f:1:33: application.metrics.prefix: \"a:b\" must be printable ASCII without "
                    "spaces and without any of :|@#,;=\n");
    assert_warnings(METRICS("prefix: x."),
                    "f:1:25: warning: application.metrics.prefix: means nothing without address\n");
    assert_warnings(METRICS("tag_format: influxdb"),
                    "f:1:25: warning: application.metrics.tag_format: means nothing without address\n");
    assert_problems(METRICS("address: 'h:1', tag_format: influx"),
                    "f:1:53: application.metrics.tag_format: must be one of none, dogstatsd, influxdb, not \"influx\"; "
                    "did you mean influxdb?\n");
    const struct config *config = load_good(METRICS("address: 'h:1', prefix: x, tag_format: dogstatsd"));
    assert_string_equal(config->metrics_address, "h:1");
    assert_string_equal(config->metrics_prefix, "x");
    assert_int_equal(config->metrics_tag_format, METRICS_TAGS_DOGSTATSD);
    config_drop(&config);
}

static void test_sentry_keys_are_checked_and_arrive(void **state)
{
    (void)state;
#define SENTRY(keys) "application: {" keys "}\n" PROXY("p", LISTENER, TARGET, "")
    static const char wrong[] = "is not an environment name: expected 1 to 64 visible ASCII characters without '/', "
                                "and not None\n";
    static const char *const environments[] = {"None", "a b", "a/b"};
    for (size_t i = 0; i < ARRAY_LENGTH(environments); i++) {
        char text[512], lines[512];
        (void)snprintf(text, sizeof text, SENTRY("sentry_dsn: 'http://k@h/1', sentry_environment: \"%s\""),
                       environments[i]);
        (void)snprintf(lines, sizeof lines, "f:1:63: application.sentry_environment: \"%s\" %s", environments[i],
                       wrong);
        assert_problems(text, lines);
    }
    assert_warnings(SENTRY("sentry_environment: a, sentry_authority: b"),
                    "f:1:15: warning: application.sentry_environment: means nothing without sentry_dsn\n"
                    "f:1:38: warning: application.sentry_authority: means nothing without sentry_dsn\n");
    assert_warnings(
        SENTRY("sentry_dsn: 'http://k@h/1', sentry_authority: b"),
        "f:1:43: warning: application.sentry_authority: means nothing without TLS: the sentry_dsn is not https\n");
    const struct config *config =
        load_good(SENTRY("sentry_dsn: 'https://k@h/1', sentry_environment: test, sentry_authority: /a.pem"));
    assert_string_equal(config->sentry_dsn, "https://k@h/1");
    assert_string_equal(config->sentry_environment, "test");
    assert_string_equal(config->sentry_authority.path, "/a.pem");
    config_drop(&config);
}

static void test_files_are_watched_unless_that_is_not_wanted(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "application: {watch_files: false, watch_configuration: true}\n"};
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        char text[512];
        (void)snprintf(text, sizeof text, "%s" PROXY("p", LISTENER, TARGET, ""), texts[i]);
        const struct config *config = load_good(text);
        assert_int_equal(config->watch_files, i == 0);
        assert_int_equal(config->watch_configuration, i == 1);
        config_drop(&config);
    }
    assert_problems("application: {watch_files: yes}\n" PROXY("p", LISTENER, TARGET, ""),
                    "f:1:28: application.watch_files: must be true or false, not yes; did you mean true?\n");
}

static void test_a_configuration_is_compared_with_its_file(void **state)
{
    (void)state;
    char path[] = "/tmp/bitflow-config-XXXXXX";
    int fd = mkstemp(path);
    const char text[] = PROXY("p", LISTENER, TARGET, "");
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    const struct config *config = load_good(text);
    assert_true(config_is_same(config, path));
    assert_int_equal(write(fd, " ", 1), 1);
    assert_false(config_is_same(config, path));
    assert_int_equal(unlink(path), 0);
    assert_false(config_is_same(config, path));
    (void)close(fd);
    config_drop(&config);
}

static void test_every_valid_syntax_passes(void **state)
{
    (void)state;
    static const char *const socks[] = {"h:1",
                                        "127.0.0.1:1080",
                                        "'[::1]:1'",
                                        "socks5://h:1",
                                        "socks5://u:p@h:1",
                                        "socks5://u:p:q@r@h:1",
                                        "'socks5://u:p@[::1]:1'",
                                        "unix:///run/socks.sock",
                                        "socks5+unix://u:p@/run/socks.sock"};
    static const char *const dsns[] = {"https://k@h/1", "http://k@h:8080/1", "https://k:s@h/a/b/1",
                                       "'https://k@[::1]:1/1'", "'https://k@[::1]/1'"};
    static const char *const metrics[] = {"h:1", "udp://h:1", "udp://[::1]:1", "unix:///run/statsd.sock",
                                          "unix://@statsd"};
    char text[1024];
    for (size_t i = 0; i < ARRAY_LENGTH(socks); i++) {
        (void)snprintf(text, sizeof text, PROXY("p", LISTENER, TARGET ", proxy: %s", ""), socks[i]);
        const struct config *config = load_good(text);
        assert_non_null(config->proxies[0].targets[0].socks_proxy);
        config_drop(&config);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(dsns); i++) {
        (void)snprintf(text, sizeof text, "application: {sentry_dsn: %s}\n" PROXY("p", LISTENER, TARGET, ""), dsns[i]);
        const struct config *config = load_good(text);
        assert_non_null(config->sentry_dsn);
        config_drop(&config);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(metrics); i++) {
        (void)snprintf(text, sizeof text, METRICS("address: '%s'"), metrics[i]);
        const struct config *config = load_good(text);
        assert_string_equal(config->metrics_address, metrics[i]);
        config_drop(&config);
    }
}

static void test_what_is_left_out_has_its_default(void **state)
{
    (void)state;
    const struct config *config = load_good(PROXY("p", LISTENER, TARGET, ""));
    assert_null(config->sentry_dsn);
    assert_null(config->metrics_address);
    assert_null(config->metrics_prefix);
    assert_int_equal(config->metrics_tag_format, METRICS_TAGS_NONE);
    assert_int_equal(config->log_level, LOG_OFF);
    assert_int_equal(config->drain_delay, 0);
    assert_true(config->drain_timeout == 25 * NS_PER_S);
    assert_false(config->upgrade_in_place);
    assert_int_equal(config->scheduling, THREAD_SCHEDULING_BATCH);
    assert_true(config->carriers);
    assert_int_equal(config->proxy_count, 1);
    const struct proxy_config *proxy = config->proxies;
    assert_string_equal(proxy->name, "p");
    assert_int_equal(proxy->listener.address.kind, ADDRESS_TCP);
    assert_int_equal(proxy->listener.address.port, 1);
    assert_int_equal(proxy->listener.read_timeout, 0);
    assert_int_equal(proxy->listener.write_timeout, 0);
    assert_int_equal(proxy->listener.authorized_source_count, 0);
    assert_false(proxy->listener.proxy_protocol);
    assert_int_equal(proxy->listener.proxy_protocol_source_count, 0);
    assert_true(proxy->listener.proxy_protocol_timeout == 3 * NS_PER_S);
    assert_null(proxy->listener.tls);
    assert_int_equal(proxy->connection_limit, 0);
    assert_int_equal(proxy->source_connection_limit, 0);
    assert_int_equal(proxy->connection_lifetime, 0);
    assert_null(proxy->connection_log);
    assert_false(proxy->connection_log_connect);
    assert_int_equal(proxy->connection_log_interval, 0);
    assert_true(proxy->log_probes);
    assert_int_equal(proxy->balancer, BALANCER_NONE);
    assert_false(proxy->enable_proxy_header);
    assert_int_equal(proxy->proxy_header_version, PROXY_HEADER_VERSION_1);
    assert_false(proxy->enable_dual_stack);
    assert_int_equal(proxy->target_count, 1);
    const struct target_config *target = proxy->targets;
    assert_string_equal(target->name, "t");
    assert_string_equal(target->address.host, "h");
    assert_null(target->socks_proxy);
    assert_true(target->proxy_timeout == 10 * NS_PER_S);
    assert_int_equal(target->connect_backoff, 0);
    assert_int_equal(target->connect_attempts, 1);
    assert_int_equal(target->connect_timeout, 0);
    assert_int_equal(target->resolve_timeout, 0);
    assert_int_equal(target->max_fails, 0);
    assert_true(target->fail_timeout == 10 * NS_PER_S);
    assert_int_equal(target->write_timeout, 0);
    assert_int_equal(target->read_timeout, 0);
    assert_int_equal(target->keepalive_interval, 0);
    assert_int_equal(target->tcp_user_timeout, 0);
    assert_int_equal(proxy->listener.keepalive_interval, 0);
    assert_int_equal(proxy->listener.tcp_user_timeout, 0);
    assert_int_equal(proxy->half_close_timeout, 0);
    assert_null(target->tls);
    config_drop(&config);
    assert_null(config);
    config_drop(&config);
}

static const char everything[] = "application:\n"
                                 "  sentry_dsn: ~\n"
                                 "  log: {level: warn}\n"
                                 "server:\n"
                                 "  drain_delay: 3s\n"
                                 "  drain_timeout: 0\n"
                                 "  upgrade_in_place: true\n"
                                 "  scheduling: normal\n"
                                 "  carriers: false\n"
                                 "  proxies:\n"
                                 "  - name: one\n"
                                 "    listener:\n"
                                 "      address: unix://@in\n"
                                 "      read_timeout: 1m\n"
                                 "      write_timeout: '2'\n"
                                 "    targets:\n"
                                 "    - &first\n"
                                 "      name: 1\n"
                                 "      address: tcp6://[::1]:81\n"
                                 "      connect_backoff: 100ms\n"
                                 "      connect_attempts: 1000\n"
                                 "      connect_timeout: 0.25\n"
                                 "      write_timeout: 3s\n"
                                 "      read_timeout: 4s\n"
                                 "      keepalive_interval: -1\n"
                                 "      tcp_user_timeout: 1.5\n"
                                 "      proxy: socks5://user:p@ss:word@socks:1080\n"
                                 "      proxy_timeout: 6s\n"
                                 "      resolve_timeout: 5s\n"
                                 "      max_fails: 2\n"
                                 "      fail_timeout: 1m\n"
                                 "    - {name: b, address: 'fd://out', keepalive_interval: '90'}\n"
                                 "    options:\n"
                                 "      connection_limit: 9223372036854775807\n"
                                 "      source_connection_limit: 1\n"
                                 "      connection_lifetime: 1h\n"
                                 "      half_close_timeout: 7s\n"
                                 "      connection_log: log/one.json\n"
                                 "      connection_log_connect: true\n"
                                 "      connection_log_interval: 90s\n"
                                 "      log_probes: false\n"
                                 "      connection_load_balancer: round-robin\n"
                                 "      enable_dual_stack: true\n"
                                 "      enable_proxy_header: True\n"
                                 "      proxy_header_version: 2\n"
                                 "  - name: \"\xc3\xa4\\tz\"\n";

static void test_every_value_arrives(void **state)
{
    (void)state;
    char text[2048];
    // The tab makes the last name wrong; what follows puts that right.
    (void)snprintf(text, sizeof text, "%s", everything);
    char *tab = strstr(text, "\\t");
    assert_non_null(tab);
    memcpy(tab, " _", 2);
    size_t used = strlen(text);
    (void)snprintf(text + used, sizeof text - used,
                   "    listener: {address: '127.0.0.1:0', authorized_sources: [10.0.0.0/8, '::1'],\n"
                   "      proxy_protocol: true, proxy_protocol_sources: [10.0.0.1], proxy_protocol_timeout: 0,\n"
                   "      keepalive_interval: 9s, tcp_user_timeout: 8s}\n"
                   "    targets: [*first]\n"
                   "    options: ~\n");
    const struct config *config = load_good(text);
    assert_null(config->sentry_dsn);
    assert_int_equal(config->log_level, LOG_WARN);
    assert_true(config->drain_delay == 3 * NS_PER_S && config->drain_timeout == 0 && config->upgrade_in_place);
    assert_true(config->scheduling == THREAD_SCHEDULING_NORMAL && !config->carriers);
    assert_int_equal(config->proxy_count, 2);

    const struct proxy_config *one = &config->proxies[0];
    assert_string_equal(one->name, "one");
    assert_int_equal(one->listener.address.kind, ADDRESS_UNIX);
    assert_true(one->listener.read_timeout == 60 * NS_PER_S);
    assert_true(one->listener.write_timeout == 2 * NS_PER_S);
    assert_true(one->connection_limit == INT64_MAX);
    assert_true(one->source_connection_limit == 1);
    assert_true(one->connection_lifetime == 3600 * NS_PER_S);
    assert_true(one->half_close_timeout == 7 * NS_PER_S);
    assert_string_equal(one->connection_log, "log/one.json");
    assert_true(one->connection_log_connect);
    assert_true(one->connection_log_interval == 90 * NS_PER_S);
    assert_false(one->log_probes);
    assert_int_equal(one->balancer, BALANCER_ROUND_ROBIN);
    assert_true(one->enable_dual_stack && one->enable_proxy_header);
    assert_int_equal(one->proxy_header_version, PROXY_HEADER_VERSION_2);
    assert_int_equal(one->target_count, 2);
    assert_int_equal(one->targets[1].address.kind, ADDRESS_FD);
    assert_true(one->targets[1].keepalive_interval == 90 * NS_PER_S);

    const struct proxy_config *two = &config->proxies[1];
    assert_string_equal(two->name, "\xc3\xa4 _z");
    assert_int_equal(two->listener.authorized_source_count, 2);
    assert_int_equal(two->listener.authorized_sources[0].prefix_bits, 8);
    assert_int_equal(two->listener.authorized_sources[1].prefix_bits, 128);
    assert_true(two->listener.proxy_protocol);
    assert_int_equal(two->listener.proxy_protocol_source_count, 1);
    assert_int_equal(two->listener.proxy_protocol_timeout, 0);
    assert_true(two->listener.keepalive_interval == 9 * NS_PER_S && two->listener.tcp_user_timeout == 8 * NS_PER_S);
    assert_int_equal(two->target_count, 1);
    for (size_t i = 0; i < 2; i++) { // the alias is the same again
        const struct target_config *target = &config->proxies[i].targets[0];
        assert_string_equal(target->name, "1");
        assert_int_equal(target->address.family, ADDRESS_IPV6);
        assert_int_equal(target->address.port, 81);
        assert_true(target->connect_backoff == 100 * NS_PER_MS);
        assert_int_equal(target->connect_attempts, 1000);
        assert_true(target->connect_timeout == 250 * NS_PER_MS);
        assert_true(target->write_timeout == 3 * NS_PER_S);
        assert_true(target->read_timeout == 4 * NS_PER_S);
        assert_true(target->keepalive_interval == KEEPALIVE_OFF);
        assert_true(target->tcp_user_timeout == 1500 * NS_PER_MS);
        assert_string_equal(target->socks_proxy, "socks5://user:p@ss:word@socks:1080");
        assert_true(target->proxy_timeout == 6 * NS_PER_S);
        assert_true(target->resolve_timeout == 5 * NS_PER_S);
        assert_int_equal(target->max_fails, 2);
        assert_true(target->fail_timeout == 60 * NS_PER_S);
    }
    config_drop(&config);
}

static void test_a_snapshot_lives_as_long_as_it_is_held(void **state)
{
    (void)state;
    const struct config *config = load_good(PROXY("p", LISTENER, TARGET, ""));
    const struct config *held = config_hold(config);
    assert_ptr_equal(held, config);
    config_drop(&config);
    assert_string_equal(held->proxies[0].name, "p"); // under the address sanitizer
    config_drop(&held);
}

static void test_two_listeners_on_free_ports_are_two(void **state)
{
    (void)state;
    const struct config *config =
        load_good("server:\n  proxies:\n"
                  "  - {name: a, listener: {address: ':0'}, targets: [{name: t, address: 'h:1'}]}\n"
                  "  - {name: b, listener: {address: ':0'}, targets: [{name: t, address: 'h:1'}]}\n");
    config_drop(&config);
}

static void assert_file_problem(const char *path, const char *why)
{
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, path);
    assert_null(config_load(path, &diagnostics));
    assert_int_equal(diagnostics.errors, 1);
    char line[512];
    (void)snprintf(line, sizeof line, "%s: %s", path, why);
    assert_string_equal(line_of(&diagnostics, 0), line);
    diagnostics_release(&diagnostics);
}

static void test_a_file_that_cannot_be_read_is_told_of(void **state)
{
    (void)state;
    char directory[] = "/tmp/bitflow-config-XXXXXX";
    assert_non_null(mkdtemp(directory));
    char path[64];
    (void)snprintf(path, sizeof path, "%s/c.yaml", directory);
    assert_file_problem(path, "cannot read: No such file or directory");
    assert_file_problem(directory, "cannot read: Is a directory");
    assert_file_problem("/dev/zero", "cannot read: it is a device, not a file or a pipe");

    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_true(fputs(PROXY("p", LISTENER, TARGET, ""), file) >= 0);
    assert_int_equal(fflush(file), 0);
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, path);
    const struct config *config = config_load(path, &diagnostics);
    assert_non_null(config);
    config_drop(&config);

    assert_int_equal(ftruncate(fileno(file), 10000000), 0);
    assert_file_problem(path, "too large: a configuration is limited to 1 MiB");
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0), 0);
    if (access(path, R_OK) != 0) // or CAP_DAC_OVERRIDE reads anything
        assert_file_problem(path, "cannot read: Permission denied");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(directory), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_secrets_are_not_repeated),
        cmocka_unit_test(test_metrics_keys_are_checked_and_arrive),
        cmocka_unit_test(test_sentry_keys_are_checked_and_arrive),
        cmocka_unit_test(test_files_are_watched_unless_that_is_not_wanted),
        cmocka_unit_test(test_a_configuration_is_compared_with_its_file),
        cmocka_unit_test(test_every_valid_syntax_passes),
        cmocka_unit_test(test_what_is_left_out_has_its_default),
        cmocka_unit_test(test_every_value_arrives),
        cmocka_unit_test(test_a_snapshot_lives_as_long_as_it_is_held),
        cmocka_unit_test(test_two_listeners_on_free_ports_are_two),
        cmocka_unit_test(test_a_file_that_cannot_be_read_is_told_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
