// How a relay ends by what its two sides do: every close order, resets either way.

#include "relay_peers.h"

// Each case is run over each pairing of socket kinds.
static const struct {
    enum rig_kind client, target;
} pairings[] = {{RIG_TCP, RIG_TCP}, {RIG_TCP, RIG_UNIX}, {RIG_UNIX, RIG_TCP}, {RIG_UNIX, RIG_UNIX}};

#define FOR_EACH_PAIRING(i) for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++)

static void test_messages_pass_both_ways(void **state)
{
    (void)state;
    FOR_EACH_PAIRING(i)
    {
        struct rig rig;
        rig_init(&rig, pairings[i].client, pairings[i].target, 0);
        rig_start(&rig);
        for (int round = 0; round < 100; round++) {
            rig_pass(rig.client, rig.target, "question");
            rig_pass(rig.target, rig.client, "an answer");
        }
        rig_close_far(&rig.client);
        assert_int_equal(rig_next(rig.target), RIG_EOF);
        rig_close_far(&rig.target);
        rig_join(&rig);
        rig_assert_ended(&rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
        rig_assert_resets(&rig, false, false);
        assert_int_equal(rig_bytes(&rig, RELAY_CLIENT), 800);
        assert_int_equal(rig_bytes(&rig, RELAY_TARGET), 900);
        rig_release(&rig);
    }
}

// The side `first` ends its stream; the other direction goes on and carries much more before it ends too.
static void half_close(size_t pairing, enum relay_side first)
{
    struct rig rig;
    rig_init(&rig, pairings[pairing].client, pairings[pairing].target, 0);
    rig_start(&rig);
    int one = first == RELAY_CLIENT ? rig.client : rig.target;
    int other = first == RELAY_CLIENT ? rig.target : rig.client;
    enum rig_end end;
    assert_int_equal(rig_send(one, 1, 0, 5000), 5000);
    MUST(shutdown(one, SHUT_WR) == 0);
    assert_int_equal(rig_receive(other, 1, 0, RIG_ALL, &end), 5000);
    assert_int_equal(end, RIG_EOF);
    for (uint64_t at = 0; at < 300000; at += 30000) {
        assert_int_equal(rig_send(other, 2, at, 30000), 30000);
        assert_int_equal(rig_receive(one, 2, at, 30000, &end), 30000);
    }
    assert_int_equal(atomic_load(&rig.reason), CLOSE_NONE);
    MUST(shutdown(other, SHUT_WR) == 0);
    assert_int_equal(rig_next(one), RIG_EOF);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_COMPLETED, first == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
    rig_assert_resets(&rig, false, false);
    assert_int_equal(rig_bytes(&rig, first), 5000);
    assert_int_equal(rig_bytes(&rig, first == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT), 300000);
    rig_release(&rig);
}

static void test_a_half_close_of_the_client_leaves_the_other_direction_open(void **state)
{
    (void)state;
    FOR_EACH_PAIRING(i) half_close(i, RELAY_CLIENT);
}

static void test_a_half_close_of_the_target_leaves_the_other_direction_open(void **state)
{
    (void)state;
    FOR_EACH_PAIRING(i) half_close(i, RELAY_TARGET);
}

// Everything sent before an orderly close arrives, however late the other side begins to read.
static void test_what_was_sent_before_a_close_arrives(void **state)
{
    (void)state;
    FOR_EACH_PAIRING(i)
    {
        struct rig rig;
        rig_init(&rig, pairings[i].client, pairings[i].target, 0);
        MUST(shutdown(rig.target, SHUT_WR) == 0);
        assert_int_equal(rig_send(rig.client, 3, 0, 60000), 60000);
        rig_close_far(&rig.client);
        rig_start(&rig);
        rig_join(&rig);
        assert_int_equal(rig.failure.reason, CLOSE_COMPLETED);
        enum rig_end end;
        assert_int_equal(rig_receive(rig.target, 3, 0, RIG_ALL, &end), 60000);
        assert_int_equal(end, RIG_EOF);
        rig_release(&rig);
    }
}

// `side` sends some and resets; the other side gets all of that, and then no orderly end.
static void reset_while_idle(enum rig_kind kind, enum relay_side side)
{
    struct rig rig;
    rig_init(&rig, side == RELAY_CLIENT ? kind : RIG_TCP, side == RELAY_CLIENT ? RIG_TCP : kind, 0);
    rig_start(&rig);
    int *one = side == RELAY_CLIENT ? &rig.client : &rig.target;
    int other = side == RELAY_CLIENT ? rig.target : rig.client;
    enum rig_end end;
    // The relay has taken it when it is counted, so that the reset cannot overtake it in the socket.
    assert_int_equal(rig_send(*one, 4, 0, 10000), 10000);
    assert_int_equal(rig_receive(other, 4, 0, 9999, &end), 9999);
    if (kind == RIG_UNIX) {
        // A Unix socket is reset by closing it while something is unread.
        rig_pass(other, *one, "x");
        MUST(send(other, "unread", 6, MSG_NOSIGNAL) == 6);
        int64_t deadline = clock_now() + PATIENCE;
        while (rig_bytes(&rig, side == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT) < 7)
            MUST(clock_now() < deadline);
        rig_close_far(one);
    } else {
        rig_reset_far(one);
    }
    rig_join(&rig);
    rig_assert_ended(&rig, side == RELAY_CLIENT ? CLOSE_CLIENT_RESET : CLOSE_TARGET_RESET,
                     side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
    rig_assert_resets(&rig, side == RELAY_TARGET, side == RELAY_CLIENT);
    assert_int_equal(rig.failure.error.os_errno, ECONNRESET);
    uint64_t rest = rig_receive(other, 4, 9999, RIG_ALL, &end);
    assert_int_equal(rest, 1);
    assert_int_equal(end, RIG_RESET);
    assert_int_equal(rig_bytes(&rig, side), 10000);
    rig_release(&rig);
}

static void test_a_reset_resets_the_other_side(void **state)
{
    (void)state;
    reset_while_idle(RIG_TCP, RELAY_CLIENT);
    reset_while_idle(RIG_TCP, RELAY_TARGET);
    reset_while_idle(RIG_UNIX, RELAY_CLIENT);
    reset_while_idle(RIG_UNIX, RELAY_TARGET);
}

// The target neither reads nor stays: the relay is stuck in a write to it when the reset comes. That write may be what
// takes the socket's error, so that the other direction reads an end of stream: the client must not see one.
static void reset_during_write(enum rig_kind target, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        struct rig rig;
        rig_init(&rig, RIG_TCP, target, 4096);
        rig_start(&rig);
        (void)rig_stuff(&rig, RELAY_CLIENT);
        assert_int_equal(rig_send(rig.target, 6, 0, 1000), 1000);
        assert_true(rig_wait_bytes(&rig, RELAY_TARGET, 1000));
        if (target == RIG_TCP)
            rig_reset_far(&rig.target);
        else
            rig_close_far(&rig.target);
        rig_join(&rig);
        rig_assert_ended(&rig, CLOSE_TARGET_RESET, ENDED_BY_TARGET);
        rig_assert_resets(&rig, true, false);
        enum rig_end end;
        assert_int_equal(rig_receive(rig.client, 6, 0, RIG_ALL, &end), 1000);
        assert_int_equal(end, RIG_RESET);
        rig_release(&rig);
    }
}

static void test_a_reset_during_a_write_is_no_orderly_end(void **state)
{
    (void)state;
    reset_during_write(RIG_TCP, 5);
    reset_during_write(RIG_UNIX, 5);
}

// What the target had sent before it went is delivered, though the client reads it only later.
static void test_what_was_sent_before_a_reset_arrives(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        struct rig rig;
        rig_init(&rig, RIG_TCP, RIG_TCP, 0);
        MUST(send(rig.client, "request", 7, MSG_NOSIGNAL) == 7);
        assert_int_equal(rig_send(rig.target, 7, 0, 50000), 50000);
        rig_reset_far(&rig.target);
        rig_start(&rig);
        enum rig_end end;
        assert_int_equal(rig_receive(rig.client, 7, 0, 50000, &end), 50000);
        rig_join(&rig);
        rig_assert_ended(&rig, CLOSE_TARGET_RESET, ENDED_BY_TARGET);
        rig_assert_resets(&rig, true, false);
        assert_int_equal(rig_next(rig.client), RIG_RESET);
        assert_int_equal(rig_bytes(&rig, RELAY_TARGET), 50000);
        rig_release(&rig);
    }
}

