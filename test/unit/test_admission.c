// Who comes in at a listener, on the acceptor's thread and on a worker that waits.

#include "admission_rig.h"
#include "bitflow/base/compiler.h"

#define WAIT (100 * NS_PER_MS) // of a worker, admission.c's WAIT_MS

// The last client's worker takes the next one, and another worker waits in its place.
static void test_a_worker_takes_the_next_client(void **state)
{
    (void)state;
    struct door door;
    door_open_shared(&door);
    struct pair first = door_begin(&door);
    assert_false(admission_is_awaited(door.admission));
    pair_end(&first);
    door_await_waiting(1);
    assert_true(admission_is_awaited(door.admission));
    assert_int_equal(door_occupied(), 1);
    struct pair second = door_begin_awaited(&door);
    door_await_waiting(1);
    assert_true(admission_is_awaited(door.admission));
    assert_int_equal(door_occupied(), 2);
    // The replacement takes one as well, and is replaced.
    struct pair third = door_begin_awaited(&door);
    door_await_waiting(1);
    assert_int_equal(door_occupied(), 3);
    assert_int_equal(atomic_load(&door.proxy->accepted), 3);
    pair_end(&second);
    pair_end(&third);
    door_await_waiting(3);
    // While others wait, the one that takes a client is not replaced.
    struct pair fourth = door_begin_awaited(&door);
    assert_int_equal(atomic_load(&fake_epoll_waiting), 2);
    assert_true(admission_is_awaited(door.admission));
    assert_int_equal(door_occupied(), 3);
    pair_end(&fourth);
    door_await_waiting(3);
    assert_false(door_has_rung(&door));
    door_close_last(&door);
}

static void test_the_bell_rings_when_nobody_comes_for_a_while(void **state)
{
    (void)state;
    struct door door;
    atomic_store(&fake_epoll_is_patient, false);
    door_open_shared(&door);
    for (int round = 0; round < 2; round++) {
        struct pair pair = door_begin(&door);
        assert_false(door_has_rung(&door));
        int64_t start = clock_now();
        pair_end(&pair);
        rig_await(door.bell, POLLIN);
        assert_true(clock_now() - start >= WAIT);
        assert_false(admission_is_awaited(door.admission));
        assert_true(door_has_rung(&door));
        door_await_occupied(0);
        assert_false(door_has_rung(&door));
        assert_int_equal(atomic_load(&door.proxy->active), 0);
    }
    door_close_last(&door);
}

static void test_at_most_eight_wait_and_the_end_wakes_all(void **state)
{
    (void)state;
    struct door door;
    struct pair pairs[WAITING_MAX + 3];
    door_open_shared(&door);
    door_update(&door, &door.target_address, "", "");
    for (size_t i = 0; i < ARRAY_LENGTH(pairs); i++)
        pairs[i] = door_begin(&door);
    for (size_t i = 0; i < ARRAY_LENGTH(pairs); i++)
        pair_end(&pairs[i]);
    door_await_occupied(WAITING_MAX);
    door_await_waiting(WAITING_MAX);
    assert_int_equal(thread_pool_count(door_runtime.threads).parked, ARRAY_LENGTH(pairs) - WAITING_MAX);
    int64_t start = clock_now();
    admission_end_sharing(door.admission);
    assert_true(clock_now() - start < RIG_LIMIT / 2); // they would have waited for longer
    assert_int_equal(atomic_load(&fake_epoll_waiting), 0);
    assert_int_equal(atomic_load(&fake_epoll_most_waiting), WAITING_MAX);
    assert_false(admission_is_awaited(door.admission));
    // Nobody takes a client afterwards but the acceptor, and nobody waits again.
    int client = rig_connect(&door.address);
    door_await_occupied(0);
    assert_true(door_has_queue(&door));
    door_let_in(&door);
    pairs[0] = pair_of(client, door.target);
    pair_end(&pairs[0]);
    door_await_occupied(0);
    assert_int_equal(atomic_load(&fake_epoll_most_waiting), WAITING_MAX);
    door_close_last(&door);
}

