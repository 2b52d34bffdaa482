// The end of the stream that is passed on last: a socket that is closed next need not be shut down for it, unless that
// could tell of a reset.

#include "relay_rig.h"
#include "tcp_segments.h"

static void start(struct rig *rig, enum rig_kind kind, bool are_closed_next)
{
    rig_init(rig, kind, kind, 0);
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++)
        rig->relay.sockets[side].is_closed_next = are_closed_next;
    rig_start(rig);
    rig_wait_blocked(rig, RELAY_CLIENT, SYS_poll, 1, 2);
}

// `first`, one of the far ends, ends its stream, and then `last` does.
static void end_both(struct rig *rig, int first, int last)
{
    MUST(shutdown(first, SHUT_WR) == 0);
    assert_int_equal(rig_next(last), RIG_EOF);
    rig_wait_blocked(rig, RELAY_CLIENT, SYS_poll, 1, 2);
    MUST(shutdown(last, SHUT_WR) == 0);
    for (int64_t until = clock_now() + PATIENCE; !rig->ran && clock_now() < until;)
        MUST(usleep(1000) == 0);
    assert_true(rig->ran);
}

static bool has_ended(int far)
{
    struct pollfd poller = {.fd = far, .events = POLLIN};
    return poll(&poller, 1, 0) == 1;
}

// Whichever ended first, and of which kind: nothing but close() says so, and that as orderly.
static void test_a_socket_that_is_closed_next_is_not_shut_down(void **state)
{
    (void)state;
    for (int turn = 0; turn < 4; turn++) {
        struct rig rig;
        bool is_target_first = turn % 2 == 0;
        start(&rig, turn < 2 ? RIG_TCP : RIG_UNIX, true);
        rig_pass(rig.client, rig.target, "question");
        rig_pass(rig.target, rig.client, "answer");
        int first = is_target_first ? rig.target : rig.client, last = is_target_first ? rig.client : rig.target;
        end_both(&rig, first, last);
        assert_false(has_ended(first));
        rig_join(&rig);
        assert_int_equal(rig_next(first), RIG_EOF);
        rig_assert_ended(&rig, CLOSE_COMPLETED, is_target_first ? ENDED_BY_TARGET : ENDED_BY_CLIENT);
        rig_assert_resets(&rig, false, false);
        rig_release(&rig);
    }
}

// Whoever does not close at once has it shut down.
static void test_a_socket_that_stays_open_is_shut_down(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, RIG_TCP, false);
    end_both(&rig, rig.target, rig.client);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_COMPLETED, ENDED_BY_TARGET);
    rig_release(&rig);
}

// The target has ended, and closed: what the client still sends is answered by a reset, which only shutdown() finds
// where the client's end came with its last bytes.
static void test_a_reset_by_the_last_bytes_is_found(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, RIG_TCP, true);
    rig_pass(rig.client, rig.target, "question");
    rig_close_far(&rig.target);
    assert_int_equal(rig_next(rig.client), RIG_EOF);
    rig_wait_blocked(&rig, RELAY_CLIENT, SYS_poll, 1, 2);
    MUST(send(rig.client, "more", 4, MSG_NOSIGNAL | MSG_MORE) == 4 && shutdown(rig.client, SHUT_WR) == 0);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_TARGET_RESET, ENDED_BY_TARGET);
    rig_assert_resets(&rig, true, false);
    rig_release(&rig);
}

// And one that has come between the two is told by poll().
static void test_a_reset_before_the_last_end_is_found(void **state)
{
    (void)state;
    struct rig rig;
    start(&rig, RIG_TCP, true);
    rig_pass(rig.client, rig.target, "question");
    MUST(shutdown(rig.target, SHUT_WR) == 0);
    assert_int_equal(rig_next(rig.client), RIG_EOF);
    rig_reset_far(&rig.target);
    MUST(shutdown(rig.client, SHUT_WR) == 0);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_TARGET_RESET, ENDED_BY_TARGET);
    rig_assert_resets(&rig, true, false);
    rig_release(&rig);
}

// Whoever sends both at once has them passed on at once.
static void test_the_last_bytes_and_the_end_make_one_segment(void **state)
{
    (void)state;
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        struct rig rig;
        char answer[8];
        start(&rig, RIG_TCP, false);
        int from = side == RELAY_CLIENT ? rig.client : rig.target, to = side == RELAY_CLIENT ? rig.target : rig.client;
        unsigned before = tcp_segments_in(to);
        MUST(send(from, "last", 4, MSG_NOSIGNAL | MSG_MORE) == 4 && shutdown(from, SHUT_WR) == 0);
        MUST(recv(to, answer, sizeof answer, MSG_WAITALL) == 4);
        assert_memory_equal(answer, "last", 4);
        assert_int_equal(tcp_segments_in(to) - before, 1);
        rig_pass(to, from, "goes on");
        rig_close_far(side == RELAY_CLIENT ? &rig.target : &rig.client);
        rig_join(&rig);
        rig_assert_ended(&rig, CLOSE_COMPLETED, side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
        rig_release(&rig);
    }
}

// A read stops before the urgent byte, which is no end.
static void test_bytes_behind_an_urgent_one_come_before_the_end(void **state)
{
    (void)state;
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        struct rig rig;
        char got[8];
        start(&rig, RIG_TCP, true);
        socket_keep_urgent_data(rig.relay.sockets[side].fd);
        int from = side == RELAY_CLIENT ? rig.client : rig.target, to = side == RELAY_CLIENT ? rig.target : rig.client;
        MUST(send(from, "ab", 2, MSG_NOSIGNAL | MSG_MORE) == 2 && send(from, "c", 1, MSG_NOSIGNAL | MSG_OOB) == 1);
        MUST(send(from, "de", 2, MSG_NOSIGNAL | MSG_MORE) == 2 && shutdown(from, SHUT_WR) == 0);
        MUST(recv(to, got, sizeof got, MSG_WAITALL) == 5);
        assert_memory_equal(got, "abcde", 5);
        rig_close_far(side == RELAY_CLIENT ? &rig.target : &rig.client);
        rig_join(&rig);
        rig_assert_ended(&rig, CLOSE_COMPLETED, side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
        rig_release(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_last_bytes_and_the_end_make_one_segment),
        cmocka_unit_test(test_bytes_behind_an_urgent_one_come_before_the_end),
        cmocka_unit_test(test_a_socket_that_is_closed_next_is_not_shut_down),
        cmocka_unit_test(test_a_socket_that_stays_open_is_shut_down),
        cmocka_unit_test(test_a_reset_by_the_last_bytes_is_found),
        cmocka_unit_test(test_a_reset_before_the_last_end_is_found),
    };
    rig_prepare();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