// The client has little room, so that most of what the target had sent still waits in the relay's socket when the
// relay ends: closing that with a reset at once would lose it.
static void test_what_waits_to_be_sent_at_a_reset_arrives(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    int room = 4096;
    MUST(setsockopt(rig.client, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) == 0);
    rig_start(&rig);
    assert_int_equal(rig_send(rig.target, 8, 0, 100000), 100000);
    assert_true(rig_wait_bytes(&rig, RELAY_TARGET, 100000));
    rig_reset_far(&rig.target);
    int64_t deadline = clock_now() + PATIENCE;
    while (atomic_load(&rig.reason) == CLOSE_NONE)
        MUST(clock_now() < deadline && usleep(1000) == 0);
    struct peer reader = {.fd = &rig.client, .manner = PEER_ANSWERS, .receives_stream = 8, .random = 1};
    peer_start(&reader);
    rig_join(&rig);
    peer_join(&reader);
    rig_assert_ended(&rig, CLOSE_TARGET_RESET, ENDED_BY_TARGET);
    assert_int_equal(reader.received, 100000);
    assert_int_equal(reader.end, RIG_RESET);
    rig_release(&rig);
}

// The target resets while the other direction is stuck in a write to a client that does not read: that one is given the
// grace, then the relay ends all the same.
static void test_a_stuck_side_ends_after_the_grace(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 4096);
    rig_start(&rig);
    (void)rig_stuff(&rig, RELAY_TARGET);
    (void)rig_stuff(&rig, RELAY_CLIENT);
    rig_reset_far(&rig.target);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_TARGET_RESET, ENDED_BY_TARGET);
    rig_assert_resets(&rig, true, false);
    assert_within(rig.began, rig.ended, 10 * NS_PER_S);
    rig_release(&rig);
}

