// How a relay is ended by time and from outside: read and write timeouts, what refreshes them, a drain that must wake a
// direction wherever it is blocked.

#include "relay_rig.h"

#define MS(n) ((n) * NS_PER_MS)
// A timeout may come late on a busy machine, never early. (The coarse clock and the kernel's timer have ticks.)
#define TICK MS(10)
#define LATE MS(4000)

static void assert_took(const struct rig *rig, int64_t since, int64_t expected)
{
    assert_true(rig->ended - since >= expected - TICK);
    assert_within(since, rig->ended, expected + LATE);
}

static void idle_timeout(int64_t client, int64_t target, enum close_reason reason, int64_t expected)
{
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig.relay.sockets[RELAY_CLIENT].read_timeout = client;
    rig.relay.sockets[RELAY_TARGET].read_timeout = target;
    rig_start(&rig);
    rig_join(&rig);
    rig_assert_ended(&rig, reason, ENDED_BY_PROXY);
    rig_assert_resets(&rig, false, false);
    assert_took(&rig, rig.began, expected);
    assert_int_equal(rig_next(rig.client), RIG_EOF);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    rig_release(&rig);
}

static void test_an_idle_connection_ends_with_the_first_read_timeout(void **state)
{
    (void)state;
    idle_timeout(MS(150), 0, CLOSE_CLIENT_READ_TIMEOUT, MS(150));
    idle_timeout(0, MS(150), CLOSE_TARGET_READ_TIMEOUT, MS(150));
    idle_timeout(MS(150), MS(6000), CLOSE_CLIENT_READ_TIMEOUT, MS(150));
    idle_timeout(MS(6000), MS(150), CLOSE_TARGET_READ_TIMEOUT, MS(150));
}

// `talker` sends now and then, the other side is silent for much longer than its read timeout. False: so may
// the talker have been.
static bool one_way(enum rig_kind kind, enum relay_side talker)
{
    const int64_t timeout = MS(300);
    struct rig rig;
    rig_init(&rig, kind, kind, 0);
    rig.relay.sockets[talker == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT].read_timeout = timeout;
    rig_start(&rig);
    int from = talker == RELAY_CLIENT ? rig.client : rig.target;
    int to = talker == RELAY_CLIENT ? rig.target : rig.client;
    bool goes_on = true;
    int64_t last = 0;
    while (goes_on && clock_now() - rig.began < MS(1200)) {
        last = clock_now();
        goes_on = rig_try_pass(from, to, "tick");
        MUST(usleep(20000) == 0);
    }
    if (!goes_on && rig_is_excused(rig.began, timeout)) {
        rig_abandon(&rig);
        return false;
    }
    assert_true(goes_on);
    rig_join(&rig);
    rig_assert_ended(&rig, talker == RELAY_CLIENT ? CLOSE_TARGET_READ_TIMEOUT : CLOSE_CLIENT_READ_TIMEOUT,
                     ENDED_BY_PROXY);
    assert_took(&rig, last, timeout);
    rig_release(&rig);
    return true;
}

static void test_writes_refresh_the_read_timeout(void **state)
{
    (void)state;
    RIG_TRY(one_way(RIG_TCP, RELAY_TARGET));
    RIG_TRY(one_way(RIG_TCP, RELAY_CLIENT));
    RIG_TRY(one_way(RIG_UNIX, RELAY_TARGET));
}

static void test_an_ended_side_leaves_the_other_ones_read_timeout(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig.relay.sockets[RELAY_CLIENT].read_timeout = MS(100);
    rig.relay.sockets[RELAY_TARGET].read_timeout = MS(60000);
    MUST(shutdown(rig.client, SHUT_WR) == 0);
    rig_start(&rig);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    MUST(usleep(400000) == 0); // four times the timeout
    rig_pass(rig.target, rig.client, "late answer");
    rig_close_far(&rig.target);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
    rig_release(&rig);
}

