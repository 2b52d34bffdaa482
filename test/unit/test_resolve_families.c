// Resolving where one family is preferred: the order, and a name server that answers for one of them only.

#include "bitflow/base/compiler.h"
#include "bitflow/net/resolve.h"
#include "fake_resolver.h"

static struct patience nobody(void)
{
    struct patience patience;
    patience_init(&patience, -1);
    return patience;
}

static void assert_endpoint(const struct endpoint *endpoint, const char *expected)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    assert_string_equal(text, expected);
}

static struct endpoint endpoint_of(const char *text)
{
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    struct endpoint endpoint;
    assert_true(endpoint_of_address(&address, &endpoint));
    return endpoint;
}

static unsigned descriptors_at_start;

static bool resolve_families(const char *text, enum address_family preferred, int64_t deadline,
                             struct resolution *resolution, struct error *error)
{
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    struct patience patience = nobody();
    return resolve_preferring(&address, preferred, &patience, deadline, resolution, error);
}

// The families of list.test are added in this order: "4", "6", "46", ...; what comes, in which order.
static void assert_families(const char *name, const char *families, enum address_family preferred, const char *order)
{
    fake_clear();
    for (size_t i = 0; families[i] != '\0'; i++) {
        char text[64];
        (void)snprintf(text, sizeof text, families[i] == '4' ? "192.0.2.%zu:9" : "[2001:db8::%zu]:9", i + 1);
        struct endpoint endpoint = endpoint_of(text);
        fake_add(&endpoint);
    }
    struct resolution resolution;
    struct error error = ERROR_INIT;
    if (!resolve_families(name, preferred, rig_limit(), &resolution, &error))
        fail_msg("%s %s: %s", name, families, error.text);
    assert_int_equal(resolution.count, strlen(order));
    for (size_t i = 0; i < resolution.count; i++) {
        char text[64];
        (void)snprintf(text, sizeof text, families[order[i] - '0'] == '4' ? "192.0.2.%d:80" : "[2001:db8::%d]:80",
                       order[i] - '0' + 1);
        assert_endpoint(&resolution.endpoints[i], text);
    }
}

static void test_preferred_family(void **state)
{
    (void)state;
    assert_families("list.test:80", "4646", ADDRESS_IPV4, "0213");
    assert_families("list.test:80", "4646", ADDRESS_IPV6, "1302");
    assert_families("list.test:80", "4646", ADDRESS_ANY, "0123");
    assert_families("list.test:80", "44", ADDRESS_IPV6, "01");
    assert_families("list.test:80", "6", ADDRESS_IPV4, "0");
    assert_families("tcp4://list.test:80", "46", ADDRESS_IPV6, "0");
    assert_families("tcp6://list.test:80", "46", ADDRESS_IPV4, "1");

    struct resolution resolution;
    struct error error = ERROR_INIT;
    assert_false(resolve_families("no-name.test:80", ADDRESS_IPV6, rig_limit(), &resolution, &error));
    assert_int_equal(error.code, ERROR_RESOLVE);
    assert_string_equal(error.text, "cannot resolve no-name.test: Name or service not known");
    assert_true(resolve_families("192.0.2.7:80", ADDRESS_IPV6, rig_limit(), &resolution, &error));
    assert_endpoint(&resolution.endpoints[0], "192.0.2.7:80");
    assert_false(resolve_families("localhost:80", ADDRESS_IPV6, clock_now(), &resolution, &error));
    assert_string_equal(error.text, "cannot resolve no-name.test: Name or service not known"); // the first one set
}

// A name server that answers for one family and never for the other.
static void test_a_family_that_is_late(void **state)
{
    (void)state;
    struct resolution resolution;
    struct error error = ERROR_INIT;
    // The other one has a moment to come, no more.
    int64_t start = clock_now();
    assert_families("late6.test:80", "46", ADDRESS_IPV4, "0");
    assert_in_range(clock_now() - start, RESOLVE_DELAY, RIG_LIMIT / 2);
    fake_release_to_end(descriptors_at_start);
    // The preferred one is waited for until the deadline; then the other one counts.
    start = clock_now();
    assert_true(resolve_families("late4.test:80", ADDRESS_IPV4, deadline_after(300 * NS_PER_MS), &resolution, &error));
    assert_in_range(clock_now() - start, 300 * NS_PER_MS, RIG_LIMIT / 2);
    assert_int_equal(resolution.count, 1);
    assert_endpoint(&resolution.endpoints[0], "[2001:db8::2]:80");
    fake_release_to_end(descriptors_at_start);
    // Neither has come; one that has no addresses does not help.
    fake_clear();
    assert_false(resolve_families("late6.test:80", ADDRESS_IPV4, deadline_after(100 * NS_PER_MS), &resolution, &error));
    assert_int_equal(error.code, ERROR_TIMEOUT);
    assert_string_equal(error.text, "cannot resolve late6.test: no answer in time");
    fake_release_to_end(descriptors_at_start);
}

static void test_the_client_leaves_two_look_ups(void **state)
{
    (void)state;
    int pair[2];
    struct address address = rig_address("late4.test:80", ADDRESS_TO_CONNECT);
    struct patience patience;
    struct resolution resolution;
    struct error error = ERROR_INIT;
    fake_clear();
    rig_pair(pair);
    patience_init(&patience, pair[0]);
    socket_reset(pair[1]);
    assert_false(resolve_preferring(&address, ADDRESS_IPV6, &patience, rig_limit(), &resolution, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    (void)close(pair[0]);
    fake_release_to_end(descriptors_at_start);
}

int main(void)
{
    if (sem_init(&fake_slow, 0, 0) != 0)
        return 1;
    descriptors_at_start = rig_descriptors();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_preferred_family),
        cmocka_unit_test(test_a_family_that_is_late),
        cmocka_unit_test(test_the_client_leaves_two_look_ups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
