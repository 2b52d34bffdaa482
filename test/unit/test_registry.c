// The registry of live connections, with real sockets, so that what is asserted is what a blocked thread would see: an
// end of stream at the other end.

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/proxy/registry.h"

#define PATIENCE_MS 20000 // only a test that fails waits so long

// A connection with its two peers' ends.
struct fake {
    struct registry_entry entry;
    int client_peer, target, target_peer;
};

static _Atomic int empties;

static void count_empty(void)
{
    atomic_fetch_add(&empties, 1);
}

static struct registry *create(void)
{
    atomic_store(&empties, 0);
    struct error error = ERROR_INIT;
    struct registry *registry = registry_create(count_empty, &error);
    assert_non_null(registry);
    return registry;
}

static void open_fake(struct fake *fake, int64_t deadline)
{
    int client[2], target[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, client), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, target), 0);
    fake->entry.client = client[0];
    fake->entry.deadline = deadline;
    fake->client_peer = client[1];
    fake->target = target[0];
    fake->target_peer = target[1];
}

static void close_fake(struct fake *fake)
{
    (void)close(fake->entry.client);
    (void)close(fake->client_peer);
    (void)close(fake->target);
    (void)close(fake->target_peer);
}

static void add_fake(struct registry *registry, struct fake *fake, int64_t deadline)
{
    open_fake(fake, deadline);
    registry_add(registry, &fake->entry);
}

static void leave(struct registry *registry, struct fake *fakes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        registry_remove(registry, &fakes[i].entry);
        close_fake(&fakes[i]);
    }
}

static bool has_ended(int peer, int wait_ms)
{
    struct pollfd poller = {.fd = peer, .events = POLLIN};
    char byte;
    return poll(&poller, 1, wait_ms) == 1 && recv(peer, &byte, 1, MSG_DONTWAIT) == 0;
}

static enum close_reason reason_of(struct fake *fake)
{
    return atomic_load(&fake->entry.settled_reason);
}

static void test_connections_are_counted_while_they_are_in(void **state)
{
    (void)state;
    struct registry *registry = create();
    struct fake fakes[3];
    for (size_t i = 0; i < 3; i++) {
        add_fake(registry, &fakes[i], i == 1 ? deadline_after(3600 * NS_PER_S) : DEADLINE_NONE);
        assert_int_equal(registry_count(registry), i + 1);
        assert_int_equal(fakes[i].entry.target, -1);
        assert_int_equal(reason_of(&fakes[i]), CLOSE_NONE);
    }
    registry_remove(registry, &fakes[1].entry);
    registry_remove(registry, &fakes[0].entry);
    assert_int_equal(registry_count(registry), 1);
    registry_remove(registry, &fakes[2].entry);
    assert_int_equal(registry_count(registry), 0);
    assert_int_equal(atomic_load(&empties), 0); // not draining
    for (size_t i = 0; i < 3; i++) {
        assert_false(has_ended(fakes[i].client_peer, 0));
        close_fake(&fakes[i]);
    }
    registry_destroy(&registry);
    assert_null(registry);
    registry_destroy(&registry);
}

static void test_end_all_shuts_both_sockets_down(void **state)
{
    (void)state;
    struct registry *registry = create();
    struct fake fakes[3];
    for (size_t i = 0; i < 3; i++) {
        add_fake(registry, &fakes[i], i == 1 ? deadline_after(3600 * NS_PER_S) : DEADLINE_NONE);
    }
    registry_set_target(registry, &fakes[0].entry, fakes[0].target);
    registry_set_target(registry, &fakes[1].entry, fakes[1].target);
    registry_end_all(registry, CLOSE_DRAIN);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(reason_of(&fakes[i]), CLOSE_DRAIN);
        assert_true(has_ended(fakes[i].client_peer, 0));
        assert_int_equal(has_ended(fakes[i].target_peer, 0), i < 2); // the third has not told of its target
    }
    // It does so now, too late: the socket is shut down at once.
    registry_set_target(registry, &fakes[2].entry, fakes[2].target);
    assert_true(has_ended(fakes[2].target_peer, 0));
    assert_int_equal(registry_count(registry), 3); // a connection leaves by itself
    leave(registry, fakes, 3);
    registry_destroy(&registry);
}

