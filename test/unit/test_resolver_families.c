// Resolving for who can begin with some of the addresses: the order, and name servers that answer for one family only,
// or late.

#include "bitflow/base/compiler.h"
#include "bitflow/net/resolver.h"
#include "fake_resolver.h"
#include "net/resolver_job.h"

// What list.test and its like have: "46" is 192.0.2.1 and 2001:db8::2, in this order.
static void set_list(const char *families)
{
    fake_clear();
    for (size_t i = 0; families[i] != '\0'; i++) {
        char text[64];
        (void)snprintf(text, sizeof text, families[i] == '4' ? "192.0.2.%zu:9" : "[2001:db8::%zu]:9", i + 1);
        struct endpoint endpoint = rig_endpoint(text);
        fake_add(&endpoint);
    }
}

// One asker.
struct asker {
    struct address address;
    struct resolver_query query;
    struct resolved_addresses resolved;
    struct error error;
    int64_t took;
};

static bool await(struct asker *asker, const char *text, enum address_family preferred, int64_t resolve_timeout,
                  int64_t deadline)
{
    const struct resolver_query_terms terms = {.preferred = preferred, .resolve_timeout = resolve_timeout};
    int64_t start = clock_now();
    asker->address = rig_address(text, ADDRESS_TO_CONNECT);
    asker->error = ERROR_INIT;
    bool good = resolver_query_begin(&asker->query, &asker->address, &terms, deadline, &asker->error) &&
                resolver_query_await(&asker->query, rig_nobody(), &asker->resolved, &asker->error);
    asker->took = clock_now() - start;
    return good;
}

static void assert_counts(const struct asker *asker, size_t ipv4, size_t ipv6, int first)
{
    if (asker->error.code != ERROR_NONE)
        fail_msg("%s", asker->error.text);
    assert_int_equal(asker->resolved.counts[RESOLVED_IPV4], ipv4);
    assert_int_equal(asker->resolved.counts[RESOLVED_IPV6], ipv6);
    assert_int_equal(asker->resolved.first, first);
}

static void assert_family(const struct asker *asker, int family, size_t at, const char *expected)
{
    struct endpoint endpoint, wanted = rig_endpoint(expected);
    resolved_endpoint(&asker->resolved, family, at, 80, &endpoint);
    assert_true(endpoint_equal(&endpoint, &wanted));
}

static void release(struct asker *asker)
{
    resolver_query_release(&asker->query);
    fake_release_to_end(0);
}

// What is known at once costs one look-up, and the system tells the order.
static void test_what_is_known_at_once_costs_one_look_up(void **state)
{
    (void)state;
    static const struct {
        const char *text, *families;
        enum address_family preferred;
        size_t ipv4, ipv6;
        int first;
    } rows[] = {
        {"list.test:80", "4646", ADDRESS_ANY, 2, 2, RESOLVED_IPV4},
        {"list.test:80", "6446", ADDRESS_ANY, 2, 2, RESOLVED_IPV6},
        {"list.test:80", "46", ADDRESS_IPV6, 1, 1, RESOLVED_IPV4},
        {"list.test:80", "44", ADDRESS_IPV6, 2, 0, RESOLVED_IPV4},
        {"list.test:80", "6", ADDRESS_IPV4, 0, 1, RESOLVED_IPV6},
        {"tcp4://one.test:80", "64", ADDRESS_IPV6, 1, 0, RESOLVED_IPV4},
        {"tcp6://one.test:80", "46", ADDRESS_IPV4, 0, 1, RESOLVED_IPV6},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct asker asker;
        int calls = atomic_load(&fake_list_calls);
        set_list(rows[i].families);
        assert_true(await(&asker, rows[i].text, rows[i].preferred, 0, rig_limit()));
        assert_counts(&asker, rows[i].ipv4, rows[i].ipv6, rows[i].first);
        struct pollfd descriptors[RESOLVER_DESCRIPTORS_MAX];
        assert_int_equal(resolver_query_descriptors(&asker.query, descriptors), 0);
        assert_true(resolver_query_advance(&asker.query, &asker.resolved) == DEADLINE_NONE);
        assert_true(resolver_query_worth_until(&asker.query) == 0);
        release(&asker);
        if (asker.took < RESOLVER_SPLIT)
            assert_int_equal(atomic_load(&fake_list_calls), calls + 1);
    }
}

static void test_addresses_of_a_family_keep_their_order(void **state)
{
    (void)state;
    struct asker asker;
    set_list("4646");
    assert_true(await(&asker, "list.test:80", ADDRESS_ANY, 0, rig_limit()));
    assert_family(&asker, RESOLVED_IPV4, 0, "192.0.2.1:80");
    assert_family(&asker, RESOLVED_IPV4, 1, "192.0.2.3:80");
    assert_family(&asker, RESOLVED_IPV6, 0, "[2001:db8::2]:80");
    assert_family(&asker, RESOLVED_IPV6, 1, "[2001:db8::4]:80");
    release(&asker);
}

