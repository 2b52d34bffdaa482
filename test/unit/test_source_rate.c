// The rate of a source's new connections: a token bucket, on a clock that stands still unless it is moved; what is
// remembered of sources without a connection, and how many of those. And how much of an address makes a source.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/proxy/source_counts.h"
#include "source_endpoint.h"

static int64_t now = 1000 * NS_PER_S;

int still_clock_gettime(clockid_t clock, struct timespec *time) __asm__("clock_gettime");

int still_clock_gettime(clockid_t clock, struct timespec *time)
{
    (void)clock;
    *time = (struct timespec){.tv_sec = now / NS_PER_S, .tv_nsec = now % NS_PER_S};
    return 0;
}

static struct source_counts counts;

static int set_up(void **state)
{
    (void)state;
    source_counts_init(&counts);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    source_counts_release(&counts);
    return 0;
}

static size_t resting(void)
{
    mutex_lock(&counts.lock);
    size_t count = counts.resting_count;
    mutex_unlock(&counts.lock);
    return count;
}

static bool has_any(void)
{
    mutex_lock(&counts.lock);
    bool has_some = counts.sources != NULL;
    mutex_unlock(&counts.lock);
    return has_some;
}

static const struct source_limits four_a_second = {.rate = 4, .burst = 3, .ipv4_prefix = 32, .ipv6_prefix = 64};

static enum close_reason enter(const char *client, const struct source_limits *limits, struct source **source)
{
    struct endpoint endpoint = client_at(client);
    struct error error = ERROR_INIT;
    *source = NULL;
    enum close_reason reason = enter_within(&counts, &endpoint, limits, source, &error);
    assert_int_equal(error.code, ERROR_NONE);
    assert_true((reason == CLOSE_NONE) == (*source != NULL));
    return reason;
}

// One that leaves at once.
static enum close_reason visit(const char *client, const struct source_limits *limits)
{
    struct source *source;
    enum close_reason reason = enter(client, limits, &source);
    source_counts_leave(&counts, &source);
    return reason;
}

static void assert_comes(const char *client, unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        assert_int_equal(visit(client, &four_a_second), CLOSE_NONE);
    assert_int_equal(visit(client, &four_a_second), CLOSE_SOURCE_CONNECTION_RATE);
}

static void test_a_burst_is_let_in_and_then_one_for_each_interval(void **state)
{
    (void)state;
    assert_comes("192.0.2.1:1", 3);
    for (unsigned i = 0; i < 10; i++) // who is refused uses up nothing
        assert_int_equal(visit("192.0.2.1:2", &four_a_second), CLOSE_SOURCE_CONNECTION_RATE);
    assert_comes("192.0.2.2:1", 3); // nobody else is concerned
    now += NS_PER_S / 4 - 1;
    assert_comes("192.0.2.1:1", 0);
    now += 1;
    assert_comes("192.0.2.1:1", 1);
    now += NS_PER_S / 2;
    assert_comes("192.0.2.1:1", 2);
    now += 3600 * NS_PER_S; // no more than the burst is saved
    assert_comes("192.0.2.1:1", 3);
}

static unsigned comes(const char *client, const struct source_limits *limits)
{
    unsigned times = 0;
    while (times < 100 && visit(client, limits) == CLOSE_NONE)
        times++;
    return times;
}

// What is left of the burst counts on, be the limits wider or narrower.
static void test_a_reload_takes_over_what_is_left(void **state)
{
    (void)state;
    static const struct source_limits slow = {.rate = 1, .burst = 10, .ipv4_prefix = 32, .ipv6_prefix = 64};
    static const struct source_limits fast = {.rate = 50, .burst = 20, .ipv4_prefix = 32, .ipv6_prefix = 64};
    assert_int_equal(comes("192.0.2.1:1", &slow), 10);
    assert_int_equal(comes("192.0.2.1:1", &fast), 0);
    now += NS_PER_S / 10;
    assert_int_equal(comes("192.0.2.1:1", &fast), 5);
    now += NS_PER_S;
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(visit("192.0.2.1:1", &fast), CLOSE_NONE);
    assert_int_equal(comes("192.0.2.1:1", &slow), 10); // of the 16 that are left
    now += 4 * NS_PER_S;
    assert_int_equal(comes("192.0.2.1:1", &slow), 4);
}

static void test_a_client_that_something_else_turns_away_uses_up_nothing(void **state)
{
    (void)state;
    struct source *source;
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(enter("192.0.2.1:1", &four_a_second, &source), CLOSE_NONE);
        source_counts_cancel(&counts, &source, &four_a_second);
        assert_null(source);
    }
    assert_comes("192.0.2.1:1", 3);
}

