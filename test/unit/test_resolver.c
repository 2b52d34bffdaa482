// Resolving: what needs no look-up, what the resolver answers, and giving up on one that doesn't.

#include <pthread.h>
#include <sys/resource.h>

#include "bitflow/base/compiler.h"
#include "bitflow/net/resolver.h"
#include "fake_resolver.h"

static struct client_watch nobody(void)
{
    struct client_watch watch;
    client_watch_init(&watch, -1);
    return watch;
}

static bool resolve_text(const char *text, int64_t deadline, struct resolved_addresses *resolved, struct error *error)
{
    struct address address = rig_address(text, ADDRESS_TO_LISTEN);
    struct client_watch watch = nobody();
    return resolve(&address, &watch, deadline, resolved, error);
}

static void assert_endpoint(const struct endpoint *endpoint, const char *expected)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    assert_string_equal(text, expected);
}

// The `at`-th address, those of the family that comes first before the other ones.
static void assert_address(const struct resolved_addresses *resolved, size_t at, uint16_t port, const char *expected)
{
    struct endpoint endpoint;
    size_t count = resolved->counts[resolved->first];
    assert_true(at < resolved_count(resolved));
    if (at < count)
        resolved_endpoint(resolved, resolved->first, at, port, &endpoint);
    else
        resolved_endpoint(resolved, 1 - resolved->first, at - count, port, &endpoint);
    assert_endpoint(&endpoint, expected);
}

