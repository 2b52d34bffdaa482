// A relay that took a second thread gives it back when both of its directions have been quiet, and goes on by one
// thread as if it had never had two.

#include "bitflow/base/compiler.h"
#include "relay_peers.h"

#define MS(n) ((n) * NS_PER_MS)
#define QUIET_AFTER MS(1000)
#define GIVEN_BACK_WITHIN MS(3500) // as long for each direction, and again until the caller looks
#define TICK MS(10)
#define LATE MS(1000)

static const struct {
    enum rig_kind client, target;
} pairings[] = {{RIG_TCP, RIG_TCP}, {RIG_TCP, RIG_UNIX}, {RIG_UNIX, RIG_TCP}, {RIG_UNIX, RIG_UNIX}};

static bool has_second_thread(const struct rig *rig)
{
    char name[THREAD_NAME_SIZE + 1];
    return rig_read_thread(rig->relay.second_thread_name, "comm", name, (int)sizeof name);
}

static void wait_second_thread(const struct rig *rig)
{
    int64_t deadline = clock_now() + PATIENCE;
    while (!has_second_thread(rig))
        MUST(clock_now() < deadline && usleep(1000) == 0);
}

// What one side has sent of its stream, which the other has received.
static void bulk_from(struct rig *rig, enum relay_side side)
{
    enum rig_end end;
    uint64_t sent = rig_stuff(rig, side);
    wait_second_thread(rig);
    assert_int_equal(rig_receive(side == RELAY_CLIENT ? rig->target : rig->client, 5, 0, sent, &end), sent);
}

static void wait_given_back(const struct rig *rig)
{
    int64_t deadline = clock_now() + PATIENCE;
    while (has_second_thread(rig))
        MUST(clock_now() < deadline && usleep(1000) == 0);
    assert_int_equal(atomic_load(rig->relay.settled_reason), CLOSE_NONE);
}

static enum relay_side alternate(size_t number)
{
    return number % 2 == 0 ? RELAY_CLIENT : RELAY_TARGET;
}

static void end_in_order(struct rig *rig, enum relay_side first)
{
    int *one = first == RELAY_CLIENT ? &rig->client : &rig->target;
    int *other = first == RELAY_CLIENT ? &rig->target : &rig->client;
    MUST(shutdown(*one, SHUT_WR) == 0);
    assert_int_equal(rig_next(*other), RIG_EOF);
    rig_pass(*other, *one, "the last word");
    rig_close_far(other);
    assert_int_equal(rig_next(*one), RIG_EOF);
    rig_join(rig);
    rig_assert_ended(rig, CLOSE_COMPLETED, first == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
    rig_assert_resets(rig, false, false);
    rig_release(rig);
}

static void pass_both_ways(const struct rig *rig, unsigned messages)
{
    for (unsigned message = 0; message < messages; message++) {
        rig_pass(rig->client, rig->target, "question");
        rig_pass(rig->target, rig->client, "answer");
    }
}

static void test_a_quiet_relay_gives_its_second_thread_back_and_takes_one_again(void **state)
{
    (void)state;
    static struct rig rigs[ARRAY_LENGTH(pairings)];
    for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++) {
        rig_init(&rigs[i], pairings[i].client, pairings[i].target, 0);
        rig_start(&rigs[i]);
    }
    for (size_t again = 0; again < 2; again++) {
        for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++)
            bulk_from(&rigs[i], alternate(i + again));
        for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++) {
            wait_given_back(&rigs[i]);
            pass_both_ways(&rigs[i], 20);
            assert_false(has_second_thread(&rigs[i]));
        }
        assert_int_equal(pipe_pool_count().taken, 0);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++)
        end_in_order(&rigs[i], alternate(i));
}

static void test_it_is_given_back_soon(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig_start(&rig);
    bulk_from(&rig, RELAY_TARGET);
    int64_t since = clock_now();
    wait_given_back(&rig);
    assert_within(since, clock_now(), GIVEN_BACK_WITHIN + LATE);
    end_in_order(&rig, RELAY_TARGET);
}

