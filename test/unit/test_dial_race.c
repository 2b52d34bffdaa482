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

static void test_order(void **state)
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
static void test_order_of_late_addresses(void **state)
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
static struct endpoint on_port(const char *host, uint16_t port)
{
    char text[64];
    struct endpoint endpoint;
    (void)snprintf(text, sizeof text, "%s:%u", host, (unsigned)port);
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    assert_true(endpoint_of_address(&address, &endpoint));
    return endpoint;
}

static struct dialled dial_list(const char *const *hosts, size_t count, uint16_t port, int64_t deadline)
{
    char text[64];
    fake_clear();
    for (size_t i = 0; i < count; i++) {
        struct endpoint endpoint = on_port(hosts[i], port);
        fake_add(&endpoint);
    }
    (void)snprintf(text, sizeof text, "list.test:%u", (unsigned)port);
    return dial_text(text, deadline);
}

static int listen_on(const char *host, uint16_t port, struct endpoint *endpoint)
{
    char text[64];
    (void)snprintf(text, sizeof text, "%s:%u", host, (unsigned)port);
    return rig_listen(text, endpoint);
}

static void test_names(void **state)
{
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
    fake_release_to_end(*(const unsigned *)*state);
}

// A refusal starts the next one at once, without the delay.
static void test_race_first_refuses(void **state)
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
static void test_preferred_family(void **state)
{
    (void)state;
    struct endpoint ipv4, ipv6, silent;
    char text[64];
    int listener4 = rig_listen("127.0.0.1:0", &ipv4);
    (void)snprintf(text, sizeof text, "[::1]:%u", (unsigned)rig_port(&ipv4));
    int listener6 = rig_listen(text, &ipv6);
    fake_clear();
    fake_add(&ipv6);
    fake_add(&ipv4);
    (void)snprintf(text, sizeof text, "list.test:%u", (unsigned)rig_port(&ipv4));
    struct dialled dialled = dial_preferring(text, ADDRESS_IPV4, 0);
    assert_connected(&dialled, listener4, &ipv4);
    dialled = dial_preferring(text, ADDRESS_IPV6, 0);
    assert_connected(&dialled, listener6, &ipv6);
    (void)close(listener4);
    dialled = dial_preferring(text, ADDRESS_IPV4, 0); // refused there
    assert_connected(&dialled, listener6, &ipv6);
    int filler, black_hole = 0;
    (void)snprintf(text, sizeof text, "127.0.0.1:%u", (unsigned)rig_port(&ipv6));
    black_hole = rig_black_hole(text, &silent, &filler);
    (void)snprintf(text, sizeof text, "list.test:%u", (unsigned)rig_port(&ipv6));
    dialled = dial_preferring(text, ADDRESS_IPV4, 0);
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY, RIG_LIMIT / 2);
    assert_connected(&dialled, listener6, &ipv6);
    (void)close(filler);
    (void)close(black_hole);
    (void)close(listener6);
}

static void test_resolver_has_its_own_bound(void **state)
{
    unsigned before = *(const unsigned *)*state;
    struct dialled dialled = dial_preferring("slow3001.test:80", ADDRESS_ANY, 50 * NS_PER_MS);
    assert_failure(&dialled, ERROR_RESOLVE, "cannot resolve slow3001.test: no answer in time");
    assert_in_range(dialled.took, 50 * NS_PER_MS, RIG_LIMIT / 2);
    fake_release_to_end(before);
    // Where the deadline is the nearer one, it is what passed.
    const struct dial_terms terms = {.deadline = deadline_after(50 * NS_PER_MS), .resolve_timeout = RIG_LIMIT};
    dialled = dial_text_on("slow3002.test:80", &terms);
    assert_failure(&dialled, ERROR_TIMEOUT, "cannot resolve slow3002.test: no answer in time");
    fake_release_to_end(before);
    // What comes in time is not hurried.
    struct endpoint endpoint;
    char text[64];
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    (void)snprintf(text, sizeof text, "localhost:%u", (unsigned)rig_port(&endpoint));
    dialled = dial_preferring(text, ADDRESS_IPV4, RIG_LIMIT);
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
}

// One that doesn't answer holds the next one up for the delay only.
static void test_race_first_is_silent(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.1"};
    struct endpoint endpoint, silent;
    int filler, listener = rig_listen("127.0.0.1:0", &endpoint);
    char text[64];
    (void)snprintf(text, sizeof text, "127.0.0.2:%u", (unsigned)rig_port(&endpoint));
    int black_hole = rig_black_hole(text, &silent, &filler);
    struct dialled dialled = dial_list(hosts, 2, rig_port(&endpoint), rig_limit());
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY, RIG_LIMIT / 2);
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
    (void)close(filler);
    (void)close(black_hole);
}

static void test_race_families_take_turns(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.3", "[::1]"};
    struct endpoint ipv6, first, second;
    int fillers[2], listener = rig_listen("[::1]:0", &ipv6), black_holes[2];
    char text[64];
    (void)snprintf(text, sizeof text, "127.0.0.2:%u", (unsigned)rig_port(&ipv6));
    black_holes[0] = rig_black_hole(text, &first, &fillers[0]);
    (void)snprintf(text, sizeof text, "127.0.0.3:%u", (unsigned)rig_port(&ipv6));
    black_holes[1] = rig_black_hole(text, &second, &fillers[1]);
    struct dialled dialled = dial_list(hosts, 3, rig_port(&ipv6), rig_limit());
    // Second, not third: one delay, not two.
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY, 2 * DIAL_ATTEMPT_DELAY - 1);
    assert_connected(&dialled, listener, &ipv6);
    for (int i = 0; i < 2; i++) {
        (void)close(fillers[i]);
        (void)close(black_holes[i]);
    }
    (void)close(listener);
}

