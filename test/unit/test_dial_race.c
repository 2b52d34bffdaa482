// Dialling names: their endpoints, in order and racing.

#include "dial_rig.h"

// `families`: those of the addresses, in the resolver's order. `fates`: what became of each as the next one began, 's'
// it was silent, 'f' it had failed; the last one's counts for the rest.
static void assert_order(const char *families, enum address_family preferred, const char *fates, const char *wanted)
{
    struct resolved_addresses resolved = {.first = families[0] == '4' ? RESOLVED_IPV4 : RESOLVED_IPV6};
    struct dial_order order = {.preferred = preferred};
    for (size_t i = 0; families[i] != '\0'; i++)
        resolved.counts[families[i] == '4' ? RESOLVED_IPV4 : RESOLVED_IPV6]++;
    char got[64] = "";
    size_t count = 0;
    bool is_silent = false;
    int family;
    while (dial_order_next(&order, &resolved, is_silent, &family)) {
        got[count++] = family == RESOLVED_IPV4 ? '4' : '6';
        order.begun[family]++;
        order.last = family;
        is_silent = *fates == 's';
        if (fates[1] != '\0')
            fates++;
    }
    assert_string_equal(got, wanted);
}

static void test_families_take_turns_as_preferred(void **state)
{
    (void)state;
    static const struct {
        const char *families, *order;
    } rows[] = {
        {"", ""},           {"4", "4"},           {"6", "6"},           {"44", "44"},       {"64", "64"},
        {"46", "46"},       {"664", "646"},       {"6644", "6464"},     {"4466", "4646"},   {"66664", "64666"},
        {"44446", "46444"}, {"646464", "646464"}, {"644466", "646464"}, {"46666", "46666"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        assert_order(rows[i].families, ADDRESS_ANY, "s", rows[i].order);
        assert_order(rows[i].families, ADDRESS_ANY, "f", rows[i].order);
    }
    assert_order("", ADDRESS_IPV4, "f", "");
    assert_order("6464", ADDRESS_IPV4, "f", "4466");
    assert_order("6464", ADDRESS_IPV6, "f", "6644");
    assert_order("4466", ADDRESS_IPV6, "f", "6644");
    assert_order("666", ADDRESS_IPV4, "f", "666");
    assert_order("444", ADDRESS_IPV4, "s", "444");
    // What does not answer costs time, so that the other family is next; what fails does not.
    assert_order("444666", ADDRESS_IPV4, "s", "464646");
    assert_order("444666", ADDRESS_IPV4, "ffs", "444666");
    assert_order("444666", ADDRESS_IPV4, "fsf", "446466");
    assert_order("4466", ADDRESS_IPV6, "s", "6464");
}

// Addresses that come late take their turn.
static void test_late_addresses_take_their_turn(void **state)
{
    (void)state;
    struct resolved_addresses resolved = {.first = RESOLVED_IPV4, .counts = {[RESOLVED_IPV4] = 3}};
    struct dial_order order = {.preferred = ADDRESS_ANY};
    int family = -1;
    assert_true(dial_order_next(&order, &resolved, false, &family));
    assert_int_equal(family, RESOLVED_IPV4);
    order.begun[RESOLVED_IPV4] = 1;
    order.last = RESOLVED_IPV4;
    assert_true(dial_order_next(&order, &resolved, true, &family));
    assert_int_equal(family, RESOLVED_IPV4);
    resolved.counts[RESOLVED_IPV6] = 1;
    assert_true(dial_order_next(&order, &resolved, true, &family));
    assert_int_equal(family, RESOLVED_IPV6);
    order.begun[RESOLVED_IPV4] = 3;
    order.begun[RESOLVED_IPV6] = 1;
    assert_false(dial_order_next(&order, &resolved, true, &family));
}

// The resolver gives the port as the address has it; addresses of 127/8 tell the endpoints of one port apart.
static struct dialled dial_list(const char *const *hosts, size_t count, uint16_t port, int64_t deadline)
{
    set_list(hosts, count, port);
    return dial_text(rig_on_port("list.test", port), deadline);
}

static void test_a_name_is_resolved_and_connected_to(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1"};
    struct endpoint endpoint;
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    struct dialled dialled = dial_list(hosts, 1, rig_port(&endpoint), rig_limit());
    assert_connected(&dialled, listener, &endpoint);
    assert_true(dialled.result.resolve_time > 0);
    (void)close(listener);
    dialled = dial_text("no-name.test:80", rig_limit());
    assert_failure(&dialled, ERROR_RESOLVE, "cannot resolve no-name.test");
    assert_true(dialled.result.resolve_time > 0);
    assert_int_equal(dialled.result.connect_time, 0);
    dialled = dial_text("slow.test:80", deadline_after(300 * NS_PER_MS));
    assert_failure(&dialled, ERROR_TIMEOUT, "cannot resolve slow.test: no answer in time");
    fake_release_to_end(0);
}

// A refusal starts the next one at once, without the delay.
static void test_a_refusal_starts_the_next_address_at_once(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.3", "127.0.0.1"};
    struct endpoint endpoint;
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    struct dialled dialled = dial_list(hosts, 3, rig_port(&endpoint), rig_limit());
    assert_true(dialled.result.connect_time < DIAL_ATTEMPT_DELAY);
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
}

static struct dialled dial_preferring(const char *text, enum address_family preferred, int64_t resolve_timeout)
{
    const struct dial_terms terms = {
        .deadline = rig_limit(), .preferred = preferred, .resolve_timeout = resolve_timeout};
    return dial_text_on(text, &terms);
}

// Both families are there: the preferred one is connected to, and the other one if that does not answer.
static void test_the_preferred_family_is_connected_to_if_it_answers(void **state)
{
    (void)state;
    static const char *const hosts[] = {"[::1]", "127.0.0.1"};
    struct endpoint ipv4, ipv6;
    int listener4 = rig_listen("127.0.0.1:0", &ipv4);
    uint16_t port = rig_port(&ipv4);
    int listener6 = rig_listen(rig_on_port("[::1]", port), &ipv6);
    set_list(hosts, 2, port);
    struct dialled dialled = dial_preferring(rig_on_port("list.test", port), ADDRESS_IPV4, 0);
    assert_connected(&dialled, listener4, &ipv4);
    dialled = dial_preferring(rig_on_port("list.test", port), ADDRESS_IPV6, 0);
    assert_connected(&dialled, listener6, &ipv6);
    (void)close(listener4);
    dialled = dial_preferring(rig_on_port("list.test", port), ADDRESS_IPV4, 0); // refused there
    assert_connected(&dialled, listener6, &ipv6);
    struct black_hole hole = rig_black_hole(rig_on_port("127.0.0.1", port));
    dialled = dial_preferring(rig_on_port("list.test", port), ADDRESS_IPV4, 0);
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY, RIG_LIMIT / 2);
    assert_connected(&dialled, listener6, &ipv6);
    rig_drop_black_hole(&hole);
    (void)close(listener6);
}