static void test_connections_that_live_use_up_no_more_than_others(void **state)
{
    (void)state;
    struct source *held[6];
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(enter("192.0.2.1:1", &four_a_second, &held[i]), CLOSE_NONE);
    assert_comes("192.0.2.1:1", 0);
    now += NS_PER_S;
    for (unsigned i = 3; i < 6; i++)
        assert_int_equal(enter("192.0.2.1:1", &four_a_second, &held[i]), CLOSE_NONE);
    assert_comes("192.0.2.1:1", 0);
    for (unsigned i = 0; i < 6; i++)
        source_counts_leave(&counts, &held[i]);
    assert_comes("192.0.2.1:1", 0);
}

static void test_who_is_beyond_the_other_limit_uses_up_nothing(void **state)
{
    (void)state;
    struct source_limits both = four_a_second;
    both.connections = 1;
    struct source *held;
    assert_int_equal(enter("192.0.2.1:1", &both, &held), CLOSE_NONE);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(visit("192.0.2.1:1", &both), CLOSE_SOURCE_CONNECTION_LIMIT);
    source_counts_leave(&counts, &held);
    assert_int_equal(visit("192.0.2.1:1", &both), CLOSE_NONE);
    assert_int_equal(visit("192.0.2.1:1", &both), CLOSE_NONE);
    assert_int_equal(visit("192.0.2.1:1", &both), CLOSE_SOURCE_CONNECTION_RATE);
}

// The settings as they are read.
static void test_a_burst_that_is_not_given_is_a_seconds_worth(void **state)
{
    (void)state;
    struct proxy_config settings = {.source_connection_rate = 7, .source_ipv4_prefix = 24, .source_ipv6_prefix = 48};
    struct source_limits limits = source_limits_of(&settings);
    assert_int_equal(limits.connections, 0);
    assert_int_equal(limits.rate, 7);
    assert_int_equal(limits.burst, 7);
    assert_int_equal(limits.ipv4_prefix, 24);
    assert_int_equal(limits.ipv6_prefix, 48);
    settings.source_connection_burst = 2;
    settings.source_connection_limit = 5;
    limits = source_limits_of(&settings);
    assert_int_equal(limits.burst, 2);
    assert_int_equal(limits.connections, 5);
}

static void test_the_largest_settings_do_not_overflow(void **state)
{
    (void)state;
    struct source_limits limits = {.rate = 1, .burst = 1000000, .ipv4_prefix = 32, .ipv6_prefix = 64};
    for (unsigned i = 0; i < 1000000; i++)
        assert_int_equal(visit("192.0.2.1:1", &limits), CLOSE_NONE);
    assert_int_equal(visit("192.0.2.1:1", &limits), CLOSE_SOURCE_CONNECTION_RATE);
    limits.rate = 1000000;
    limits.burst = 1;
    assert_int_equal(visit("192.0.2.2:1", &limits), CLOSE_NONE);
    assert_int_equal(visit("192.0.2.2:1", &limits), CLOSE_SOURCE_CONNECTION_RATE);
    now += 1000;
    assert_int_equal(visit("192.0.2.2:1", &limits), CLOSE_NONE);
}

static void test_a_source_is_forgotten_when_it_has_all_of_its_burst(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        char client[32];
        (void)snprintf(client, sizeof client, "192.0.2.%u:1", i);
        assert_int_equal(visit(client, &four_a_second), CLOSE_NONE);
    }
    assert_int_equal(resting(), 100);
    now += NS_PER_S / 4 - 1;
    assert_int_equal(visit("192.0.2.0:1", &four_a_second), CLOSE_NONE);
    assert_int_equal(resting(), 100);
    // Each that comes makes two be forgotten, until none is left that is not wanted.
    now += NS_PER_S;
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(visit("198.51.100.1:1", &four_a_second), i < 3 ? CLOSE_NONE : CLOSE_SOURCE_CONNECTION_RATE);
    assert_int_equal(resting(), 1);
    // After a reload that has taken the rate away, too.
    now += 3600 * NS_PER_S;
    struct source_limits no_rate = {.connections = 1, .ipv4_prefix = 32, .ipv6_prefix = 64};
    assert_int_equal(visit("198.51.100.2:1", &no_rate), CLOSE_NONE);
    assert_int_equal(resting(), 0);
    assert_false(has_any());
}

static enum close_reason visit_of(unsigned source, bool is_ipv6)
{
    struct endpoint client = client_of(source, is_ipv6);
    struct source *entered = NULL;
    enum close_reason reason = enter_within(&counts, &client, &four_a_second, &entered, NULL);
    source_counts_leave(&counts, &entered);
    return reason;
}

// More sources than are kept: none of them is refused, those that were not seen for the longest time are forgotten, and
// who goes on knocking is not.
static void test_any_number_of_sources_is_let_in_and_a_bounded_one_remembered(void **state)
{
    (void)state;
    enum { MORE = 1000 };
    const char *knocking = "198.51.100.1:1", *away = "198.51.100.2:1";
    assert_comes(knocking, 3);
    assert_comes(away, 3);
    for (unsigned i = 0; i < SOURCES_RESTING_MAX + MORE; i++) {
        assert_int_equal(visit_of(i / 2, i % 2 == 0), CLOSE_NONE);
        if (i % 1000 == 0)
            assert_comes(knocking, 0);
        assert_true(resting() <= SOURCES_RESTING_MAX);
    }
    assert_int_equal(resting(), SOURCES_RESTING_MAX);
    assert_comes(knocking, 0);
    assert_comes(away, 3);
}