// Who was let in by a worker in the last moment is served by it; the others still queue.
static void test_no_client_is_lost_at_the_end(void **state)
{
    (void)state;
    int clients[4], targets[4];
    for (int round = 0; round < 50; round++) {
        struct door door;
        door_open_shared(&door);
        door_update(&door, &door.target_address, "", "");
        door_bring_worker(&door);
        size_t early = (size_t)round % (ARRAY_LENGTH(clients) + 1);
        for (size_t i = 0; i < early; i++)
            clients[i] = rig_connect(&door.address);
        admission_end_sharing(door.admission);
        for (size_t i = early; i < ARRAY_LENGTH(clients); i++)
            clients[i] = rig_connect(&door.address);
        size_t taken = registry_count(door_runtime.registry);
        assert_true(taken <= early);
        for (size_t i = taken; i < ARRAY_LENGTH(clients); i++)
            door_let_in(&door);
        assert_false(door_has_queue(&door));
        for (size_t i = 0; i < ARRAY_LENGTH(clients); i++)
            targets[i] = rig_accept(door.target);
        for (size_t i = 0; i < ARRAY_LENGTH(clients); i++) {
            (void)close(clients[i]);
            (void)close(targets[i]);
        }
        door_close_last(&door);
    }
}

// The client is what counts: the acceptor is called in place of another worker.
static void test_without_a_replacement_the_bell_rings(void **state)
{
    (void)state;
    struct door door;
    door_open_shared(&door);
    door_bring_worker(&door);
    for (int round = 0; round < 2; round++) {
        assert_false(door_has_rung(&door));
        struct pair pair = door_begin_awaited(&door); // the only thread serves it
        assert_false(admission_is_awaited(door.admission));
        assert_true(door_has_rung(&door));
        assert_int_equal(door_occupied(), 1);
        pair_end(&pair);
        door_await_waiting(1);
        assert_true(admission_is_awaited(door.admission));
    }
    door_close_last(&door);
}

static void test_without_a_thread_a_client_is_turned_away(void **state)
{
    (void)state;
    struct door door;
    door_open_shared(&door);
    struct pair held = door_begin(&door);
    for (uint64_t i = 1; i <= 3; i++) {
        int client = rig_connect(&door.address);
        door_let_in(&door);
        door_assert_turned_away(&door, client, CLOSE_OUT_OF_THREADS, i);
        assert_int_equal(atomic_load(&door.proxy->active), 1);
        assert_int_equal(registry_count(door_runtime.registry), 1);
    }
    pair_pass(held.client, held.target);
    pair_end(&held);
    door_await_waiting(1);
    held = door_begin_awaited(&door);
    pair_end(&held);
    door_await_waiting(1);
    door_close_last(&door);
}

static void assert_is_alone(_Atomic int *refused, int os_errno)
{
    struct door door;
    door_open(&door);
    unsigned descriptors = rig_descriptors();
    atomic_store(refused, os_errno);
    admission_share(door.admission, &door.listener, door.bell);
    atomic_store(refused, 0);
    assert_int_equal(rig_descriptors(), descriptors);
    for (int i = 0; i < 2; i++) {
        struct pair pair = door_begin(&door);
        assert_false(admission_is_awaited(door.admission));
        pair_end(&pair);
        door_await_occupied(0);
        assert_false(admission_is_awaited(door.admission));
    }
    assert_int_equal(atomic_load(&fake_epoll_most_waiting), 0);
    assert_false(door_has_rung(&door));
    door_close_last(&door);
}

static void test_where_the_system_refuses_the_acceptor_is_alone(void **state)
{
    (void)state;
    assert_is_alone(&fake_epoll_refused_creation, EMFILE);
    assert_is_alone(&fake_epoll_refused_addition, ENOSPC);
}

// One client stays, another's worker waits; then the next ones, on either thread, are turned away by what has come into
// force meanwhile. Once there is room for two again, there is: no place was lost.
static void assert_turns_away(const char *listener, const char *options, enum close_reason reason)
{
    struct door door;
    door_open_shared(&door);
    uint64_t before = door_turned_away(&door, reason);
    struct pair held = door_begin(&door);
    door_bring_worker(&door);
    door_update(&door, &door.target_address, listener, options);
    door_assert_turned_away(&door, rig_connect(&door.address), reason, before + 1);
    rig_await(door.bell, POLLIN);
    assert_true(door_has_rung(&door));
    assert_false(admission_is_awaited(door.admission));
    int client = rig_connect(&door.address);
    door_let_in(&door);
    door_assert_turned_away(&door, client, reason, before + 2);
    assert_int_equal(atomic_load(&door.proxy->active), 1);
    assert_int_equal(registry_count(door_runtime.registry), 1);
    door_update(&door, &door.target_address, "", ROOM_FOR_TWO);
    door_bring_worker(&door);
    struct pair beside = door_begin_awaited(&door);
    pair_pass(held.client, held.target);
    pair_end(&held);
    pair_end(&beside);
    door_close_last(&door);
}

