// A client for whom there is no memory is turned away, on the acceptor's thread and on a worker that waits, and takes
// nothing along.

#include "admission_rig.h"
#include "failing_memory.h"

// Of one client: its source, that in the tree, the connection; and a thread where none is parked.
enum { BLOCKS_A_CLIENT = 3, BLOCKS_A_CLIENT_AND_THREAD };

static void test_without_memory_the_acceptor_turns_away(void **state)
{
    (void)state;
    struct door door;
    door_open_shared(&door);
    for (long failing = 0; failing < BLOCKS_A_CLIENT_AND_THREAD; failing++) {
        int client = rig_connect(&door.address);
        rig_await(door.listener.sockets[0], POLLIN);
        memory_count_begin(failing);
        bool is_accepted = door_accept(&door);
        long left = memory_count_end();
        assert_true(is_accepted && has_failed);
        assert_int_equal(left, 0);
        door_assert_turned_away(&door, client, CLOSE_OUT_OF_MEMORY, (uint64_t)failing + 1);
        assert_int_equal(atomic_load(&door.proxy->active), 0);
        assert_int_equal(registry_count(door_runtime.registry), 0);
    }
    door_bring_worker(&door);
    door_close_last(&door);
}

static void test_without_memory_a_worker_turns_away(void **state)
{
    (void)state;
    struct door door;
    door_open_shared(&door);
    for (long failing = 0; failing < BLOCKS_A_CLIENT; failing++) {
        door_bring_worker(&door);
        memory_count_begin(failing);
        int client = rig_connect(&door.address);
        rig_await(door.bell, POLLIN);
        (void)memory_count_end();
        assert_true(has_failed && door_has_rung(&door));
        door_assert_turned_away(&door, client, CLOSE_OUT_OF_MEMORY, (uint64_t)failing + 1);
        assert_false(admission_is_awaited(door.admission));
        door_await_occupied(0);
        assert_int_equal(atomic_load(&door.proxy->active), 0);
        assert_int_equal(registry_count(door_runtime.registry), 0);
    }
    door_bring_worker(&door);
    door_close_last(&door);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, door_setup, door_teardown)

int main(void)
{
#ifdef HAS_THREAD_SANITIZER
    return 77; // ctest: skipped
#endif
    const struct CMUnitTest tests[] = {
        TEST(test_without_memory_the_acceptor_turns_away),
        TEST(test_without_memory_a_worker_turns_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