// A source with a connection is never forgotten.
static void test_others_do_not_push_out_who_has_a_connection(void **state)
{
    (void)state;
    struct source *held[3];
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(enter("198.51.100.1:1", &four_a_second, &held[i]), CLOSE_NONE);
    for (unsigned i = 0; i < SOURCES_RESTING_MAX + 10; i++)
        assert_int_equal(visit_of(i / 2, i % 2 == 0), CLOSE_NONE);
    assert_comes("198.51.100.1:1", 0);
    for (unsigned i = 0; i < 3; i++)
        source_counts_leave(&counts, &held[i]);
}

static void test_the_prefixes_make_the_source(void **state)
{
    (void)state;
    static const struct {
        const char *one, *other;
        unsigned ipv4_prefix, ipv6_prefix;
        bool is_same;
    } cases[] = {
        {"192.0.2.1:1", "192.0.2.254:1", 24, 64, true},
        {"192.0.2.1:1", "192.0.3.1:1", 24, 64, false},
        {"192.0.2.1:1", "192.0.3.1:1", 23, 64, true},
        {"192.0.2.1:1", "192.0.2.2:1", 31, 64, false},
        {"192.0.2.2:1", "192.0.2.3:1", 31, 64, true},
        {"10.0.0.1:1", "127.0.0.1:1", 1, 64, true},
        {"10.0.0.1:1", "192.0.2.1:1", 1, 64, false},
        {"192.0.2.1:1", "[::ffff:192.0.2.9]:1", 24, 128, true},
        {"[2001:db8::1]:1", "[2001:db8::2]:1", 32, 128, false},
        {"[2001:db8::1]:1", "[2001:db8::1]:2", 32, 128, true},
        {"[2001:db8::2]:1", "[2001:db8::3]:1", 32, 127, true},
        {"[2001:db8:1:200::1]:1", "[2001:db8:1:2ff::1]:1", 32, 56, true},
        {"[2001:db8:1:200::1]:1", "[2001:db8:1:300::1]:1", 32, 56, false},
        {"[2001:db8:1::1]:1", "[2001:db8:1:ffff::1]:1", 32, 48, true},
        {"[2001:db8:1::1]:1", "[2001:db8:2::1]:1", 32, 48, false},
        {"[2001:db8::1]:1", "[7fff::1]:1", 32, 1, true},
        {"[::1]:1", "0.0.0.1:1", 1, 1, false}, // a mapped address is never an IPv6 source
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct source_limits limits = {
            .connections = 1, .ipv4_prefix = cases[i].ipv4_prefix, .ipv6_prefix = cases[i].ipv6_prefix};
        struct source *one, *other;
        assert_int_equal(enter(cases[i].one, &limits, &one), CLOSE_NONE);
        enum close_reason reason = enter(cases[i].other, &limits, &other);
        if ((reason == CLOSE_SOURCE_CONNECTION_LIMIT) != cases[i].is_same)
            fail_msg("%s and %s by %u, %u", cases[i].one, cases[i].other, cases[i].ipv4_prefix, cases[i].ipv6_prefix);
        source_counts_leave(&counts, &other);
        source_counts_leave(&counts, &one);
    }
}

// A reload: who was counted by another length does not stand for a whole network, or for one of its hosts.
static void test_another_prefix_counts_anew(void **state)
{
    (void)state;
    struct source_limits narrow = {.connections = 1, .ipv4_prefix = 32, .ipv6_prefix = 64}, wide = narrow;
    wide.ipv4_prefix = 24;
    struct source *one, *network;
    assert_int_equal(enter("192.0.2.0:1", &narrow, &one), CLOSE_NONE);
    assert_int_equal(enter("192.0.2.0:1", &wide, &network), CLOSE_NONE);
    assert_int_equal(visit("192.0.2.0:1", &narrow), CLOSE_SOURCE_CONNECTION_LIMIT);
    assert_int_equal(visit("192.0.2.7:1", &wide), CLOSE_SOURCE_CONNECTION_LIMIT);
    source_counts_leave(&counts, &one);
    source_counts_leave(&counts, &network);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_burst_is_let_in_and_then_one_for_each_interval, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_reload_takes_over_what_is_left, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_client_that_something_else_turns_away_uses_up_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_connections_that_live_use_up_no_more_than_others, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_who_is_beyond_the_other_limit_uses_up_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_burst_that_is_not_given_is_a_seconds_worth, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_largest_settings_do_not_overflow, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_source_is_forgotten_when_it_has_all_of_its_burst, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_any_number_of_sources_is_let_in_and_a_bounded_one_remembered, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_others_do_not_push_out_who_has_a_connection, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_prefixes_make_the_source, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_another_prefix_counts_anew, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