static void test_the_first_reason_stands(void **state)
{
    (void)state;
    struct registry *registry = create();
    struct fake fake;
    add_fake(registry, &fake, DEADLINE_NONE);
    assert_true(close_reason_settle(&fake.entry.settled_reason, CLOSE_COMPLETED));
    assert_false(close_reason_settle(&fake.entry.settled_reason, CLOSE_LIFETIME));
    registry_end_all(registry, CLOSE_DRAIN);
    assert_int_equal(reason_of(&fake), CLOSE_COMPLETED);
    leave(registry, &fake, 1);
    registry_destroy(&registry);
}

// Longest first, so that an unsorted list would sleep through the short ones.
static void test_lifetimes_end_in_their_order_and_not_early(void **state)
{
    (void)state;
    static const int64_t lifetimes_ms[] = {3600000, 90, 30, 60, 1, 1800000};
    struct registry *registry = create();
    struct fake fakes[ARRAY_LENGTH(lifetimes_ms)];
    struct error error = ERROR_INIT;
    assert_true(registry_watch_lifetimes(registry, &error));
    for (size_t i = 0; i < ARRAY_LENGTH(fakes); i++) {
        add_fake(registry, &fakes[i], deadline_after(lifetimes_ms[i] * NS_PER_MS));
        registry_set_target(registry, &fakes[i].entry, fakes[i].target);
    }
    for (size_t i = 1; i <= 4; i++) {
        assert_true(has_ended(fakes[i].client_peer, PATIENCE_MS));
        assert_true(clock_now() >= fakes[i].entry.deadline);
        assert_true(has_ended(fakes[i].target_peer, PATIENCE_MS));
        assert_int_equal(reason_of(&fakes[i]), CLOSE_LIFETIME);
    }
    assert_int_equal(reason_of(&fakes[0]), CLOSE_NONE);
    assert_int_equal(reason_of(&fakes[5]), CLOSE_NONE);
    assert_false(has_ended(fakes[0].client_peer, 0));
    assert_int_equal(registry_count(registry), ARRAY_LENGTH(fakes));
    // Those that were ended are still listed until they leave, and keep their reason.
    registry_end_all(registry, CLOSE_DRAIN);
    assert_int_equal(reason_of(&fakes[4]), CLOSE_LIFETIME);
    assert_int_equal(reason_of(&fakes[0]), CLOSE_DRAIN);
    leave(registry, fakes, ARRAY_LENGTH(fakes));
    registry_destroy(&registry);
}

// More different lifetimes than the registry has lists, in an order that needs one for each.
static void test_any_number_of_lifetimes_ends_in_order(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    static struct fake fakes[COUNT];
    struct registry *registry = create();
    struct error error = ERROR_INIT;
    int64_t now = clock_now();
    for (int64_t i = 0; i < COUNT; i++)
        add_fake(registry, &fakes[i], now + (i % 2 == 0 ? (COUNT - i) * NS_PER_MS : 3600 * NS_PER_S));
    registry_remove(registry, &fakes[7].entry); // from the middle of some list
    assert_true(registry_watch_lifetimes(registry, &error));
    for (size_t i = COUNT; i > 0; i -= 2) {
        assert_true(has_ended(fakes[i - 2].client_peer, PATIENCE_MS));
        assert_true(clock_now() >= fakes[i - 2].entry.deadline);
    }
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(reason_of(&fakes[i]), i % 2 == 0 ? CLOSE_LIFETIME : CLOSE_NONE);
    registry_end_all(registry, CLOSE_DRAIN);
    for (size_t i = 1; i < COUNT; i += 2)
        assert_int_equal(reason_of(&fakes[i]), i == 7 ? CLOSE_NONE : CLOSE_DRAIN);
    close_fake(&fakes[7]);
    leave(registry, fakes, 7);
    leave(registry, fakes + 8, COUNT - 8);
    registry_destroy(&registry);
}

static int64_t cpu_time_of_adding(struct registry *registry, struct registry_entry *entries, size_t count,
                                  const int64_t *lifetimes, size_t kinds)
{
    struct timespec before, after;
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before), 0);
    for (size_t i = 0; i < count; i++) {
        entries[i].client = -1;
        entries[i].deadline = deadline_after(lifetimes[i % kinds]);
        registry_add(registry, &entries[i]);
    }
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after), 0);
    for (size_t i = 0; i < count; i++)
        registry_remove(registry, &entries[i]);
    return (after.tv_sec - before.tv_sec) * NS_PER_S + (after.tv_nsec - before.tv_nsec);
}