// A client that closes both ways while the target still sends resets the connection.
static void test_a_write_to_a_closed_client_is_its_reset(void **state)
{
    (void)state;
    FOR_EACH_PAIRING(i)
    {
        struct rig rig;
        rig_init(&rig, pairings[i].client, pairings[i].target, 0);
        rig_start(&rig);
        rig_pass(rig.client, rig.target, "hello");
        rig_close_far(&rig.client);
        assert_int_equal(rig_next(rig.target), RIG_EOF);
        while (atomic_load(&rig.reason) == CLOSE_NONE)
            MUST(send(rig.target, "more", 4, MSG_NOSIGNAL) == 4 && usleep(100) == 0);
        rig_join(&rig);
        rig_assert_ended(&rig, CLOSE_CLIENT_RESET, ENDED_BY_CLIENT);
        rig_assert_resets(&rig, false, true);
        rig_release(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_pass_both_ways),
        cmocka_unit_test(test_a_half_close_of_the_client_leaves_the_other_direction_open),
        cmocka_unit_test(test_a_half_close_of_the_target_leaves_the_other_direction_open),
        cmocka_unit_test(test_what_was_sent_before_a_close_arrives),
        cmocka_unit_test(test_a_reset_resets_the_other_side),
        cmocka_unit_test(test_a_reset_during_a_write_is_no_orderly_end),
        cmocka_unit_test(test_what_was_sent_before_a_reset_arrives),
        cmocka_unit_test(test_what_waits_to_be_sent_at_a_reset_arrives),
        cmocka_unit_test(test_a_stuck_side_ends_after_the_grace),
        cmocka_unit_test(test_a_write_to_a_closed_client_is_its_reset),
    };
    const struct at_once_group groups[] = {
        AT_ONCE_GROUP("with threads to be had", tests, rig_prepare),
        AT_ONCE_GROUP("on one thread", tests, rig_prepare_one_thread),
    };
    return at_once_run(groups, ARRAY_LENGTH(groups));
}