static void test_who_may_not_come_in_is_turned_away_on_either_thread(void **state)
{
    (void)state;
    assert_turns_away("authorized_sources: [192.0.2.0/24]", "", CLOSE_SOURCE_NOT_AUTHORIZED);
    assert_turns_away("proxy_protocol: true, proxy_protocol_sources: [192.0.2.0/24]", "",
                      CLOSE_PROXY_SOURCE_NOT_TRUSTED);
    assert_turns_away("", "connection_limit: 1", CLOSE_CONNECTION_LIMIT);
    assert_turns_away("", "source_connection_limit: 1", CLOSE_SOURCE_CONNECTION_LIMIT);
    assert_turns_away("", "connection_limit: 1, source_connection_limit: 2", CLOSE_CONNECTION_LIMIT);
}

static void test_an_update_leads_the_next_client_on_either_thread(void **state)
{
    (void)state;
    struct door door;
    struct endpoint addresses[2];
    int targets[] = {rig_listen("127.0.0.1:0", &addresses[0]), rig_listen("127.0.0.1:0", &addresses[1])};
    door_open_shared(&door);
    int client = rig_connect(&door.address);
    door_update(&door, &addresses[0], "", ROOM_FOR_TWO);
    door_let_in(&door);
    struct pair pair = pair_of(client, targets[0]);
    pair_end(&pair);
    door_await_waiting(1);
    door_update(&door, &addresses[1], "", ROOM_FOR_TWO);
    pair = pair_of(rig_connect(&door.address), targets[1]);
    struct generation *generation = admission_generation(door.admission);
    door_update(&door, &addresses[0], "", ROOM_FOR_TWO);
    struct generation *next = admission_generation(door.admission);
    assert_ptr_not_equal(next, generation);
    generation_drop(&next);
    generation_drop(&generation);
    pair_pass(pair.client, pair.target); // who is in goes on
    pair_end(&pair);
    door_close_last(&door);
    (void)close(targets[0]);
    (void)close(targets[1]);
}

static void test_two_listeners_on_one_pool_stay_apart(void **state)
{
    (void)state;
    struct door a, b;
    door_open_shared(&a);
    door_open_shared(&b);
    door_bring_worker(&a);
    assert_false(admission_is_awaited(b.admission));
    int at_b = rig_connect(&b.address);
    struct pair pair = door_begin_awaited(&a);
    pair_end(&pair);
    door_await_waiting(2);
    assert_true(door_has_queue(&b)); // the workers at one look after its clients only
    door_let_in(&b);
    pair = pair_of(at_b, b.target);
    pair_end(&pair);
    door_await_waiting(3);
    assert_true(admission_is_awaited(b.admission));
    admission_end_sharing(a.admission);
    assert_false(admission_is_awaited(a.admission));
    assert_true(admission_is_awaited(b.admission));
    assert_false(door_has_rung(&b));
    pair = door_begin_awaited(&b);
    door_await_waiting(1);
    door_close(&a);
    pair_end(&pair);
    door_await_waiting(2);
    door_close_last(&b);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, door_setup, door_teardown)
#define TEST_ONE_THREAD(name) cmocka_unit_test_setup_teardown(name, door_setup_one_thread, door_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_worker_takes_the_next_client),
        TEST(test_the_bell_rings_when_nobody_comes_for_a_while),
        TEST(test_at_most_eight_wait_and_the_end_wakes_all),
        TEST(test_no_client_is_lost_at_the_end),
        TEST_ONE_THREAD(test_without_a_replacement_the_bell_rings),
        TEST_ONE_THREAD(test_without_a_thread_a_client_is_turned_away),
        TEST(test_where_the_system_refuses_the_acceptor_is_alone),
        TEST(test_who_may_not_come_in_is_turned_away_on_either_thread),
        TEST(test_an_update_leads_the_next_client_on_either_thread),
        TEST(test_two_listeners_on_one_pool_stay_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