// Full reads in a row, until there is a second thread.
static void take_second_thread(struct rig *rig, enum relay_side side)
{
    int from = side == RELAY_CLIENT ? rig->client : rig->target, to = side == RELAY_CLIENT ? rig->target : rig->client;
    int64_t deadline = clock_now() + PATIENCE;
    for (uint64_t at = 0; !has_second_thread(rig); at += 60000) {
        enum rig_end end;
        MUST(clock_now() < deadline);
        assert_int_equal(rig_send(from, 1, at, 60000), 60000);
        assert_int_equal(rig_receive(to, 1, at, 60000, &end), 60000);
    }
}

// False: it says nothing, for a busy direction may have been quiet for once.
static bool keep_busy(struct rig rigs[2])
{
    int64_t since = clock_now(), until = since + GIVEN_BACK_WITHIN;
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++)
        take_second_thread(&rigs[side], (enum relay_side)side);
    do {
        rig_pass(rigs[RELAY_CLIENT].client, rigs[RELAY_CLIENT].target, "a message");
        rig_pass(rigs[RELAY_TARGET].target, rigs[RELAY_TARGET].client, "a message");
        bool are_kept = has_second_thread(&rigs[RELAY_CLIENT]) && has_second_thread(&rigs[RELAY_TARGET]);
        if (!are_kept && rig_is_excused(since, QUIET_AFTER))
            return false;
        assert_true(are_kept);
        MUST(usleep(50000) == 0);
    } while (clock_now() < until);
    return true;
}

static void test_a_relay_with_one_busy_direction_keeps_both_threads(void **state)
{
    (void)state;
    static struct rig rigs[2]; // by the side that is busy
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        rig_init(&rigs[side], RIG_TCP, RIG_TCP, 0);
        rig_start(&rigs[side]);
    }
    RIG_TRY(keep_busy(rigs));
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        wait_given_back(&rigs[side]);
        end_in_order(&rigs[side], RELAY_CLIENT);
    }
}

static void test_a_half_closed_relay_gives_it_back_too(void **state)
{
    (void)state;
    static struct rig rigs[2 * ARRAY_LENGTH(pairings)];
    int *one[ARRAY_LENGTH(rigs)], *other[ARRAY_LENGTH(rigs)];
    for (size_t i = 0; i < ARRAY_LENGTH(rigs); i++) {
        rig_init(&rigs[i], pairings[i / 2].client, pairings[i / 2].target, 0);
        one[i] = i % 2 == 0 ? &rigs[i].client : &rigs[i].target;
        other[i] = i % 2 == 0 ? &rigs[i].target : &rigs[i].client;
        rig_start(&rigs[i]);
        bulk_from(&rigs[i], RELAY_CLIENT);
        MUST(shutdown(*one[i], SHUT_WR) == 0);
        assert_int_equal(rig_next(*other[i]), RIG_EOF);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(rigs); i++) {
        wait_given_back(&rigs[i]);
        rig_wait_blocked(&rigs[i], RELAY_CLIENT, SYS_poll, 1, 2);
        rig_pass(*other[i], *one[i], "still there");
        rig_close_far(other[i]);
        assert_int_equal(rig_next(*one[i]), RIG_EOF);
        rig_join(&rigs[i]);
        rig_assert_ended(&rigs[i], CLOSE_COMPLETED, i % 2 == 0 ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
        rig_release(&rigs[i]);
    }
}

static void test_a_reset_is_noticed_afterwards(void **state)
{
    (void)state;
    struct rig rigs[2];
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        rig_init(&rigs[side], RIG_TCP, RIG_TCP, 0);
        rig_start(&rigs[side]);
        bulk_from(&rigs[side], (enum relay_side)side);
    }
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        struct rig *rig = &rigs[side];
        wait_given_back(rig);
        rig_reset_far(side == RELAY_CLIENT ? &rig->client : &rig->target);
        rig_join(rig);
        rig_assert_ended(rig, side == RELAY_CLIENT ? CLOSE_CLIENT_RESET : CLOSE_TARGET_RESET,
                         side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
        assert_int_equal(rig_next(side == RELAY_CLIENT ? rig->target : rig->client), RIG_RESET);
        rig_release(rig);
    }
}

