// What is known of targets over reloads: the same health for the same name, address and route, the same number of
// connections for the same name and address; freed with the last holder.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/proxy/proxy.h"
#include "proxy/upstream/health.h"

// Self-signed certificates, for a hundred years.
#define FIRST_AUTHORITY                                                  \
    "-----BEGIN CERTIFICATE-----\n"                                      \
    "MIIBgjCCASmgAwIBAgIUYFl7I96CI7jr5iIQK0GmDEMVTRwwCgYIKoZIzj0EAwIw\n" \
    "FjEUMBIGA1UEAwwLYXV0aG9yaXR5IDEwIBcNMjYxMTI1MTAwMTE2WhgPMjEyNjEx\n" \
    "MDExMDAxMTZaMBYxFDASBgNVBAMMC2F1dGhvcml0eSAxMFkwEwYHKoZIzj0CAQYI\n" \
    "KoZIzj0DAQcDQgAEJRe+FNNfqUQXshJemCXefkjbpFnuOfhXYKFj9F3qSbCBamlS\n" \
    "R5K9atVA2fb/mEy20s+dcV6FsqT9J9iLL/+jbaNTMFEwHQYDVR0OBBYEFNRAx4yE\n" \
    "hTWS5tbGFM8xRKbKuOWmMB8GA1UdIwQYMBaAFNRAx4yEhTWS5tbGFM8xRKbKuOWm\n" \
    "MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDRwAwRAIgXxJ2HF8MvrOlV99p\n" \
    "xxdhcJwd9cXc7LNQcB3B1DDnTEwCIDO7h+ckUNK/IzgzPcx8NWZNQBgP3AN6X/KJ\n" \
    "Tnik95S3\n"                                                         \
    "-----END CERTIFICATE-----\n"

#define SECOND_AUTHORITY                                                 \
    "-----BEGIN CERTIFICATE-----\n"                                      \
    "MIIBgzCCASmgAwIBAgIUfZ0VSqGWpGmCxaFWL6v4wgZAx9kwCgYIKoZIzj0EAwIw\n" \
    "FjEUMBIGA1UEAwwLYXV0aG9yaXR5IDIwIBcNMjYxMTI1MTAwMTE2WhgPMjEyNjEx\n" \
    "MDExMDAxMTZaMBYxFDASBgNVBAMMC2F1dGhvcml0eSAyMFkwEwYHKoZIzj0CAQYI\n" \
    "KoZIzj0DAQcDQgAEUUSDERG5LOmTxfMNDF2/mhlZlFZtsRDWHmF86rwXmTqe5Mjb\n" \
    "uXIsnjFeljJYdCHszOOmnTL8vRKzwJiiKDVafaNTMFEwHQYDVR0OBBYEFCCEA6wg\n" \
    "8Ai8XcOd2fBKFUetoFUQMB8GA1UdIwQYMBaAFCCEA6wg8Ai8XcOd2fBKFUetoFUQ\n" \
    "MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgM4F8HrDfOdjY0Z0Q\n" \
    "zUZzsNTpUxmU93IQv0NTB2cMVFACIQD6qwwhYhxTyGU+7JVvjq7K8stdG09pnHI+\n" \
    "KZSUWqetvg==\n"                                                     \
    "-----END CERTIFICATE-----\n"

static struct target_config target_of(const char *name, const char *address)
{
    struct target_config target = {.name = name};
    assert_true(address_parse(address, ADDRESS_TO_CONNECT, &target.address, NULL));
    return target;
}

struct fixture {
    struct metrics metrics;
    struct proxy *proxy;
};

static void create(struct fixture *fixture)
{
    metrics_init(&fixture->metrics);
    fixture->proxy = proxy_create("web", &fixture->metrics, NULL);
    assert_non_null(fixture->proxy);
}

static void destroy(struct fixture *fixture)
{
    assert_true(LIST_EMPTY(&fixture->proxy->loads));
    assert_true(LIST_EMPTY(&fixture->proxy->healths));
    proxy_drop(&fixture->proxy);
    metrics_release(&fixture->metrics);
}