static void test_a_failure_is_told_in_words(void **state)
{
    (void)state;
    struct asker asker;
    assert_false(await(&asker, "no-name.test:80", ADDRESS_IPV6, 0, rig_limit()));
    assert_int_equal(asker.error.code, ERROR_RESOLVE);
    assert_string_equal(asker.error.text, "cannot resolve no-name.test: Name or service not known");
    release(&asker);
    assert_false(await(&asker, "localhost:80", ADDRESS_IPV6, 0, clock_now()));
    assert_int_equal(asker.error.code, ERROR_TIMEOUT);
    assert_string_equal(asker.error.text, "cannot resolve localhost: no time is left");
    release(&asker);
}

// Whoever drops questions for one family holds up nobody: A has come, AAAA has the Resolution Delay.
static void test_ipv6_that_does_not_come_costs_one_delay(void **state)
{
    (void)state;
    struct asker asker;
    set_list("46");
    assert_true(await(&asker, "late6.test:80", ADDRESS_ANY, 0, rig_limit()));
    assert_counts(&asker, 1, 0, RESOLVED_IPV4);
    assert_in_range(asker.took, RESOLVER_SPLIT + RESOLVER_DELAY, RIG_LIMIT / 2);
    // Who asks while the question is an old one already does not wait for it again. (A busy machine may take as long.)
    int64_t limit = rig_limit(), least = INT64_MAX;
    while (least >= RESOLVER_DELAY && deadline_left(limit) > 0) {
        struct asker second;
        assert_true(await(&second, "late6.test:80", ADDRESS_ANY, 0, rig_limit()));
        assert_counts(&second, 1, 0, RESOLVED_IPV4);
        least = second.took < least ? second.took : least;
        resolver_query_release(&second.query);
    }
    assert_true(least < RESOLVER_DELAY);
    release(&asker);
}

// A question that is never answered is not asked again and again, as long as the other one is answered.
static void test_what_does_not_come_is_not_asked_for_again(void **state)
{
    (void)state;
    struct asker first;
    set_list("46");
    assert_true(await(&first, "late6.test:80", ADDRESS_ANY, 0, rig_limit()));
    (void)poll(NULL, 0, (int)(RESOLVER_RETRY / NS_PER_MS) + 1); // now it could be
    int64_t limit = rig_limit();
    for (bool is_known = false; !is_known && deadline_left(limit) > 0;) {
        struct asker next;
        int calls = atomic_load(&fake_slow_calls);
        assert_true(await(&next, "late6.test:80", ADDRESS_ANY, 0, rig_limit()));
        is_known = next.took < RESOLVER_DELAY; // on a busy machine it may take as long, and is asked again
        if (is_known)
            assert_int_equal(atomic_load(&fake_slow_calls), calls);
        resolver_query_release(&next.query);
    }
    release(&first);
}

// AAAA came first: that is where to begin.
static void test_ipv6_is_begun_with_when_ipv4_does_not_come(void **state)
{
    (void)state;
    struct asker asker;
    set_list("46");
    assert_true(await(&asker, "late4.test:80", ADDRESS_ANY, 0, rig_limit()));
    assert_counts(&asker, 0, 1, RESOLVED_IPV6);
    assert_true(asker.query.hold_until == 0); // it was not waited for
    release(&asker);
}

// A name of one family, whose look-up of both hangs: "none" is an answer for the other one.
static void test_a_hanging_look_up_of_both_is_replaced_by_one_of_each(void **state)
{
    (void)state;
    struct asker asker;
    set_list("4");
    assert_true(await(&asker, "whole.test:80", ADDRESS_ANY, 0, rig_limit()));
    assert_counts(&asker, 1, 0, RESOLVED_IPV4);
    assert_true(resolver_query_worth_until(&asker.query) == 0); // nothing more will come
    release(&asker);
    set_list("46");
    assert_true(await(&asker, "whole.test:80", ADDRESS_ANY, 0, rig_limit()));
    assert_true(asker.resolved.counts[RESOLVED_IPV6] == 1);
    release(&asker);
}

// The preferred family is waited for, if nothing else says so for a moment; then the other one will do.
static void test_the_preferred_family_is_waited_for_for_a_moment(void **state)
{
    (void)state;
    struct asker asker;
    set_list("46");
    assert_true(await(&asker, "late6.test:80", ADDRESS_IPV6, 0, rig_limit()));
    assert_counts(&asker, 1, 0, RESOLVED_IPV4);
    assert_in_range(asker.took, RESOLVER_PREFERRED_DELAY, RIG_LIMIT / 2);
    release(&asker);
    assert_true(await(&asker, "late4.test:80", ADDRESS_IPV4, 600 * NS_PER_MS, rig_limit()));
    assert_counts(&asker, 0, 1, RESOLVED_IPV6);
    assert_in_range(asker.took, 600 * NS_PER_MS, RIG_LIMIT / 2);
    release(&asker);
    assert_true(await(&asker, "late6.test:80", ADDRESS_IPV4, 0, rig_limit())); // the other one is not waited for
    assert_counts(&asker, 1, 0, RESOLVED_IPV4);
    assert_true(asker.query.hold_until == 0);
    release(&asker);
}