static void test_the_resolver_has_a_bound_of_its_own(void **state)
{
    (void)state;
    struct dialled dialled = dial_preferring("slow3001.test:80", ADDRESS_ANY, 50 * NS_PER_MS);
    assert_failure(&dialled, ERROR_RESOLVE, "cannot resolve slow3001.test: no answer in time");
    assert_in_range(dialled.took, 50 * NS_PER_MS, RIG_LIMIT / 2);
    fake_release_to_end(0);
    // Where the deadline is the nearer one, it is what passed.
    const struct dial_terms terms = {.deadline = deadline_after(50 * NS_PER_MS), .resolve_timeout = RIG_LIMIT};
    dialled = dial_text_on("slow3002.test:80", &terms);
    assert_failure(&dialled, ERROR_TIMEOUT, "cannot resolve slow3002.test: no answer in time");
    fake_release_to_end(0);
    // What comes in time is not hurried.
    struct endpoint endpoint;
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    dialled = dial_preferring(rig_on_port("localhost", rig_port(&endpoint)), ADDRESS_IPV4, RIG_LIMIT);
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
}

// One that doesn't answer holds the next one up for the delay only.
static void test_a_silent_address_delays_the_next_by_one_delay(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.1"};
    struct endpoint endpoint;
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    struct black_hole hole = rig_black_hole(rig_on_port("127.0.0.2", rig_port(&endpoint)));
    struct dialled dialled = dial_list(hosts, 2, rig_port(&endpoint), rig_limit());
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY, RIG_LIMIT / 2);
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
    rig_drop_black_hole(&hole);
}

// Two of one family do not answer: the other family is not kept waiting for both.
static void assert_takes_one_delay(enum address_family preferred)
{
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.3", "[::1]"};
    struct endpoint ipv6;
    int listener = rig_listen("[::1]:0", &ipv6);
    uint16_t port = rig_port(&ipv6);
    struct black_hole holes[] = {rig_black_hole(rig_on_port(hosts[0], port)),
                                 rig_black_hole(rig_on_port(hosts[1], port))};
    set_list(hosts, 3, port);
    struct dialled dialled = dial_preferring(rig_on_port("list.test", port), preferred, 0);
    // Second, not third: one delay, not two.
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY, 2 * DIAL_ATTEMPT_DELAY - 1);
    assert_connected(&dialled, listener, &ipv6);
    rig_drop_black_hole(&holes[0]);
    rig_drop_black_hole(&holes[1]);
    (void)close(listener);
}

