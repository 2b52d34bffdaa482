// Counts of live connections by source: what a source is, that the limit is exact under threads, that who has left has
// left no trace.

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/proxy/source_counts.h"
#include "source_endpoint.h"

static struct source_counts counts;

static int set_up(void **state)
{
    (void)state;
    source_counts_init(&counts);
    return 0;
}

// Asserts that no source is left.
static int tear_down(void **state)
{
    (void)state;
    source_counts_release(&counts);
    return 0;
}

static enum close_reason enter(const char *client, int64_t limit, struct source **source)
{
    struct endpoint endpoint = client_at(client);
    struct error error = ERROR_INIT;
    *source = NULL;
    enum close_reason reason = enter_source(&counts, &endpoint, limit, source, &error);
    assert_int_equal(error.code, ERROR_NONE);
    assert_true(reason == CLOSE_NONE || *source == NULL);
    return reason;
}

static void assert_enters(const char *client, int64_t limit, struct source **source)
{
    assert_int_equal(enter(client, limit, source), CLOSE_NONE);
    assert_non_null(*source);
}

static void assert_refused(const char *client, int64_t limit)
{
    struct source *none;
    assert_int_equal(enter(client, limit, &none), CLOSE_SOURCE_CONNECTION_LIMIT);
}

static void test_one_source_is_an_ipv4_address_or_an_ipv6_network(void **state)
{
    (void)state;
    static const struct {
        const char *one, *other;
        bool is_same;
    } cases[] = {
        {"192.0.2.1:1", "192.0.2.1:65535", true},
        {"192.0.2.1:1", "192.0.2.0:1", false},
        {"192.0.2.1:1", "192.0.3.1:1", false},
        {"192.0.2.1:1", "[::ffff:192.0.2.1]:1", true}, // mapped
        {"[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:1", false},
        {"0.0.0.0:1", "[::ffff:0.0.0.0]:1", true},
        {"[2001:db8::1]:1", "[2001:db8::1]:2", true},
        {"[2001:db8::1]:1", "[2001:db8::2]:1", true},
        {"[2001:db8::]:1", "[2001:db8:0:0:ffff:ffff:ffff:ffff]:1", true},
        {"[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false}, // the 64th bit
        {"[2001:db8::1]:1", "[2001:db9::1]:1", false},
        {"[2001:db8::1]:1", "[a001:db8::1]:1", false},
        {"[::]:1", "0.0.0.0:1", false},
        {"[::1]:1", "[::ffff:127.0.0.1]:1", false},
        {"[::1]:1", "[::2]:1", true},
        {"[::192.0.2.1]:1", "192.0.2.1:1", false}, // compatible, not mapped
        {"[64:ff9b::192.0.2.1]:1", "192.0.2.1:1", false},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct source *one, *other;
        assert_enters(cases[i].one, 1, &one);
        enum close_reason reason = enter(cases[i].other, 1, &other);
        if ((reason == CLOSE_SOURCE_CONNECTION_LIMIT) != cases[i].is_same)
            fail_msg("%s and %s", cases[i].one, cases[i].other);
        source_counts_leave(&counts, &other);
        source_counts_leave(&counts, &one);
        assert_null(one);
    }
}

static void test_the_limit_is_exact(void **state)
{
    (void)state;
    enum { LIMIT = 5 };
    struct source *taken[LIMIT], *other;
    for (size_t i = 0; i < LIMIT; i++)
        assert_enters("192.0.2.1:1", LIMIT, &taken[i]);
    for (size_t round = 0; round < LIMIT; round++) {
        assert_refused("192.0.2.1:1", LIMIT);
        assert_refused("192.0.2.1:1", LIMIT);
        assert_enters("192.0.2.2:1", LIMIT, &other); // nobody else is concerned
        source_counts_leave(&counts, &other);
        source_counts_leave(&counts, &taken[round]);
        assert_enters("192.0.2.1:1", LIMIT, &taken[round]);
    }
    for (size_t i = 0; i < LIMIT; i++)
        source_counts_leave(&counts, &taken[i]);
    source_counts_leave(&counts, &taken[0]); // NULL
}

// A reload: each client comes with the limit that is in force then.
static void test_each_client_comes_with_the_limit_of_its_time(void **state)
{
    (void)state;
    struct source *first, *second, *third, *uncounted;
    assert_enters("192.0.2.1:1", 2, &first);
    assert_enters("192.0.2.1:1", 2, &second);
    assert_refused("192.0.2.1:1", 2);
    assert_enters("192.0.2.1:1", INT64_MAX, &third);
    assert_int_equal(enter("192.0.2.1:1", 0, &uncounted), CLOSE_NONE);
    assert_null(uncounted);
    assert_refused("192.0.2.1:1", 1);
    source_counts_leave(&counts, &first);
    source_counts_leave(&counts, &second);
    assert_refused("192.0.2.1:1", 1);
    source_counts_leave(&counts, &uncounted);
    assert_refused("192.0.2.1:1", 1);
    source_counts_leave(&counts, &third);
    assert_enters("192.0.2.1:1", 1, &first);
    source_counts_leave(&counts, &first);
}

static void test_who_has_no_ip_address_is_not_counted(void **state)
{
    (void)state;
    const struct endpoint clients[] = {client_at("unix:///run/x"), client_at("unix://@x"), {.length = 0}};
    for (size_t i = 0; i < ARRAY_LENGTH(clients); i++) {
        for (int round = 0; round < 3; round++) {
            struct source *source = (struct source *)&counts;
            assert_int_equal(enter_source(&counts, &clients[i], 1, &source, NULL), CLOSE_NONE);
            assert_null(source);
        }
    }
}

#define THREADS 8
#define SOURCES 16
#define LIMIT 3

// Fewer places than threads, so that both answers come.
static _Atomic int live[SOURCES];
static _Atomic int most[SOURCES];
static _Atomic int refused;

static void note_most(_Atomic int *to, int value)
{
    int known = atomic_load(to);
    while (known < value && !atomic_compare_exchange_weak(to, &known, value))
        continue;
}

static void *come_and_go(void *argument)
{
    unsigned random = *(const unsigned *)argument;
    for (int i = 0; i < 20000; i++) {
        random = random * 1664525 + 1013904223;
        unsigned number = random >> 16 & (i % 2 == 0 ? 0 : SOURCES - 1); // every other one is of the same source
        struct endpoint client = client_of(number, number % 2 == 0);
        struct source *source;
        if (enter_source(&counts, &client, LIMIT, &source, NULL) != CLOSE_NONE) {
            atomic_fetch_add(&refused, 1);
            continue;
        }
        note_most(&most[number], atomic_fetch_add(&live[number], 1) + 1);
        if (random >> 24 & 1)
            (void)sched_yield();
        atomic_fetch_sub(&live[number], 1);
        source_counts_leave(&counts, &source);
    }
    return NULL;
}

static void test_the_limit_is_exact_under_threads(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    unsigned seeds[THREADS];
    struct source *held;
    // One of the busy source's places is taken all the time, so that the limit is met however threads are scheduled.
    assert_enters("[2001:db8:0:0::2]:1", LIMIT, &held);
    atomic_store(&live[0], 1);
    for (unsigned i = 0; i < THREADS; i++) {
        seeds[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &seeds[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (unsigned i = 0; i < SOURCES; i++)
        assert_in_range(atomic_load(&most[i]), 1, LIMIT);
    assert_int_equal(atomic_load(&most[0]), LIMIT);
    assert_true(atomic_load(&refused) > 0);
    source_counts_leave(&counts, &held);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_source_is_an_ipv4_address_or_an_ipv6_network, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_limit_is_exact, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_each_client_comes_with_the_limit_of_its_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_who_has_no_ip_address_is_not_counted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_limit_is_exact_under_threads, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
