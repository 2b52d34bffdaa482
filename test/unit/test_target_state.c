// What is known of targets over reloads: the same state for the same name, address and way to it, the same number of
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
#include "bitflow/proxy/target_state.h"

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

static struct tls_context *const plain[4] = {NULL};

static struct target_config target_of(const char *name, const char *address)
{
    struct target_config target = {.name = name};
    assert_true(address_parse(address, ADDRESS_TO_CONNECT, &target.address, NULL));
    return target;
}

static struct target_state **hold(struct target_list *list, const struct target_config *targets, size_t count)
{
    const struct proxy_config settings = {.targets = targets, .target_count = count};
    return target_list_hold(list, &settings, plain, NULL);
}

static void test_a_target_keeps_its_state(void **state)
{
    (void)state;
    struct target_list list;
    target_list_init(&list);
    const struct target_config before[] = {target_of("a", "h:1"), target_of("b", "h:2"), target_of("c", "h:3")};
    const struct target_config after[] = {target_of("c", "h:3"), target_of("a", "h:4"), target_of("d", "h:2"),
                                          target_of("b", "h:2")};
    struct target_state **old = hold(&list, before, ARRAY_LENGTH(before));
    struct target_state **new = hold(&list, after, ARRAY_LENGTH(after));
    assert_non_null(old);
    assert_non_null(new);
    assert_ptr_equal(new[0], old[2]);
    assert_ptr_equal(new[3], old[1]);
    assert_ptr_not_equal(new[1], old[0]); // another address
    assert_ptr_not_equal(new[2], old[1]); // another name
    atomic_store(&old[1]->place->active, 7);
    target_list_drop(&list, &old, ARRAY_LENGTH(before));
    assert_null(old);
    assert_int_equal(atomic_load(&new[3]->place->active), 7);
    target_list_drop(&list, &new, ARRAY_LENGTH(after));

    // Nobody holds it any more: it is forgotten.
    struct target_state **again = hold(&list, before, ARRAY_LENGTH(before));
    assert_int_equal(atomic_load(&again[1]->place->active), 0);
    target_list_drop(&list, &again, ARRAY_LENGTH(before));
    target_list_drop(&list, &again, ARRAY_LENGTH(before)); // NULL
    target_list_release(&list);
}

// One target, reached in one way after the other.
struct ways {
    struct target_list list;
    struct target_config target;
    struct proxy_config settings;
    struct target_state **first;
};

static void set_up(struct ways *ways)
{
    *ways = (struct ways){.target = target_of("a", "h:1")};
    ways->settings = (struct proxy_config){.targets = &ways->target, .target_count = 1};
    target_list_init(&ways->list);
}

static void assert_new_health(struct ways *ways, struct tls_context *tls, bool is_new)
{
    struct target_state **again = target_list_hold(&ways->list, &ways->settings, &tls, NULL);
    assert_non_null(again);
    assert_ptr_equal(again[0]->place, ways->first[0]->place); // its connections are counted in any case
    assert_int_equal(again[0] != ways->first[0], is_new);
    target_list_drop(&ways->list, &again, 1);
}

static void begin_with(struct ways *ways, struct tls_context *tls)
{
    if (ways->first != NULL)
        target_list_drop(&ways->list, &ways->first, 1);
    ways->first = target_list_hold(&ways->list, &ways->settings, &tls, NULL);
    assert_non_null(ways->first);
    assert_new_health(ways, tls, false);
}

static void tear_down(struct ways *ways)
{
    target_list_drop(&ways->list, &ways->first, 1);
    assert_true(SLIST_EMPTY(&ways->list.places));
    assert_true(LIST_EMPTY(&ways->list.states));
    target_list_release(&ways->list);
}

static void test_health_is_of_the_way_to_it(void **state)
{
    (void)state;
    struct ways ways;
    set_up(&ways);
    begin_with(&ways, NULL);
    ways.target.max_fails = 3; // how it is judged is another matter
    ways.target.connect_timeout = 1;
    assert_new_health(&ways, NULL, false);
    ways.settings.enable_proxy_header = true;
    assert_new_health(&ways, NULL, true);
    begin_with(&ways, NULL);
    ways.settings.proxy_header_version = PROXY_HEADER_VERSION_2;
    assert_new_health(&ways, NULL, true);

    static const char *const servers[] = {"socks5://me:wrong@p:1", "socks5://me:right@p:1", "socks5://me:right@q:1",
                                          NULL};
    for (size_t i = 0; i < ARRAY_LENGTH(servers); i++) {
        begin_with(&ways, NULL);
        ways.target.socks_proxy = servers[i];
        assert_new_health(&ways, NULL, true);
    }
    // Another copy of the same words is the same.
    char copy[] = "socks5://me:wrong@p:1";
    ways.target.socks_proxy = servers[0];
    begin_with(&ways, NULL);
    ways.target.socks_proxy = copy;
    assert_new_health(&ways, NULL, false);
    tear_down(&ways);
}

static void write_authority(const char *path, const char *pem)
{
    FILE *file = fopen(path, "we");
    if (file == NULL)
        fail();
    assert_true(fputs(pem, file) >= 0);
    assert_int_equal(fclose(file), 0);
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
static void test_tls_is_a_part_of_the_way(void **state)
{
    (void)state;
    struct ways ways;
    char path[] = "/tmp/bitflow-target-state-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    write_authority(path, FIRST_AUTHORITY);
    struct certificate_config certificate = {.authority.path = path};
    struct tls_config config = {.verify_mode = VERIFY_STRICT, .certificates = &certificate, .certificate_count = 1};
    struct tls_context *first = load(&config);
    set_up(&ways);
    begin_with(&ways, first);
    assert_new_health(&ways, NULL, true);

    struct tls_context *same = load(&config);
    assert_new_health(&ways, same, false);
    write_authority(path, SECOND_AUTHORITY);
    struct tls_context *renewed = load(&config);
    assert_new_health(&ways, renewed, true);
    write_authority(path, FIRST_AUTHORITY);
    config.server_name = "other.example";
    struct tls_context *renamed = load(&config);
    assert_new_health(&ways, renamed, true);
    config.server_name = NULL;
    config.verify_mode = VERIFY_RELAXED;
    struct tls_context *relaxed = load(&config);
    assert_new_health(&ways, relaxed, true);

    tls_context_destroy(&first);
    tls_context_destroy(&same);
    tls_context_destroy(&renewed);
    tls_context_destroy(&renamed);
    tls_context_destroy(&relaxed);
    (void)unlink(path);
    tear_down(&ways);
}

static int start_tls(void **state)
{
    (void)state;
    return tls_init(NULL) ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_target_keeps_its_state),
        cmocka_unit_test(test_health_is_of_the_way_to_it),
        cmocka_unit_test(test_tls_is_a_part_of_the_way),
    };
    return cmocka_run_group_tests(tests, start_tls, NULL);
}