static void test_it_can_be_ended_from_outside_afterwards(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig_start(&rig);
    bulk_from(&rig, RELAY_CLIENT);
    wait_given_back(&rig);
    rig_wait_blocked(&rig, RELAY_CLIENT, SYS_poll, 1, 2);
    int64_t asked = clock_now();
    rig_end(&rig, CLOSE_LIFETIME);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_LIFETIME, ENDED_BY_PROXY);
    assert_within(asked, rig.ended, MS(900));
    rig_release(&rig);
}

// The silence counts as one, though one engine has begun to count and the other ends it.
static void test_the_read_timeout_is_neither_shortened_nor_prolonged(void **state)
{
    (void)state;
    const int64_t timeout = 2 * GIVEN_BACK_WITHIN;
    struct rig rigs[2]; // by the side that has a read timeout
    int64_t before[2], after[2];
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        rig_init(&rigs[side], RIG_TCP, RIG_TCP, 0);
        rigs[side].relay.sockets[side].read_timeout = timeout;
        rig_start(&rigs[side]);
        take_second_thread(&rigs[side], RELAY_CLIENT);
    }
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        int client = rigs[side].client, target = rigs[side].target;
        before[side] = clock_now();
        rig_pass(side == RELAY_CLIENT ? client : target, side == RELAY_CLIENT ? target : client, "the last one");
        after[side] = clock_now();
    }
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++)
        wait_given_back(&rigs[side]); // before the timeout
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        struct rig *rig = &rigs[side];
        rig_join(rig);
        rig_assert_ended(rig, side == RELAY_CLIENT ? CLOSE_CLIENT_READ_TIMEOUT : CLOSE_TARGET_READ_TIMEOUT,
                         ENDED_BY_PROXY);
        assert_true(rig->ended - before[side] >= timeout - TICK);
        assert_within(after[side], rig->ended, timeout + LATE);
        rig_release(rig);
    }
}

// --- data that comes in the moment of the hand-over ------------------------------------------------------------------

#define TALKS 96
#define FLOOD 400000 // more than the relay can pass on without waiting

// Whoever blocks in a write while nobody serves the other direction hangs.
static void test_nothing_is_lost_when_data_comes_while_the_thread_leaves(void **state)
{
    (void)state;
    static struct rig rigs[TALKS];
    static struct peer peers[TALKS][2];
    for (size_t i = 0; i < TALKS; i++) {
        rig_init(&rigs[i], pairings[i % 4].client, pairings[i % 4].target, 0);
        rig_start(&rigs[i]);
        take_second_thread(&rigs[i], RELAY_CLIENT);
    }
    // Spread over the time in which the second threads leave.
    for (size_t i = 0; i < TALKS; i++) {
        MUST(usleep(4000000 / TALKS) == 0);
        for (unsigned side = 0; side < 2; side++) {
            peers[i][side] = (struct peer){.fd = side == 0 ? &rigs[i].client : &rigs[i].target,
                                           .sends_stream = side,
                                           .receives_stream = 1 - side,
                                           .size = FLOOD,
                                           .random = (unsigned)i + 1};
            peer_start(&peers[i][side]);
        }
    }
    for (size_t i = 0; i < TALKS; i++) {
        for (unsigned side = 0; side < 2; side++)
            peer_join(&peers[i][side]);
        rig_join(&rigs[i]);
        assert_int_equal(rigs[i].failure.reason, CLOSE_COMPLETED);
        for (unsigned side = 0; side < 2; side++) {
            assert_int_equal(peers[i][side].received, FLOOD);
            assert_int_equal(peers[i][side].end, RIG_EOF);
        }
        rig_release(&rigs[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_quiet_relay_gives_its_second_thread_back_and_takes_one_again),
        cmocka_unit_test(test_it_is_given_back_soon),
        cmocka_unit_test(test_a_relay_with_one_busy_direction_keeps_both_threads),
        cmocka_unit_test(test_a_half_closed_relay_gives_it_back_too),
        cmocka_unit_test(test_a_reset_is_noticed_afterwards),
        cmocka_unit_test(test_it_can_be_ended_from_outside_afterwards),
        cmocka_unit_test(test_the_read_timeout_is_neither_shortened_nor_prolonged),
        cmocka_unit_test(test_nothing_is_lost_when_data_comes_while_the_thread_leaves),
    };
    const struct at_once_group group = AT_ONCE_GROUP("a quiet relay", tests, rig_prepare);
    return at_once_run(&group, 1);
}