// One side ends; the timeouts are the relay's half-close timeout and the sides' read timeouts, ms. False: the signs
// of life may have been late.
static bool end_half_closed(enum relay_side ended, const int timeouts[3], enum close_reason expected)
{
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig.relay.half_close_timeout = MS(timeouts[0]);
    rig.relay.sockets[ended].read_timeout = MS(timeouts[1]);
    rig.relay.sockets[ended == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT].read_timeout = MS(timeouts[2]);
    rig_start(&rig);
    int first = ended == RELAY_CLIENT ? rig.client : rig.target,
        second = ended == RELAY_CLIENT ? rig.target : rig.client;
    MUST(shutdown(first, SHUT_WR) == 0);
    assert_int_equal(rig_next(second), RIG_EOF);
    int64_t silent = clock_now();
    bool goes_on = true;
    for (int i = 0; i < 8 && goes_on; i++) { // data is a sign of life, for twice the time
        MUST(usleep(50000) == 0);
        silent = clock_now();
        goes_on = rig_try_pass(second, first, "still here");
    }
    if (!goes_on && rig_is_excused(rig.began, MS(200))) {
        rig_abandon(&rig);
        return false;
    }
    assert_true(goes_on);
    assert_int_equal(rig_next(first), RIG_EOF);
    rig_join(&rig);
    rig_assert_ended(&rig, expected, ENDED_BY_PROXY);
    assert_took(&rig, silent, MS(200));
    rig_release(&rig);
    return true;
}

static void test_a_half_closed_relay_ends_when_the_other_side_is_silent(void **state)
{
    (void)state;
    for (int ended = RELAY_CLIENT; ended <= RELAY_TARGET; ended++) {
        enum close_reason own = ended == RELAY_CLIENT ? CLOSE_TARGET_READ_TIMEOUT : CLOSE_CLIENT_READ_TIMEOUT;
        enum relay_side side = (enum relay_side)ended;
        RIG_TRY(end_half_closed(side, (int[]){200, 0, 0}, CLOSE_HALF_CLOSE_TIMEOUT));
        RIG_TRY(end_half_closed(side, (int[]){200, 60000, 60000}, CLOSE_HALF_CLOSE_TIMEOUT));
        RIG_TRY(end_half_closed(side, (int[]){0, 200, 0}, CLOSE_HALF_CLOSE_TIMEOUT));
        RIG_TRY(end_half_closed(side, (int[]){0, 60000, 200}, own));
    }
}

// It takes nothing of what is still written to it. False: the writing may have begun late.
static bool end_and_not_read(int64_t half_close_timeout, int64_t read_timeout)
{
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig.relay.half_close_timeout = half_close_timeout;
    rig.relay.sockets[RELAY_CLIENT].read_timeout = read_timeout;
    rig_start(&rig);
    MUST(shutdown(rig.client, SHUT_WR) == 0);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    rig_stuff_until_ended(&rig, RELAY_TARGET);
    if (atomic_load(&rig.reason) == CLOSE_HALF_CLOSE_TIMEOUT && rig_is_excused(rig.began, MS(200))) {
        rig_abandon(&rig);
        return false;
    }
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_CLIENT_WRITE_TIMEOUT, ENDED_BY_PROXY);
    rig_assert_resets(&rig, true, true);
    rig_release(&rig);
    return true;
}

static void test_a_side_that_ended_and_does_not_read_is_timed_out(void **state)
{
    (void)state;
    RIG_TRY(end_and_not_read(MS(200), 0));
    RIG_TRY(end_and_not_read(0, MS(200)));
}

static void write_timeout(enum rig_kind kind, enum relay_side stuck, int buffer)
{
    struct rig rig;
    rig_init(&rig, kind, kind, buffer);
    rig.relay.sockets[stuck].write_timeout = MS(200);
    rig_start(&rig);
    rig_stuff_until_ended(&rig, stuck == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT);
    rig_join(&rig);
    rig_assert_ended(&rig, stuck == RELAY_CLIENT ? CLOSE_CLIENT_WRITE_TIMEOUT : CLOSE_TARGET_WRITE_TIMEOUT,
                     ENDED_BY_PROXY);
    rig_assert_resets(&rig, true, true);
    assert_took(&rig, rig.began, MS(200));
    if (kind == RIG_TCP) {
        enum rig_end end;
        (void)rig_receive(stuck == RELAY_CLIENT ? rig.client : rig.target, 5, 0, RIG_ALL, &end);
        assert_int_equal(end, RIG_RESET);
        assert_int_equal(rig_next(stuck == RELAY_CLIENT ? rig.target : rig.client), RIG_RESET);
    }
    rig_release(&rig);
    assert_int_equal(pipe_pool_count().taken, 0);
}

static void test_a_side_that_does_not_read_runs_into_the_write_timeout(void **state)
{
    (void)state;
    write_timeout(RIG_TCP, RELAY_TARGET, 4096); // in send
    write_timeout(RIG_TCP, RELAY_CLIENT, 4096);
    write_timeout(RIG_TCP, RELAY_TARGET, 0); // in splice
    write_timeout(RIG_TCP, RELAY_CLIENT, 0);
    write_timeout(RIG_UNIX, RELAY_TARGET, 0);
}