// Else each new one would be compared with all that live longer.
static void test_mixed_lifetimes_cost_what_equal_ones_do(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    static struct registry_entry entries[COUNT];
    static const int64_t lifetimes[] = {3600 * NS_PER_S, 60 * NS_PER_S, 86400 * NS_PER_S, 10 * NS_PER_S};
    struct registry *registry = create();
    int64_t equal = cpu_time_of_adding(registry, entries, COUNT, lifetimes, 1);
    int64_t mixed = cpu_time_of_adding(registry, entries, COUNT, lifetimes, ARRAY_LENGTH(lifetimes));
    assert_true(mixed < 20 * equal); // 5000 comparisons each would be hundreds of times as much
    registry_destroy(&registry);
}

static void test_a_shorter_lifetime_wakes_the_watcher(void **state)
{
    (void)state;
    enum { SLOW, UNLIMITED, QUICK, QUICKER, ALL };
    struct registry *registry = create();
    struct fake fakes[ALL];
    struct error error = ERROR_INIT;
    add_fake(registry, &fakes[SLOW], deadline_after(3600 * NS_PER_S));
    add_fake(registry, &fakes[UNLIMITED], DEADLINE_NONE);
    add_fake(registry, &fakes[QUICK], deadline_after(NS_PER_MS));
    assert_true(registry_watch_lifetimes(registry, &error));
    assert_true(registry_watch_lifetimes(registry, &error)); // once more changes nothing
    // It ends one under the lock, and lets go of that only to sleep for an hour: so it sleeps when the next one comes.
    assert_true(has_ended(fakes[QUICK].client_peer, PATIENCE_MS));
    add_fake(registry, &fakes[QUICKER], deadline_after(20 * NS_PER_MS));
    assert_true(has_ended(fakes[QUICKER].client_peer, PATIENCE_MS));
    assert_int_equal(reason_of(&fakes[SLOW]), CLOSE_NONE);
    assert_int_equal(reason_of(&fakes[UNLIMITED]), CLOSE_NONE);
    leave(registry, fakes, ALL);
    registry_destroy(&registry);
}

static void test_drain_says_when_the_last_has_left(void **state)
{
    (void)state;
    struct registry *registry = create();
    struct fake fakes[2];
    for (size_t i = 0; i < 2; i++) {
        add_fake(registry, &fakes[i], DEADLINE_NONE);
    }
    registry_drain(registry);
    assert_int_equal(atomic_load(&empties), 0);
    registry_remove(registry, &fakes[0].entry);
    assert_int_equal(atomic_load(&empties), 0);
    registry_remove(registry, &fakes[1].entry);
    assert_int_equal(atomic_load(&empties), 1);
    close_fake(&fakes[0]);
    close_fake(&fakes[1]);
    registry_destroy(&registry);
}

static void test_drain_of_nothing_says_so_at_once(void **state)
{
    (void)state;
    struct registry *registry = create();
    registry_drain(registry);
    assert_int_equal(atomic_load(&empties), 1);
    registry_destroy(&registry);
}

// What follows is for the thread sanitizer too.

#define THREADS 8
#define ROUNDS 300

struct crowd {
    struct registry *registry;
    pthread_barrier_t all_in; // every thread has its last connection open
    _Atomic int wrong;
};

static void join(const pthread_t *threads, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

static bool open_pair(int pair[2])
{
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0;
}

// A connection's life as its worker leads it. No asserts: they must not be used off the main thread.
static bool live_once(struct crowd *crowd, bool wait_for_the_others, int64_t lifetime)
{
    int client[2], target[2];
    if (!open_pair(client) || !open_pair(target))
        return false;
    struct registry_entry entry = {.client = client[0], .deadline = deadline_after(lifetime)};
    registry_add(crowd->registry, &entry);
    registry_set_target(crowd->registry, &entry, target[0]);
    if (wait_for_the_others)
        (void)pthread_barrier_wait(&crowd->all_in);
    (void)close_reason_settle(&entry.settled_reason, CLOSE_COMPLETED);
    registry_remove(crowd->registry, &entry);
    (void)close(client[0]);
    (void)close(target[0]);
    bool untouched = atomic_load(&entry.settled_reason) == CLOSE_COMPLETED;
    bool ended = has_ended(client[1], 0) && has_ended(target[1], 0);
    (void)close(client[1]);
    (void)close(target[1]);
    return ended && (untouched || !wait_for_the_others);
}

static void *live(void *argument)
{
    struct crowd *crowd = argument;
    for (int round = 0; round < ROUNDS; round++)
        if (!live_once(crowd, false, round % 3 * NS_PER_US))
            atomic_fetch_add(&crowd->wrong, 1);
    if (!live_once(crowd, true, 0))
        atomic_fetch_add(&crowd->wrong, 1);
    return NULL;
}

static void test_threads_that_come_and_go_leave_nothing_behind(void **state)
{
    (void)state;
    struct crowd crowd = {.registry = create()};
    struct error error = ERROR_INIT;
    pthread_t threads[THREADS];
    assert_true(registry_watch_lifetimes(crowd.registry, &error));
    assert_int_equal(pthread_barrier_init(&crowd.all_in, NULL, THREADS + 1), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, live, &crowd), 0);
    for (int i = 0; i < 100; i++) {
        (void)registry_count(crowd.registry);
        (void)registry_watch_lifetimes(crowd.registry, &error);
    }
    // Everybody's last connection can be open only after this thread has come too, so the drain sees some of them.
    registry_drain(crowd.registry);
    (void)pthread_barrier_wait(&crowd.all_in);
    join(threads, THREADS);
    assert_int_equal(atomic_load(&crowd.wrong), 0);
    assert_int_equal(registry_count(crowd.registry), 0);
    assert_true(atomic_load(&empties) >= 1);
    assert_int_equal(pthread_barrier_destroy(&crowd.all_in), 0);
    registry_destroy(&crowd.registry);
}