// Two of the preferred family do not answer: the other family is not kept waiting for both.
static void test_race_preferred_family_is_silent(void **state)
{
    (void)state;
    struct endpoint ipv6, silent[2];
    int fillers[2], black_holes[2], listener = rig_listen("[::1]:0", &ipv6);
    char text[64];
    fake_clear();
    for (int i = 0; i < 2; i++) {
        (void)snprintf(text, sizeof text, "127.0.0.%d:%u", 2 + i, (unsigned)rig_port(&ipv6));
        black_holes[i] = rig_black_hole(text, &silent[i], &fillers[i]);
        fake_add(&silent[i]);
    }
    fake_add(&ipv6);
    (void)snprintf(text, sizeof text, "list.test:%u", (unsigned)rig_port(&ipv6));
    struct dialled dialled = dial_preferring(text, ADDRESS_IPV4, 0);
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY, 2 * DIAL_ATTEMPT_DELAY - 1);
    assert_connected(&dialled, listener, &ipv6);
    for (int i = 0; i < 2; i++) {
        (void)close(fillers[i]);
        (void)close(black_holes[i]);
    }
    (void)close(listener);
}

static void test_race_all_fail(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "127.0.0.2", "[::1]"};
    struct endpoint endpoint;
    int fd = dead_end("127.0.0.1:0", &endpoint);
    struct dialled dialled = dial_list(hosts, 3, rig_port(&endpoint), rig_limit());
    assert_failure(&dialled, ERROR_REFUSED, "all 3 addresses failed, the last: cannot connect to 127.0.0.2:");
    assert_int_equal(dialled.error.os_errno, ECONNREFUSED);
    (void)close(fd);
}

static void test_race_times_out(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.1"};
    struct endpoint endpoint;
    int filler, black_hole = rig_black_hole("127.0.0.1:0", &endpoint, &filler);
    struct dialled dialled = dial_list(hosts, 2, rig_port(&endpoint), deadline_after(60 * NS_PER_MS));
    assert_failure(&dialled, ERROR_TIMEOUT, "2 of 2 addresses tried, 1 failed");
    assert_true(endpoint_equal(&dialled.result.remote, &endpoint));
    (void)close(filler);
    (void)close(black_hole);
}

static void test_race_is_cancelled(void **state)
{
    (void)state;
    struct endpoint endpoint, other;
    int client[2], filler, black_hole = rig_black_hole("127.0.0.1:0", &endpoint, &filler);
    struct client_watch watch;
    char text[64];
    other = on_port("127.0.0.2", rig_port(&endpoint));
    fake_clear();
    fake_add(&endpoint);
    fake_add(&other);
    (void)snprintf(text, sizeof text, "list.test:%u", (unsigned)rig_port(&endpoint));
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    rig_pair(client);
    client_watch_init(&watch, client[0]);
    assert_int_equal(shutdown(client[1], SHUT_WR), 0); // gone after the grace, while both are tried
    struct dialled dialled = dial_for(&address, &watch, rig_limit());
    assert_failure(&dialled, ERROR_CANCELLED, "the client has gone");
    (void)close(client[0]);
    (void)close(client[1]);
    (void)close(filler);
    (void)close(black_hole);
}

// As many as a name can have, all of them refusing but the last.
static void test_race_of_many(void **state)
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
    int listener = listen_on(hosts[RESOLVED_ADDRESSES_MAX - 1], rig_port(&endpoint), &endpoint);
    struct dialled dialled = dial_list(hosts, RESOLVED_ADDRESSES_MAX, rig_port(&endpoint), rig_limit());
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
    (void)close(dead);
}

static void test_no_descriptor_leaks(void **state)
{
    (void)state;
    const unsigned before = *(const unsigned *)*state;
    int64_t limit = rig_limit();
    while (rig_descriptors() != before && deadline_left(limit) > 0) // a resolver's thread may be about to close its own
        (void)poll(NULL, 0, 1);
    assert_int_equal(rig_descriptors(), before);
}

int main(void)
{
    if (sem_init(&fake_slow, 0, 0) != 0)
        return 1;
    static unsigned before;
    before = rig_descriptors();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_order_of_late_addresses),
        cmocka_unit_test_prestate(test_names, &before),
        cmocka_unit_test(test_preferred_family),
        cmocka_unit_test_prestate(test_resolver_has_its_own_bound, &before),
        cmocka_unit_test(test_race_first_refuses),
        cmocka_unit_test(test_race_first_is_silent),
        cmocka_unit_test(test_race_families_take_turns),
        cmocka_unit_test(test_race_preferred_family_is_silent),
        cmocka_unit_test(test_race_all_fail),
        cmocka_unit_test(test_race_times_out),
        cmocka_unit_test(test_race_is_cancelled),
        cmocka_unit_test(test_race_of_many),
        cmocka_unit_test_prestate(test_no_descriptor_leaks, &before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