// One write blocks for longer than the client's read timeout, but the client takes of it all the time. False: it may
// have been late with that.
static bool read_slowly(void)
{
    const int64_t timeout = MS(900);
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig.relay.sockets[RELAY_CLIENT].read_timeout = timeout;
    // Little room for the client's bytes, so that what it takes is seen at once; much for the target's, so that one
    // splice() carries many.
    int room = 32768;
    MUST(setsockopt(rig.client, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) == 0);
    MUST(setsockopt(rig.relay.sockets[RELAY_CLIENT].fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room) == 0);
    rig_start(&rig);
    uint64_t sent = rig_stuff(&rig, RELAY_TARGET), taken = 0;
    int64_t began = clock_now();
    enum rig_end end = RIG_MORE;
    while (end == RIG_MORE && clock_now() - began < 3 * timeout) {
        taken += rig_receive(rig.client, 5, taken, 4000, &end);
        MUST(usleep(5000) == 0);
    }
    if (end != RIG_MORE && rig_is_excused(rig.began, timeout)) {
        rig_abandon(&rig);
        return false;
    }
    assert_int_equal(end, RIG_MORE);
    assert_true(taken < sent);
    assert_int_equal(atomic_load(&rig.reason), CLOSE_NONE);
    int64_t stopped = clock_now();
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_CLIENT_READ_TIMEOUT, ENDED_BY_PROXY);
    assert_within(stopped, rig.ended, 3 * timeout + LATE);
    rig_release(&rig);
    return true;
}

static void test_a_slow_reader_is_not_silent(void **state)
{
    (void)state;
    RIG_TRY(read_slowly());
}

// --- ended from outside ------------------------------------------------------

enum spot { IN_POLL, IN_RECV, IN_QUIET, IN_SEND, IN_SPLICE_IN, IN_SPLICE_OUT };

#define SMALL_READS_END_BULK 8

// Bulk from the client, and then as many messages as end it: the direction waits in recv() again.
static void go_through_bulk(struct rig *rig)
{
    enum rig_end end;
    uint64_t sent = rig_stuff(rig, RELAY_CLIENT);
    assert_int_equal(rig_receive(rig->target, 5, 0, sent, &end), sent);
    for (unsigned i = 0; i < 2 * SMALL_READS_END_BULK; i++)
        rig_pass(rig->client, rig->target, "small");
}

// Brings the direction that reads from the client to the spot.
static void go_to_spot(struct rig *rig, enum spot spot)
{
    int client = rig->relay.sockets[RELAY_CLIENT].fd, target = rig->relay.sockets[RELAY_TARGET].fd;
    enum rig_end end;
    uint64_t sent;
    switch (spot) {
    case IN_POLL:
        rig_wait_blocked(rig, RELAY_CLIENT, SYS_poll, 1, 2); // of two sockets
        break;
    case IN_RECV:
        go_through_bulk(rig);
        rig_wait_blocked(rig, RELAY_CLIENT, SYS_recvfrom, 0, client);
        break;
    case IN_QUIET: // waits for what the other side sends, too, which keeps the second thread by its messages
        go_through_bulk(rig);
        do
            rig_pass(rig->target, rig->client, "still there");
        while (!rig_blocks(rig, RELAY_CLIENT, SYS_poll, 1, 2, MS(200)));
        break;
    case IN_SEND:
        (void)rig_stuff(rig, RELAY_CLIENT);
        rig_wait_blocked(rig, RELAY_CLIENT, SYS_sendto, 0, target);
        break;
    case IN_SPLICE_IN:
        do { // it stays there for a second, unless the bulk's last reads were small
            sent = rig_stuff(rig, RELAY_CLIENT);
            assert_int_equal(rig_receive(rig->target, 5, 0, sent, &end), sent);
        } while (!rig_blocks(rig, RELAY_CLIENT, SYS_splice, 0, client, MS(500)));
        break;
    case IN_SPLICE_OUT:
        (void)rig_stuff(rig, RELAY_CLIENT);
        rig_wait_blocked(rig, RELAY_CLIENT, SYS_splice, 2, target);
        break;
    }
}

