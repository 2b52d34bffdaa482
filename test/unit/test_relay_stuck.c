// A side that reads slowly, or not at all: what the write timeout is about, and what is noticed meanwhile.

#include "relay_peers.h"

#define MS(n) ((n) * NS_PER_MS)
#define LATE MS(3000)
#define GRACE MS(5000) // which the relay gives the target

static void limit_room(struct rig *rig, enum relay_side slow)
{
    int room = 16384, far = slow == RELAY_CLIENT ? rig->client : rig->target;
    MUST(setsockopt(far, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) == 0);
    MUST(setsockopt(rig->relay.sockets[slow].fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room) == 0);
}

static void top_up(int fd, uint64_t *sent)
{
    unsigned char buffer[8192];
    rig_fill(buffer, sizeof buffer, 5, *sent);
    ssize_t n = send(fd, buffer, sizeof buffer, MSG_NOSIGNAL | MSG_DONTWAIT);
    MUST(n > 0 || errno == EAGAIN);
    if (n > 0)
        *sent += (uint64_t)n;
}

// `slow` takes a little at a time, for much longer than its write timeout, and then nothing any more. False: it may
// have taken too little.
static bool slow_reader(enum rig_kind kind, enum relay_side slow, int buffer)
{
    const int64_t timeout = MS(800);
    struct rig rig;
    rig_init(&rig, kind, kind, buffer);
    if (buffer == 0)
        limit_room(&rig, slow);
    rig.relay.sockets[slow].write_timeout = timeout;
    int far = slow == RELAY_CLIENT ? rig.client : rig.target, near = slow == RELAY_CLIENT ? rig.target : rig.client;
    rig_start(&rig);
    uint64_t sent = rig_stuff(&rig, slow == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT), taken = 0;
    int64_t began = clock_now();
    while (clock_now() - began < 2 * timeout && atomic_load(&rig.reason) == CLOSE_NONE) {
        enum rig_end end;
        // Quick enough for the kernel, which tells the sender of new room in lumps of up to 64 KiB.
        taken += rig_receive(far, 5, taken, buffer == 0 ? 4000 : 500, &end);
        if (end != RIG_MORE)
            break;
        top_up(near, &sent);
        MUST(usleep(5000) == 0);
    }
    if (atomic_load(&rig.reason) != CLOSE_NONE && rig_is_excused(rig.began, timeout)) {
        rig_abandon(&rig);
        return false;
    }
    assert_int_equal(atomic_load(&rig.reason), CLOSE_NONE);
    int64_t last = clock_now();
    rig_join(&rig);
    rig_assert_ended(&rig, slow == RELAY_CLIENT ? CLOSE_CLIENT_WRITE_TIMEOUT : CLOSE_TARGET_WRITE_TIMEOUT,
                     ENDED_BY_PROXY);
    rig_assert_resets(&rig, true, true);
    assert_within(last, rig.ended, 2 * timeout + LATE);
    rig_release(&rig);
    return true;
}

static void test_a_slow_reader_is_kept(void **state)
{
    (void)state;
    RIG_TRY(slow_reader(RIG_TCP, RELAY_TARGET, 4096));
    RIG_TRY(slow_reader(RIG_TCP, RELAY_CLIENT, 0)); // by splice, if there are threads
    RIG_TRY(slow_reader(RIG_UNIX, RELAY_TARGET, 0));
}

static void test_a_stuck_reader_is_cut_in_time(void **state)
{
    (void)state;
    const int64_t timeout = MS(1200);
    const int buffers[] = {4096, 0};
    for (size_t i = 0; i < ARRAY_LENGTH(buffers); i++) {
        struct rig rig;
        rig_init(&rig, RIG_TCP, RIG_TCP, buffers[i]);
        rig.relay.sockets[RELAY_TARGET].write_timeout = timeout;
        rig_start(&rig);
        rig_stuff_until_ended(&rig, RELAY_CLIENT);
        rig_join(&rig);
        rig_assert_ended(&rig, CLOSE_TARGET_WRITE_TIMEOUT, ENDED_BY_PROXY);
        assert_true(rig.ended - rig.began >= timeout - MS(10));
        assert_within(rig.began, rig.ended, 3 * timeout - MS(100)); // which it once took
        rig_release(&rig);
    }
}