// What has come by the deadline counts, also where more was hoped for.
static void test_what_has_come_by_the_deadline_counts(void **state)
{
    (void)state;
    struct asker asker;
    set_list("46");
    assert_true(await(&asker, "late4.test:80", ADDRESS_IPV4, 0, deadline_after(150 * NS_PER_MS)));
    assert_counts(&asker, 0, 1, RESOLVED_IPV6);
    assert_in_range(asker.took, 150 * NS_PER_MS, RIG_LIMIT / 2);
    release(&asker);
    set_list("");
    assert_false(await(&asker, "late6.test:80", ADDRESS_IPV4, 0, deadline_after(100 * NS_PER_MS)));
    assert_int_equal(asker.error.code, ERROR_TIMEOUT);
    assert_string_equal(asker.error.text, "cannot resolve late6.test: no answer in time");
    release(&asker);
}

// An answer that comes when connecting has begun is added.
static void test_an_answer_that_comes_late_is_added(void **state)
{
    (void)state;
    struct asker asker;
    set_list("46");
    assert_true(await(&asker, "late6.test:80", ADDRESS_ANY, 0, rig_limit()));
    assert_counts(&asker, 1, 0, RESOLVED_IPV4);
    int64_t worth = resolver_query_worth_until(&asker.query);
    assert_in_range(worth, clock_now(), clock_now() + RESOLVER_LATE);
    for (int i = atomic_load(&fake_waiting); i > 0; i--)
        fake_release();
    int64_t limit = rig_limit(), next = 0;
    while (next != DEADLINE_NONE && deadline_left(limit) > 0) {
        struct pollfd descriptors[RESOLVER_DESCRIPTORS_MAX];
        size_t count = resolver_query_descriptors(&asker.query, descriptors);
        assert_true(count > 0);
        (void)client_watch_poll(rig_nobody(), descriptors, count, limit);
        next = resolver_query_advance(&asker.query, &asker.resolved);
    }
    assert_counts(&asker, 1, 1, asker.resolved.first); // each address once
    assert_family(&asker, RESOLVED_IPV6, 0, "[2001:db8::2]:80");
    assert_true(resolver_query_worth_until(&asker.query) == 0);
    release(&asker);
}

// A lost packet costs a second, not the C library's five.
static void test_a_lost_packet_costs_a_second(void **state)
{
    (void)state;
    struct asker asker;
    set_list("4");
    fake_lose(1);
    assert_true(await(&asker, "tcp4://lost.test:80", ADDRESS_ANY, 0, rig_limit()));
    assert_counts(&asker, 1, 0, RESOLVED_IPV4);
    assert_in_range(asker.took, NS_PER_S, RIG_LIMIT / 2);
    release(&asker);
}

static void test_a_client_that_leaves_ends_the_look_up(void **state)
{
    (void)state;
    int pair[2];
    struct asker asker = {.address = rig_address("late4.test:80", ADDRESS_TO_CONNECT)};
    const struct resolver_query_terms terms = {.preferred = ADDRESS_IPV6};
    struct client_watch watch;
    fake_clear();
    rig_pair(pair);
    client_watch_init(&watch, pair[0]);
    socket_reset(pair[1]);
    assert_true(resolver_query_begin(&asker.query, &asker.address, &terms, rig_limit(), &asker.error));
    assert_false(resolver_query_await(&asker.query, &watch, &asker.resolved, &asker.error));
    assert_int_equal(asker.error.code, ERROR_CANCELLED);
    (void)close(pair[0]);
    release(&asker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_known_at_once_costs_one_look_up),
        cmocka_unit_test(test_addresses_of_a_family_keep_their_order),
        cmocka_unit_test(test_a_failure_is_told_in_words),
        cmocka_unit_test(test_ipv6_that_does_not_come_costs_one_delay),
        cmocka_unit_test(test_what_does_not_come_is_not_asked_for_again),
        cmocka_unit_test(test_ipv6_is_begun_with_when_ipv4_does_not_come),
        cmocka_unit_test(test_a_hanging_look_up_of_both_is_replaced_by_one_of_each),
        cmocka_unit_test(test_the_preferred_family_is_waited_for_for_a_moment),
        cmocka_unit_test(test_what_has_come_by_the_deadline_counts),
        cmocka_unit_test(test_an_answer_that_comes_late_is_added),
        cmocka_unit_test(test_a_lost_packet_costs_a_second),
        cmocka_unit_test(test_a_client_that_leaves_ends_the_look_up),
    };
    return cmocka_run_group_tests(tests, fake_begin, NULL);
}