static struct target hold(struct fixture *fixture, const struct target_config *settings)
{
    const struct proxy_config of_proxy = {.name = "web"};
    struct target target;
    assert_true(target_init(&target, fixture->proxy, &of_proxy, settings, NULL, NULL));
    assert_ptr_equal(target.settings, settings);
    return target;
}

static void test_a_target_keeps_what_is_known_of_it(void **state)
{
    (void)state;
    struct fixture fixture;
    create(&fixture);
    const struct target_config before[] = {target_of("a", "h:1"), target_of("b", "h:2"), target_of("c", "h:3")};
    const struct target_config after[] = {target_of("c", "H:3"), target_of("a", "h:4"), target_of("d", "h:2"),
                                          target_of("b", "h:2")};
    struct target old[ARRAY_LENGTH(before)], new[ARRAY_LENGTH(after)];
    for (size_t i = 0; i < ARRAY_LENGTH(before); i++)
        old[i] = hold(&fixture, &before[i]);
    for (size_t i = 0; i < ARRAY_LENGTH(after); i++)
        new[i] = hold(&fixture, &after[i]);
    assert_ptr_equal(new[0].load, old[2].load);
    assert_ptr_equal(new[0].health, old[2].health);
    assert_ptr_equal(new[3].load, old[1].load);
    assert_ptr_equal(new[3].health, old[1].health);
    assert_ptr_not_equal(new[1].load, old[0].load); // another address
    assert_ptr_not_equal(new[1].health, old[0].health);
    assert_ptr_equal(new[1].metrics, old[0].metrics);
    assert_ptr_not_equal(new[2].load, old[1].load); // another name
    assert_ptr_not_equal(new[2].health, old[1].health);
    target_enter(&old[1]);
    assert_int_equal(atomic_load(&new[3].load->active), 1);
    target_leave(&old[1]);
    target_enter(&new[3]);
    (void)health_note_failure(old[1].health, &(struct health_rule){1, 1}, 1000000);
    for (size_t i = 0; i < ARRAY_LENGTH(before); i++) {
        target_release(&old[i], fixture.proxy);
        assert_null(old[i].load);
    }
    assert_int_equal(atomic_load(&new[3].load->active), 1);
    assert_true(atomic_load(&new[3].health->state) != 0);
    target_leave(&new[3]);
    for (size_t i = 0; i < ARRAY_LENGTH(after); i++)
        target_release(&new[i], fixture.proxy);

    // Nobody holds it any more: it is forgotten.
    struct target again = hold(&fixture, &before[1]);
    assert_true(atomic_load(&again.health->state) == 0);
    target_release(&again, fixture.proxy);
    target_release(&again, fixture.proxy); // zeros
    destroy(&fixture);
}

// One target, reached by one route after the other.
struct routes {
    struct fixture fixture;
    struct target_config settings;
    struct proxy_config of_proxy;
    struct target first;
};

static void set_up(struct routes *routes)
{
    *routes = (struct routes){.settings = target_of("a", "h:1"), .of_proxy.name = "web"};
    create(&routes->fixture);
}

static void assert_new_health(struct routes *routes, struct tls_context *tls, bool is_new)
{
    struct target again;
    assert_true(target_init(&again, routes->fixture.proxy, &routes->of_proxy, &routes->settings, tls, NULL));
    assert_ptr_equal(again.load, routes->first.load); // its connections are counted in any case
    assert_int_equal(again.health != routes->first.health, is_new);
    target_release(&again, routes->fixture.proxy);
}

static void begin_with(struct routes *routes, struct tls_context *tls)
{
    target_release(&routes->first, routes->fixture.proxy);
    assert_true(target_init(&routes->first, routes->fixture.proxy, &routes->of_proxy, &routes->settings, tls, NULL));
    assert_new_health(routes, tls, false);
}