// The client goes while what it had sent cannot be written: that is noticed, and the target, which reads again, gets
// every byte that the relay had. False: it may have been late with that.
static bool reset_behind_a_write(enum rig_kind kind, int buffer)
{
    struct rig rig;
    rig_init(&rig, kind, RIG_TCP, buffer);
    rig_start(&rig);
    if (kind == RIG_UNIX) { // is reset by closing it with something unread
        MUST(send(rig.target, "unread", 6, MSG_NOSIGNAL) == 6);
        assert_true(rig_wait_bytes(&rig, RELAY_TARGET, 6));
    }
    (void)rig_stuff(&rig, RELAY_CLIENT);
    int64_t went = clock_now();
    if (kind == RIG_UNIX)
        rig_close_far(&rig.client);
    else
        rig_reset_far(&rig.client);
    while (atomic_load(&rig.reason) == CLOSE_NONE)
        MUST(lateness_is_within(went, clock_now(), LATE) && usleep(1000) == 0);
    struct peer reader = {.fd = &rig.target, .manner = PEER_ANSWERS, .receives_stream = 5, .random = 1};
    peer_start(&reader);
    rig_join(&rig);
    peer_join(&reader);
    rig_assert_ended(&rig, CLOSE_CLIENT_RESET, ENDED_BY_CLIENT);
    rig_assert_resets(&rig, false, true);
    assert_int_equal(rig.failure.error.os_errno, ECONNRESET);
    rig_release(&rig);
    if (reader.received != rig_bytes(&rig, RELAY_CLIENT) && rig_is_excused(went, GRACE))
        return false;
    assert_int_equal(reader.received, rig_bytes(&rig, RELAY_CLIENT));
    assert_int_equal(reader.end, RIG_RESET);
    return true;
}

static void test_a_reset_behind_a_stuck_write_is_noticed(void **state)
{
    (void)state;
    RIG_TRY(reset_behind_a_write(RIG_TCP, 4096));
    RIG_TRY(reset_behind_a_write(RIG_TCP, 0)); // the write is a splice, if there are threads
    RIG_TRY(reset_behind_a_write(RIG_UNIX, 0));
    assert_int_equal(pipe_pool_count().taken, 0);
}

static void test_the_grace_ends_a_stuck_write(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig_start(&rig);
    (void)rig_stuff(&rig, RELAY_CLIENT);
    int64_t went = clock_now();
    rig_reset_far(&rig.client);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_CLIENT_RESET, ENDED_BY_CLIENT);
    assert_true(rig.ended - went > 4 * NS_PER_S);
    assert_within(went, rig.ended, 6 * NS_PER_S + LATE);
    rig_release(&rig);
}

// An orderly end behind a stuck write is none of this, also when the other direction has ended and the socket has hung
// up.
static void test_an_end_behind_a_stuck_write_is_orderly(void **state)
{
    (void)state;
    const enum rig_kind kinds[] = {RIG_TCP, RIG_UNIX};
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
        struct rig rig;
        rig_init(&rig, kinds[i], RIG_TCP, 4096);
        rig_start(&rig);
        uint64_t sent = rig_stuff(&rig, RELAY_CLIENT);
        MUST(shutdown(rig.target, SHUT_WR) == 0);
        assert_int_equal(rig_next(rig.client), RIG_EOF);
        rig_close_far(&rig.client);
        // Longer than a slice: it is looked at in vain.
        MUST(usleep(800000) == 0);
        assert_int_equal(atomic_load(&rig.reason), CLOSE_NONE);
        enum rig_end end;
        assert_int_equal(rig_receive(rig.target, 5, 0, RIG_ALL, &end), sent);
        assert_int_equal(end, RIG_EOF);
        rig_join(&rig);
        rig_assert_ended(&rig, CLOSE_COMPLETED, ENDED_BY_TARGET);
        rig_assert_resets(&rig, false, false);
        rig_release(&rig);
    }
}