static void *leave_last(void *argument)
{
    struct crowd *crowd = argument;
    (void)live_once(crowd, true, 0);
    return NULL;
}

// However the last ones leave together: it is said exactly once.
static void test_a_drain_speaks_once(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        struct crowd crowd = {.registry = create()};
        pthread_t threads[THREADS];
        assert_int_equal(pthread_barrier_init(&crowd.all_in, NULL, THREADS + 1), 0);
        for (size_t i = 0; i < THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, leave_last, &crowd), 0);
        (void)pthread_barrier_wait(&crowd.all_in); // all of them are in, and begin to leave
        registry_drain(crowd.registry);
        join(threads, THREADS);
        assert_int_equal(atomic_load(&empties), 1);
        assert_int_equal(pthread_barrier_destroy(&crowd.all_in), 0);
        registry_destroy(&crowd.registry);
    }
}

// Ends come from one side while connections come and go on the other: no descriptor may be shut down that is no longer
// the connection's, so sockets that get the same numbers right after it must stay whole.
static void *end_them_all(void *argument)
{
    struct crowd *crowd = argument;
    for (int i = 0; i < ROUNDS; i++)
        registry_end_all(crowd->registry, CLOSE_DRAIN);
    return NULL;
}

static bool stays_whole(void)
{
    int pair[2];
    char byte;
    if (!open_pair(pair))
        return false;
    bool whole = send(pair[0], "x", 1, MSG_NOSIGNAL) == 1 && recv(pair[1], &byte, 1, 0) == 1 &&
                 send(pair[1], "x", 1, MSG_NOSIGNAL) == 1 && recv(pair[0], &byte, 1, 0) == 1;
    (void)close(pair[0]);
    (void)close(pair[1]);
    return whole;
}

static void *come_and_go(void *argument)
{
    struct crowd *crowd = argument;
    for (int round = 0; round < ROUNDS; round++)
        if (!live_once(crowd, false, 0) || !stays_whole())
            atomic_fetch_add(&crowd->wrong, 1);
    return NULL;
}

static void test_an_end_from_outside_spares_other_sockets(void **state)
{
    (void)state;
    struct crowd crowd = {.registry = create()};
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, i == 0 ? end_them_all : come_and_go, &crowd), 0);
    join(threads, 4);
    assert_int_equal(atomic_load(&crowd.wrong), 0);
    assert_int_equal(registry_count(crowd.registry), 0);
    registry_destroy(&crowd.registry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connections_are_counted_while_they_are_in),
        cmocka_unit_test(test_end_all_shuts_both_sockets_down),
        cmocka_unit_test(test_the_first_reason_stands),
        cmocka_unit_test(test_lifetimes_end_in_their_order_and_not_early),
        cmocka_unit_test(test_any_number_of_lifetimes_ends_in_order),
        cmocka_unit_test(test_mixed_lifetimes_cost_what_equal_ones_do),
        cmocka_unit_test(test_a_shorter_lifetime_wakes_the_watcher),
        cmocka_unit_test(test_drain_says_when_the_last_has_left),
        cmocka_unit_test(test_drain_of_nothing_says_so_at_once),
        cmocka_unit_test(test_threads_that_come_and_go_leave_nothing_behind),
        cmocka_unit_test(test_a_drain_speaks_once),
        cmocka_unit_test(test_an_end_from_outside_spares_other_sockets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