static void test_a_literal_needs_no_look_up(void **state)
{
    (void)state;
    static const struct {
        const char *address, *endpoint;
    } rows[] = {
        {"127.0.0.1:80", "127.0.0.1:80"},
        {"[::1]:80", "[::1]:80"},
        {":80", "[::]:80"},
        {"tcp4://:80", "0.0.0.0:80"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct resolved_addresses resolved;
        // Even when no time is left.
        assert_true(resolve_text(rows[i].address, clock_now(), &resolved, NULL));
        assert_int_equal(resolved_count(&resolved), 1);
        assert_address(&resolved, 0, 80, rows[i].endpoint);
    }
}

static void test_localhost_is_resolved(void **state)
{
    (void)state;
    struct resolved_addresses resolved;
    struct error error = ERROR_INIT;
    if (!resolve_text("tcp4://localhost:8080", rig_limit(), &resolved, &error))
        fail_msg("%s", error.text);
    assert_int_equal(resolved_count(&resolved), 1); // named twice or not in /etc/hosts
    assert_address(&resolved, 0, 8080, "127.0.0.1:8080");
    assert_true(resolve_text("localhost:1", DEADLINE_NONE, &resolved, NULL));
    assert_true(resolved_count(&resolved) >= 1);
}

static void test_addresses_come_in_order_once_and_of_the_wanted_family(void **state)
{
    (void)state;
    static const char *const list[] = {"[2001:db8::1]:9", "192.0.2.1:9", "[2001:db8::1]:9", "192.0.2.2:9",
                                       "192.0.2.1:9"};
    static const struct {
        const char *address;
        const char *endpoints[4];
    } rows[] = {
        {"list.test:80", {"[2001:db8::1]:80", "192.0.2.1:80", "192.0.2.2:80", NULL}},
        {"tcp4://one.test:80", {"192.0.2.1:80", "192.0.2.2:80", NULL, NULL}},
        {"tcp6://one.test:443", {"[2001:db8::1]:443", NULL, NULL, NULL}},
    };
    fake_clear();
    for (size_t i = 0; i < ARRAY_LENGTH(list); i++) {
        struct endpoint endpoint = rig_endpoint(list[i]);
        fake_add(&endpoint);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct resolved_addresses resolved;
        size_t expected = 0;
        assert_true(resolve_text(rows[i].address, rig_limit(), &resolved, NULL));
        while (rows[i].endpoints[expected] != NULL)
            expected++;
        assert_int_equal(resolved_count(&resolved), expected);
        for (size_t j = 0; j < expected; j++)
            assert_address(&resolved, j, i == 2 ? 443 : 80, rows[i].endpoints[j]);
    }
}

// Those of one family leave room for the other.
static void test_addresses_of_one_family_leave_room_for_the_other(void **state)
{
    (void)state;
    fake_clear();
    for (int i = 0; i < RESOLVED_ADDRESSES_MAX + 5; i++) {
        char text[32];
        (void)snprintf(text, sizeof text, "192.0.2.%d:9", i + 1);
        struct endpoint endpoint = rig_endpoint(text);
        fake_add(&endpoint);
    }
    struct endpoint other = rig_endpoint("[2001:db8::1]:9");
    fake_add(&other);
    struct resolved_addresses resolved;
    assert_true(resolve_text("list.test:80", rig_limit(), &resolved, NULL));
    assert_int_equal(resolved_count(&resolved), RESOLVED_ADDRESSES_MAX + 1);
    assert_address(&resolved, RESOLVED_ADDRESSES_MAX - 1, 80, "192.0.2.32:80");
    assert_address(&resolved, RESOLVED_ADDRESSES_MAX, 80, "[2001:db8::1]:80");
}

static void test_a_failure_is_told_in_words(void **state)
{
    (void)state;
    static const struct {
        const char *address;
        enum error_code code;
        const char *text;
    } rows[] = {
        {"no-name.test:80", ERROR_RESOLVE, "cannot resolve no-name.test: Name or service not known"},
        {"again.test:80", ERROR_RESOLVE, "cannot resolve again.test: Temporary failure in name resolution"},
        {"fail.test:80", ERROR_RESOLVE, "cannot resolve fail.test: Non-recoverable failure in name resolution"},
        {"memory.test:80", ERROR_NO_MEMORY, "cannot resolve memory.test: Memory allocation failure"},
        {"system.test:80", ERROR_NO_DESCRIPTORS, "cannot resolve system.test: Too many open files"},
        {"[fe80::1%nosuchif]:80", ERROR_RESOLVE, "cannot resolve fe80::1%nosuchif: there is no such network interface"},
        {"fd://3", ERROR_INVALID, "only names and IP addresses are resolved"},
        {"unix:///x", ERROR_INVALID, "only names and IP addresses are resolved"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        static struct resolved_addresses resolved, untouched;
        struct error error = ERROR_INIT;
        memset(&resolved, 0x5a, sizeof resolved);
        memcpy(&untouched, &resolved, sizeof resolved);
        assert_false(resolve_text(rows[i].address, rig_limit(), &resolved, &error));
        assert_int_equal(error.code, rows[i].code);
        assert_string_equal(error.text, rows[i].text);
        assert_memory_equal(&resolved, &untouched, sizeof resolved);
        assert_false(resolve_text(rows[i].address, rig_limit(), &resolved, NULL));
    }
}

static void test_a_look_up_ends_at_its_deadline(void **state)
{
    (void)state;
    struct resolved_addresses resolved;
    struct error error = ERROR_INIT;
    assert_false(resolve_text("localhost:80", clock_now(), &resolved, &error));
    assert_int_equal(error.code, ERROR_TIMEOUT);
    assert_string_equal(error.text, "cannot resolve localhost: no time is left");

    error = ERROR_INIT;
    int64_t start = clock_now();
    assert_false(resolve_text("slow2001.test:80", start + 300 * NS_PER_MS, &resolved, &error));
    assert_true(clock_now() - start >= 300 * NS_PER_MS);
    assert_int_equal(error.code, ERROR_TIMEOUT);
    assert_string_equal(error.text, "cannot resolve slow2001.test: no answer in time");
    fake_release(); // the helper finds nobody waiting, and frees the answer
    fake_await(&fake_slow_calls, 1);
}

static void test_a_client_that_leaves_ends_the_look_up(void **state)
{
    (void)state;
    int pair[2];
    struct address address = rig_address("slow2002.test:80", ADDRESS_TO_CONNECT);
    struct client_watch watch;
    struct resolved_addresses resolved;
    struct error error = ERROR_INIT;
    rig_pair(pair);
    client_watch_init(&watch, pair[0]);
    socket_reset(pair[1]);
    assert_false(resolve(&address, &watch, rig_limit(), &resolved, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    fake_release();
    fake_await(&fake_slow_calls, 2);
    (void)close(pair[0]);
}

static void test_a_shortage_of_descriptors_is_told_and_passes(void **state)
{
    (void)state;
    struct rlimit before, low;
    struct resolved_addresses resolved;
    struct error error = ERROR_INIT;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = (struct rlimit){.rlim_cur = 3, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    bool is_resolved = resolve_text("localhost:80", rig_limit(), &resolved, &error);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_false(is_resolved);
    assert_int_equal(error.code, ERROR_NO_DESCRIPTORS);
    assert_true(resolve_text("localhost:80", rig_limit(), &resolved, NULL)); // and it recovers
}

// An asker on a thread of its own.
struct waiter {
    pthread_t thread;
    char address[32];
    bool good;
    struct resolved_addresses resolved;
    struct error error;
};

static atomic_int waiting; // waiters that have come to their wait

static bool note_waiting(const void *subject)
{
    (void)subject;
    atomic_fetch_add(&waiting, 1);
    return false;
}

static void *wait_for_name(void *argument)
{
    struct waiter *waiter = argument;
    struct address address = rig_address(waiter->address, ADDRESS_TO_CONNECT);
    struct client_watch watch = nobody();
    watch.is_over = note_waiting; // asked once before each wait
    waiter->good = resolve(&address, &watch, rig_limit(), &waiter->resolved, &waiter->error);
    return NULL;
}

static void start_waiter(struct waiter *waiter, const char *scheme, int number, int port)
{
    *waiter = (struct waiter){.error = ERROR_INIT};
    (void)snprintf(waiter->address, sizeof waiter->address, "%sslow%d.test:%d", scheme, number, port);
    assert_int_equal(pthread_create(&waiter->thread, NULL, wait_for_name, waiter), 0);
}

static void end_waiter(struct waiter *waiter)
{
    assert_int_equal(pthread_join(waiter->thread, NULL), 0);
}

#define CROWD 100 // more than there are threads
static void test_all_who_ask_share_one_look_up(void **state)
{
    (void)state;
    static struct waiter crowd[CROWD];
    struct resolved_addresses resolved;
    struct error error = ERROR_INIT;
    int calls = atomic_load(&fake_slow_calls);
    atomic_store(&waiting, 0);
    for (int i = 0; i < CROWD; i++)
        start_waiter(&crowd[i], i % 2 == 0 ? "" : "tcp4://", 0, 1000 + i);
    fake_await(&waiting, CROWD);
    fake_await(&fake_slow_calls, calls + 2); // one for each family asked for
    // Who gives up takes nothing from the others; and other names are answered meanwhile.
    assert_false(resolve_text("slow0.test:1", clock_now() + 20 * NS_PER_MS, &resolved, &error));
    assert_int_equal(error.code, ERROR_TIMEOUT);
    assert_true(resolve_text("localhost:80", rig_limit(), &resolved, NULL));
    fake_release();
    fake_release();
    for (int i = 0; i < CROWD; i++) {
        end_waiter(&crowd[i]);
        if (!crowd[i].good)
            fail_msg("%s", crowd[i].error.text);
        assert_int_equal(resolved_count(&crowd[i].resolved), 1);
        assert_address(&crowd[i].resolved, 0, 7, "127.0.0.1:7");
    }
    assert_int_equal(atomic_load(&fake_slow_calls), calls + 2);
}

static void test_all_who_ask_share_a_failure(void **state)
{
    (void)state;
    struct waiter pair[2];
    int calls = atomic_load(&fake_slow_calls);
    atomic_store(&waiting, 0);
    // 127.0.0.1 does not answer whoever wants IPv6.
    start_waiter(&pair[0], "tcp6://", 0, 1);
    start_waiter(&pair[1], "tcp6://", 0, 2);
    fake_await(&waiting, 2);
    fake_release();
    for (int i = 0; i < 2; i++) {
        end_waiter(&pair[i]);
        assert_false(pair[i].good);
        assert_int_equal(pair[i].error.code, ERROR_RESOLVE);
        assert_string_equal(pair[i].error.text, "cannot resolve slow0.test: Name or service not known");
    }
    assert_int_equal(atomic_load(&fake_slow_calls), calls + 1);
}

// Names that hang take every thread. Others wait their turn, as long as they may.
static void test_a_busy_resolver_is_waited_for_in_turn(void **state)
{
    (void)state;
    static struct waiter hanging[RESOLVER_THREADS_MAX];
    struct waiter turn[2];
    struct resolved_addresses resolved;
    struct error error = ERROR_INIT;
    int calls = atomic_load(&fake_slow_calls);
    for (int i = 0; i < RESOLVER_THREADS_MAX; i++)
        start_waiter(&hanging[i], "", 1 + i, 1);
    fake_await(&fake_slow_calls, calls + RESOLVER_THREADS_MAX);
    const unsigned held = fake_descriptors_at_start() + RESOLVER_THREADS_MAX; // each look-up has one
    rig_await_descriptors(held);

    assert_false(resolve_text("localhost:80", clock_now() + 20 * NS_PER_MS, &resolved, &error));
    assert_int_equal(error.code, ERROR_TIMEOUT);
    assert_string_equal(error.text, "cannot resolve localhost: waited for the resolver, all 64 of its threads are busy "
                                    "with other names");

    struct address address = rig_address("localhost:80", ADDRESS_TO_CONNECT);
    struct client_watch watch;
    int client[2];
    rig_pair(client);
    socket_reset(client[1]);
    client_watch_init(&watch, client[0]);
    error = ERROR_INIT;
    assert_false(resolve(&address, &watch, DEADLINE_NONE, &resolved, &error));
    assert_int_equal(error.code, ERROR_CANCELLED);
    (void)close(client[0]);
    assert_int_equal(rig_descriptors(), held); // both are out of the queue again

    // First come, first served.
    atomic_store(&waiting, 0);
    start_waiter(&turn[0], "", 1001, 1);
    fake_await(&waiting, 1);
    start_waiter(&turn[1], "", 1002, 2);
    fake_await(&waiting, 2);
    fake_release();
    fake_await(&fake_slow_calls, calls + RESOLVER_THREADS_MAX + 1);
    assert_int_equal(atomic_load(&fake_slow_number), 1001);
    fake_release();
    fake_await(&fake_slow_calls, calls + RESOLVER_THREADS_MAX + 2);
    assert_int_equal(atomic_load(&fake_slow_number), 1002);
    for (int i = 0; i < RESOLVER_THREADS_MAX; i++)
        fake_release();
    for (int i = 0; i < RESOLVER_THREADS_MAX; i++)
        end_waiter(&hanging[i]);
    for (int i = 0; i < 2; i++) {
        end_waiter(&turn[i]);
        assert_true(turn[i].good);
    }
    assert_true(resolve_text("localhost:80", rig_limit(), &resolved, NULL));
}

static atomic_bool no_threads;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return atomic_load(&no_threads) ? EAGAIN : real(thread, attributes, run, argument);
}

// Threads that cannot be had fail the look-up, and don't count as busy for ever. No look-up was made before: a parked
// thread would do the work.
static void test_a_thread_that_cannot_be_had_fails_the_look_up(void **state)
{
    (void)state;
    struct resolved_addresses resolved;
    atomic_store(&no_threads, true);
    for (int i = 0; i < RESOLVER_THREADS_MAX + 1; i++) {
        struct error error = ERROR_INIT;
        assert_false(resolve_text("localhost:80", DEADLINE_NONE, &resolved, &error));
        assert_int_equal(error.code, ERROR_NO_THREADS);
    }
    atomic_store(&no_threads, false);
    assert_true(resolve_text("localhost:80", rig_limit(), &resolved, NULL));
}

struct asker {
    pthread_t thread;
    int good;
};

#define ASKS 50
static void *ask(void *argument)
{
    struct asker *asker = argument;
    for (int i = 0; i < ASKS; i++) {
        struct resolved_addresses resolved;
        struct address address = {.kind = ADDRESS_TCP, .family = ADDRESS_IPV4, .host = "one.test", .port = 80};
        struct client_watch watch = nobody();
        asker->good += resolve(&address, &watch, i % 5 == 0 ? clock_now() + 1 : DEADLINE_NONE, &resolved, NULL);
    }
    return NULL;
}

static void test_many_look_ups_at_once_are_answered(void **state)
{
    (void)state;
    struct asker askers[8] = {{.good = 0}};
    struct endpoint endpoint = rig_endpoint("192.0.2.1:9");
    fake_clear();
    fake_add(&endpoint);
    for (size_t i = 0; i < ARRAY_LENGTH(askers); i++)
        assert_int_equal(pthread_create(&askers[i].thread, NULL, ask, &askers[i]), 0);
    for (size_t i = 0; i < ARRAY_LENGTH(askers); i++) {
        assert_int_equal(pthread_join(askers[i].thread, NULL), 0);
        assert_in_range(askers[i].good, ASKS * 4 / 5, ASKS);
    }
}

// When all look-ups have ended, none of their events is left open.
static void test_no_descriptor_leaks(void **state)
{
    (void)state;
    rig_await_descriptors(fake_descriptors_at_start());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_literal_needs_no_look_up),
        cmocka_unit_test(test_a_thread_that_cannot_be_had_fails_the_look_up),
        cmocka_unit_test(test_localhost_is_resolved),
        cmocka_unit_test(test_addresses_come_in_order_once_and_of_the_wanted_family),
        cmocka_unit_test(test_addresses_of_one_family_leave_room_for_the_other),
        cmocka_unit_test(test_a_failure_is_told_in_words),
        cmocka_unit_test(test_a_look_up_ends_at_its_deadline),
        cmocka_unit_test(test_a_client_that_leaves_ends_the_look_up),
        cmocka_unit_test(test_a_shortage_of_descriptors_is_told_and_passes),
        cmocka_unit_test(test_all_who_ask_share_one_look_up),
        cmocka_unit_test(test_all_who_ask_share_a_failure),
        cmocka_unit_test(test_a_busy_resolver_is_waited_for_in_turn),
        cmocka_unit_test(test_many_look_ups_at_once_are_answered),
        cmocka_unit_test(test_no_descriptor_leaks),
    };
    return cmocka_run_group_tests(tests, fake_begin, NULL);
}