static void test_two_silent_addresses_do_not_delay_the_other_family(void **state)
{
    (void)state;
    assert_takes_one_delay(ADDRESS_ANY);
}

static void test_a_silent_preferred_family_does_not_delay_the_other(void **state)
{
    (void)state;
    assert_takes_one_delay(ADDRESS_IPV4);
}

static void test_a_failure_of_all_addresses_names_the_last(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "127.0.0.2", "[::1]"};
    struct endpoint endpoint;
    int fd = rig_bind("127.0.0.1:0", &endpoint);
    struct dialled dialled = dial_list(hosts, 3, rig_port(&endpoint), rig_limit());
    assert_failure(&dialled, ERROR_REFUSED, "all 3 addresses failed, the last: cannot connect to 127.0.0.2:");
    assert_int_equal(dialled.error.os_errno, ECONNREFUSED);
    (void)close(fd);
}

static void test_a_timeout_tells_how_many_were_tried(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.1"};
    struct black_hole hole = rig_black_hole("127.0.0.1:0");
    struct dialled dialled = dial_list(hosts, 2, rig_port(&hole.endpoint), deadline_after(60 * NS_PER_MS));
    assert_failure(&dialled, ERROR_TIMEOUT, "2 of 2 addresses tried, 1 failed");
    assert_true(endpoint_equal(&dialled.result.remote, &hole.endpoint));
    rig_drop_black_hole(&hole);
}

static void test_a_client_that_leaves_cancels_the_race(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "127.0.0.2"};
    int client[2];
    struct client_watch watch;
    struct black_hole hole = rig_black_hole("127.0.0.1:0");
    set_list(hosts, 2, rig_port(&hole.endpoint));
    struct address address = rig_address(rig_on_port("list.test", rig_port(&hole.endpoint)), ADDRESS_TO_CONNECT);
    rig_pair(client);
    client_watch_init(&watch, client[0]);
    assert_int_equal(shutdown(client[1], SHUT_WR), 0); // gone after the grace, while both are tried
    struct dialled dialled = dial_for(&address, &watch, rig_limit());
    assert_failure(&dialled, ERROR_CANCELLED, "the client has gone");
    (void)close(client[0]);
    (void)close(client[1]);
    rig_drop_black_hole(&hole);
}

// As many as a name can have, all of them refusing but the last.
static void test_the_last_of_very_many_addresses_is_connected_to(void **state)
{
    (void)state;
    char texts[RESOLVED_ADDRESSES_MAX][16];
    const char *hosts[RESOLVED_ADDRESSES_MAX];
    struct endpoint endpoint;
    for (size_t i = 0; i < RESOLVED_ADDRESSES_MAX; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "127.0.1.%zu", i + 1);
        hosts[i] = texts[i];
    }
    int dead = rig_bind("127.0.0.1:0", &endpoint);
    int listener = rig_listen(rig_on_port(hosts[RESOLVED_ADDRESSES_MAX - 1], rig_port(&endpoint)), &endpoint);
    struct dialled dialled = dial_list(hosts, RESOLVED_ADDRESSES_MAX, rig_port(&endpoint), rig_limit());
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
    (void)close(dead);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families_take_turns_as_preferred),
        cmocka_unit_test(test_late_addresses_take_their_turn),
        cmocka_unit_test(test_a_name_is_resolved_and_connected_to),
        cmocka_unit_test(test_the_preferred_family_is_connected_to_if_it_answers),
        cmocka_unit_test(test_the_resolver_has_a_bound_of_its_own),
        cmocka_unit_test(test_a_refusal_starts_the_next_address_at_once),
        cmocka_unit_test(test_a_silent_address_delays_the_next_by_one_delay),
        cmocka_unit_test(test_two_silent_addresses_do_not_delay_the_other_family),
        cmocka_unit_test(test_a_silent_preferred_family_does_not_delay_the_other),
        cmocka_unit_test(test_a_failure_of_all_addresses_names_the_last),
        cmocka_unit_test(test_a_timeout_tells_how_many_were_tried),
        cmocka_unit_test(test_a_client_that_leaves_cancels_the_race),
        cmocka_unit_test(test_the_last_of_very_many_addresses_is_connected_to),
        cmocka_unit_test(test_no_descriptor_leaks),
    };
    return cmocka_run_group_tests(tests, fake_begin, NULL);
}