static void set_nonblocking(int fd)
{
    MUST(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0);
}

// Whoever shares the relay's sockets has made them non-blocking: no read or write waits, and that is nobody's timeout.
static void nonblocking_sockets_are_waited_for(int64_t timeout)
{
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    for (int i = 0; i < 2; i++) {
        set_nonblocking(rig.relay.sockets[i].fd);
        rig.relay.sockets[i].read_timeout = timeout;
        rig.relay.sockets[i].write_timeout = timeout;
    }
    rig_start(&rig);
    uint64_t sent = rig_stuff(&rig, RELAY_CLIENT);
    if (*rig_only_threads() == NULL) // in the write, not spinning
        rig_wait_blocked(&rig, RELAY_CLIENT, SYS_poll, 1, 1);
    enum rig_end end;
    assert_int_equal(rig_receive(rig.target, 5, 0, sent, &end), sent);
    rig_pass(rig.target, rig.client, "answer");
    rig_wait_polling(&rig, RELAY_CLIENT);
    rig_pass(rig.client, rig.target, "question");
    assert_int_equal(atomic_load(&rig.reason), CLOSE_NONE);
    rig_close_far(&rig.client);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    rig_close_far(&rig.target);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
    rig_release(&rig);
}

static void test_what_others_did_to_the_socket_is_no_timeout(void **state)
{
    (void)state;
    nonblocking_sockets_are_waited_for(0);
    nonblocking_sockets_are_waited_for(MS(5000));
}

static void test_timeouts_of_others_do_not_count(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    for (int i = 0; i < 2; i++) {
        socket_set_receive_timeout(rig.relay.sockets[i].fd, MS(20));
        socket_set_send_timeout(rig.relay.sockets[i].fd, MS(20));
    }
    rig_start(&rig);
    uint64_t sent = rig_stuff(&rig, RELAY_CLIENT);
    MUST(usleep(100000) == 0); // five times as long
    enum rig_end end;
    assert_int_equal(rig_receive(rig.target, 5, 0, sent, &end), sent);
    MUST(usleep(100000) == 0);
    rig_pass(rig.target, rig.client, "answer");
    assert_int_equal(atomic_load(&rig.reason), CLOSE_NONE);
    rig_end(&rig, CLOSE_DRAIN);
    rig_join(&rig);
    rig_release(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_slow_reader_is_kept),
        cmocka_unit_test(test_a_stuck_reader_is_cut_in_time),
        cmocka_unit_test(test_a_reset_behind_a_stuck_write_is_noticed),
        cmocka_unit_test(test_the_grace_ends_a_stuck_write),
        cmocka_unit_test(test_an_end_behind_a_stuck_write_is_orderly),
        cmocka_unit_test(test_what_others_did_to_the_socket_is_no_timeout),
        cmocka_unit_test(test_timeouts_of_others_do_not_count),
    };
    const struct CMUnitTest without_threads[] = {
        cmocka_unit_test(test_a_slow_reader_is_kept),
        cmocka_unit_test(test_a_reset_behind_a_stuck_write_is_noticed),
        cmocka_unit_test(test_an_end_behind_a_stuck_write_is_orderly),
        cmocka_unit_test(test_what_others_did_to_the_socket_is_no_timeout),
    };
    const struct at_once_group groups[] = {
        AT_ONCE_GROUP("with threads to be had", tests, rig_prepare),
        AT_ONCE_GROUP("on one thread", without_threads, rig_prepare_one_thread),
    };
    return at_once_run(groups, ARRAY_LENGTH(groups));
}
