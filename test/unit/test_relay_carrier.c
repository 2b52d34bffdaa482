// Relays that are busy are carried: a thread of their pool serves them, until they end, or are quiet.

#include <dirent.h>
#include <sched.h>

#include "relay_rig.h"

#define RELAYS 3 // more than the one processor that this program allows itself

static void start(struct rig rigs[RELAYS], enum rig_kind kind)
{
    for (unsigned i = 0; i < RELAYS; i++) {
        rig_init(&rigs[i], kind, kind, 0);
        rig_start(&rigs[i]);
    }
}

// The relays' first threads are the rig's own, so all that the pool does is to carry.
static unsigned carriers(void)
{
    return thread_pool_count(rig_threads()).busy;
}

static void await_carriers(unsigned count)
{
    int64_t limit = deadline_after(PATIENCE);
    while (carriers() != count) {
        if (deadline_left(limit) == 0)
            fail_msg("%u carriers, not %u", carriers(), count);
        (void)poll(NULL, 0, 2);
    }
}

static void play(struct rig rigs[RELAYS])
{
    for (unsigned i = 0; i < RELAYS; i++) {
        rig_pass(rigs[i].client, rigs[i].target, "ping");
        rig_pass(rigs[i].target, rigs[i].client, "pong");
    }
}

static uint64_t play_until_carried(struct rig rigs[RELAYS])
{
    int64_t limit = deadline_after(PATIENCE);
    uint64_t rounds = 0;
    for (; carriers() == 0; rounds++) {
        if (deadline_left(limit) == 0)
            fail_msg("nobody is carried after %llu rounds", (unsigned long long)rounds);
        play(rigs);
    }
    return rounds;
}

static void finish(struct rig rigs[RELAYS], uint64_t rounds)
{
    for (unsigned i = 0; i < RELAYS; i++) {
        MUST(shutdown(rigs[i].client, SHUT_WR) == 0);
        assert_int_equal(rig_next(rigs[i].target), RIG_EOF);
        rig_pass(rigs[i].target, rigs[i].client, "the last word");
        MUST(shutdown(rigs[i].target, SHUT_WR) == 0);
        rig_join(&rigs[i]);
        rig_assert_ended(&rigs[i], CLOSE_COMPLETED, ENDED_BY_CLIENT);
        assert_int_equal(rig_bytes(&rigs[i], RELAY_CLIENT), rounds * strlen("ping"));
        assert_int_equal(rig_bytes(&rigs[i], RELAY_TARGET), rounds * strlen("pong") + strlen("the last word"));
        rig_release(&rigs[i]);
    }
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL)
        fail_msg("no /proc/self/fd");
    while (directory != NULL && readdir(directory) != NULL)
        count++;
    MUST(closedir(directory) == 0);
    return count;
}

static void test_they_end_as_others_do(void **state)
{
    (void)state;
    unsigned before = open_descriptors();
    struct rig rigs[RELAYS];
    start(rigs, RIG_TCP);
    uint64_t rounds = play_until_carried(rigs);
    for (unsigned i = 0; i < 100; i++, rounds++)
        play(rigs);
    finish(rigs, rounds);
    await_carriers(0);
    assert_int_equal(open_descriptors(), before);
}

static void test_quiet_ones_are_served_by_their_own_threads_again(void **state)
{
    (void)state;
    struct rig rigs[RELAYS];
    start(rigs, RIG_UNIX);
    uint64_t rounds = play_until_carried(rigs);
    await_carriers(0);
    play(rigs);
    finish(rigs, rounds + 1);
}

// A peer that takes nothing holds up its own relay alone.
static void test_a_write_that_waits_is_not_carried(void **state)
{
    (void)state;
    struct rig rigs[RELAYS];
    start(rigs, RIG_TCP);
    uint64_t rounds = play_until_carried(rigs), size = 0;
    static const char much[4096];
    ssize_t sent;
    int64_t limit = deadline_after(PATIENCE);
    while ((sent = send(rigs[0].client, much, sizeof much, MSG_DONTWAIT)) > 0 || carriers() < 2) {
        size += sent > 0 ? (uint64_t)sent : 0;
        if (deadline_left(limit) == 0)
            fail_msg("its second thread has not come");
        rig_pass(rigs[1].client, rigs[1].target, "ping");
        rig_pass(rigs[1].target, rigs[1].client, "pong");
    }
    for (uint64_t left = size; left > 0;) {
        char taken[65536];
        ssize_t received = recv(rigs[0].target, taken, sizeof taken, 0);
        MUST(received > 0);
        left -= (uint64_t)received;
    }
    assert_true(rig_bytes(&rigs[0], RELAY_CLIENT) <= rounds * strlen("ping") + size);
    for (unsigned i = 0; i < RELAYS; i++) {
        MUST(shutdown(rigs[i].client, SHUT_WR) == 0 && shutdown(rigs[i].target, SHUT_WR) == 0);
        rig_join(&rigs[i]);
        assert_int_equal(rigs[i].failure.reason, CLOSE_COMPLETED);
        rig_release(&rigs[i]);
    }
}

static void test_a_silent_side_times_out(void **state)
{
    (void)state;
    struct rig rigs[RELAYS];
    for (unsigned i = 0; i < RELAYS; i++) {
        rig_init(&rigs[i], RIG_TCP, RIG_TCP, 0);
        rigs[i].relay.sockets[RELAY_CLIENT].read_timeout = 300 * NS_PER_MS;
        rig_start(&rigs[i]);
    }
    (void)play_until_carried(rigs);
    for (unsigned i = 0; i < RELAYS; i++) {
        assert_int_equal(rig_next(rigs[i].client), RIG_EOF);
        rig_join(&rigs[i]);
        rig_assert_ended(&rigs[i], CLOSE_CLIENT_READ_TIMEOUT, ENDED_BY_PROXY);
        rig_release(&rigs[i]);
    }
}

static void test_nobody_is_carried_where_that_is_not_allowed(void **state)
{
    (void)state;
    struct rig rigs[RELAYS];
    relay_allow_carriers(false);
    start(rigs, RIG_TCP);
    for (unsigned i = 0; i < 200; i++) {
        play(rigs);
        assert_int_equal(carriers(), 0);
    }
    finish(rigs, 200);
    relay_allow_carriers(true);
}

int main(void)
{
    cpu_set_t one;
    MUST(sched_getaffinity(0, sizeof one, &one) == 0);
    for (size_t cpu = CPU_SETSIZE - 1; CPU_COUNT(&one) > 1; cpu--)
        CPU_CLR(cpu, &one);
    MUST(sched_setaffinity(0, sizeof one, &one) == 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_they_end_as_others_do),
        cmocka_unit_test(test_quiet_ones_are_served_by_their_own_threads_again),
        cmocka_unit_test(test_a_write_that_waits_is_not_carried),
        cmocka_unit_test(test_a_silent_side_times_out),
        cmocka_unit_test(test_nobody_is_carried_where_that_is_not_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