static void tear_down(struct routes *routes)
{
    target_release(&routes->first, routes->fixture.proxy);
    destroy(&routes->fixture);
}

static void test_another_route_has_a_health_of_its_own(void **state)
{
    (void)state;
    struct routes routes;
    set_up(&routes);
    begin_with(&routes, NULL);
    routes.settings.max_fails = 3; // how it is judged is another matter
    routes.settings.connect_timeout = 1;
    assert_new_health(&routes, NULL, false);
    routes.of_proxy.enable_proxy_header = true;
    assert_new_health(&routes, NULL, true);
    begin_with(&routes, NULL);
    routes.of_proxy.proxy_header_version = PROXY_HEADER_VERSION_2;
    assert_new_health(&routes, NULL, true);

    begin_with(&routes, NULL);
    routes.of_proxy.proxy_header_tlvs = PROXY_HEADER_TLV_SSL;
    assert_new_health(&routes, NULL, true);
    begin_with(&routes, NULL);
    routes.of_proxy.proxy_header_pass_tlvs = true;
    assert_new_health(&routes, NULL, true);

    static const char *const servers[] = {"socks5://me:wrong@p:1", "socks5://me:right@p:1", "socks5://me:right@q:1",
                                          NULL};
    for (size_t i = 0; i < ARRAY_LENGTH(servers); i++) {
        begin_with(&routes, NULL);
        routes.settings.socks_proxy = servers[i];
        assert_new_health(&routes, NULL, true);
    }
    // Another copy of the same words is the same.
    char copy[] = "socks5://me:wrong@p:1";
    routes.settings.socks_proxy = servers[0];
    begin_with(&routes, NULL);
    routes.settings.socks_proxy = copy;
    assert_new_health(&routes, NULL, false);
    tear_down(&routes);
}

static void write_authority(const char *path, const char *pem)
{
    FILE *file = fopen(path, "we");
    assert_true(file != NULL && fputs(pem, file) >= 0 && fclose(file) == 0);
}

static struct tls_context *load(const struct tls_config *config)
{
    struct error error = ERROR_INIT;
    struct tls_context *context = tls_context_create(config, TLS_CLIENT, &error);
    if (context == NULL)
        fail_msg("%s", error.text);
    return context;
}

// What its files hold counts, not only what they are called.
static void test_another_tls_context_is_another_route(void **state)
{
    (void)state;
    struct routes routes;
    char path[] = "/tmp/bitflow-target-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    write_authority(path, FIRST_AUTHORITY);
    struct certificate_config certificate = {.authority.path = path};
    struct tls_config config = {.verify_mode = VERIFY_STRICT, .certificates = &certificate, .certificate_count = 1};
    struct tls_context *first = load(&config);
    set_up(&routes);
    begin_with(&routes, first);
    assert_new_health(&routes, NULL, true);

    struct tls_context *same = load(&config);
    assert_new_health(&routes, same, false);
    write_authority(path, SECOND_AUTHORITY);
    struct tls_context *renewed = load(&config);
    assert_new_health(&routes, renewed, true);
    write_authority(path, FIRST_AUTHORITY);
    config.server_name = "other.example";
    struct tls_context *renamed = load(&config);
    assert_new_health(&routes, renamed, true);
    config.server_name = NULL;
    config.verify_mode = VERIFY_RELAXED;
    struct tls_context *relaxed = load(&config);
    assert_new_health(&routes, relaxed, true);

    tls_context_destroy(&first);
    tls_context_destroy(&same);
    tls_context_destroy(&renewed);
    tls_context_destroy(&renamed);
    tls_context_destroy(&relaxed);
    (void)unlink(path);
    tear_down(&routes);
}

static int start_tls(void **state)
{
    (void)state;
    return tls_init(NULL) ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_target_keeps_what_is_known_of_it),
        cmocka_unit_test(test_another_route_has_a_health_of_its_own),
        cmocka_unit_test(test_another_tls_context_is_another_route),
    };
    return cmocka_run_group_tests(tests, start_tls, NULL);
}