static void end_from_outside(enum rig_kind kind, enum spot spot, enum close_reason reason)
{
    struct rig rig;
    rig_init(&rig, kind, kind, spot == IN_SEND ? 4096 : 0);
    rig_start(&rig);
    go_to_spot(&rig, spot);
    int64_t asked = clock_now();
    rig_end(&rig, reason);
    rig_join(&rig);
    rig_assert_ended(&rig, reason, ENDED_BY_PROXY);
    rig_assert_resets(&rig, false, false);
    assert_int_equal(rig.failure.error.os_errno, 0);
    assert_within(asked, rig.ended, MS(900)); // not by the time that a bulk stage waits at most
    rig_release(&rig);
    assert_int_equal(pipe_pool_count().taken, 0);
}

static void test_ending_wakes_a_direction_wherever_it_is(void **state)
{
    (void)state;
    end_from_outside(RIG_TCP, IN_POLL, CLOSE_DRAIN);
    end_from_outside(RIG_UNIX, IN_POLL, CLOSE_LIFETIME);
    end_from_outside(RIG_TCP, IN_RECV, CLOSE_DRAIN);
    end_from_outside(RIG_TCP, IN_QUIET, CLOSE_DRAIN);
    end_from_outside(RIG_UNIX, IN_QUIET, CLOSE_LIFETIME);
    end_from_outside(RIG_TCP, IN_SEND, CLOSE_LIFETIME);
    end_from_outside(RIG_TCP, IN_SPLICE_IN, CLOSE_DRAIN);
    end_from_outside(RIG_TCP, IN_SPLICE_OUT, CLOSE_LIFETIME);
    end_from_outside(RIG_UNIX, IN_RECV, CLOSE_LIFETIME);
    end_from_outside(RIG_UNIX, IN_SPLICE_OUT, CLOSE_DRAIN);
}

static void test_a_silent_flow_gives_its_pipe_back(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig_start(&rig);
    go_to_spot(&rig, IN_SPLICE_IN);
    rig_wait_blocked(&rig, RELAY_CLIENT, SYS_poll, 1, 2);
    assert_int_equal(pipe_pool_count().taken, 0);
    rig_pass(rig.client, rig.target, "still there");
    rig_end(&rig, CLOSE_DRAIN);
    rig_join(&rig);
    rig_release(&rig);
}

// False: the target may have been late to read.
static bool fall_silent(int64_t timeout)
{
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig.relay.sockets[RELAY_CLIENT].read_timeout = timeout;
    rig_start(&rig);
    uint64_t sent = rig_stuff(&rig, RELAY_CLIENT);
    enum rig_end end;
    bool goes_on = rig_receive(rig.target, 5, 0, sent, &end) == sent;
    int64_t before = clock_now();
    goes_on =
        goes_on && rig_send(rig.client, 6, 0, 40000) == 40000 && rig_receive(rig.target, 6, 0, 40000, &end) == 40000;
    int64_t after = clock_now();
    if (!goes_on && rig_is_excused(rig.began, timeout)) {
        rig_abandon(&rig);
        return false;
    }
    assert_true(goes_on);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_CLIENT_READ_TIMEOUT, ENDED_BY_PROXY);
    assert_true(rig.ended - before >= timeout - TICK);
    assert_within(after, rig.ended, timeout + MS(900));
    rig_release(&rig);
    return true;
}

// Giving the pipe back after a silent second neither shortens nor prolongs a longer read timeout.
static void test_a_bulk_flow_that_falls_silent_times_out(void **state)
{
    (void)state;
    RIG_TRY(fall_silent(MS(800)));
    RIG_TRY(fall_silent(MS(2000)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_idle_connection_ends_with_the_first_read_timeout),
        cmocka_unit_test(test_writes_refresh_the_read_timeout),
        cmocka_unit_test(test_an_ended_side_leaves_the_other_ones_read_timeout),
        cmocka_unit_test(test_a_half_closed_relay_ends_when_the_other_side_is_silent),
        cmocka_unit_test(test_a_side_that_ended_and_does_not_read_is_timed_out),
        cmocka_unit_test(test_a_side_that_does_not_read_runs_into_the_write_timeout),
        cmocka_unit_test(test_a_slow_reader_is_not_silent),
        cmocka_unit_test(test_ending_wakes_a_direction_wherever_it_is),
        cmocka_unit_test(test_a_silent_flow_gives_its_pipe_back),
        cmocka_unit_test(test_a_bulk_flow_that_falls_silent_times_out),
    };
    const struct at_once_group group = AT_ONCE_GROUP("relay, by time and from outside", tests, rig_prepare);
    return at_once_run(&group, 1);
}
