// How a relay goes from one thread to two, or does without the second: nothing is lost on the way, and no thread is
// taken that is not needed.

#include "relay_peers.h"

static const struct {
    enum rig_kind client, target;
} pairings[] = {{RIG_TCP, RIG_TCP}, {RIG_TCP, RIG_UNIX}, {RIG_UNIX, RIG_TCP}, {RIG_UNIX, RIG_UNIX}};

#define FOR_EACH_PAIRING(i) for (size_t i = 0; i < ARRAY_LENGTH(pairings); i++)

static struct thread_pool *own_threads(void)
{
    struct thread_pool_options options = {
        .parked_name = "parked", .stack_size = 65536, .max_parked = 10, .idle_time = 60 * NS_PER_S};
    struct thread_pool *threads = thread_pool_create(&options, NULL);
    assert_non_null(threads);
    return threads;
}

static unsigned threads_of(struct thread_pool *threads)
{
    struct thread_pool_count count = thread_pool_count(threads);
    return count.busy + count.parked;
}

static void release_threads(struct thread_pool **threads)
{
    assert_true(thread_pool_drain(*threads, clock_now() + PATIENCE));
    thread_pool_destroy(threads);
}

static void test_messages_take_one_thread(void **state)
{
    (void)state;
    struct thread_pool *threads = own_threads();
    FOR_EACH_PAIRING(i)
    {
        struct rig rig;
        rig_init(&rig, pairings[i].client, pairings[i].target, 0);
        rig.relay.threads = threads;
        rig_start(&rig);
        for (unsigned round = 0; round < 50; round++) {
            enum rig_end end; // now and then a full buffer, but no bulk
            assert_int_equal(rig_send(rig.client, 1, round * 20000, 20000), 20000);
            assert_int_equal(rig_receive(rig.target, 1, round * 20000, 20000, &end), 20000);
            rig_pass(rig.target, rig.client, "answer");
            rig_wait_blocked(&rig, RELAY_CLIENT, SYS_poll, 1, 2);
        }
        rig_close_far(&rig.target);
        assert_int_equal(rig_next(rig.client), RIG_EOF);
        rig_close_far(&rig.client);
        rig_join(&rig);
        rig_assert_ended(&rig, CLOSE_COMPLETED, ENDED_BY_TARGET);
        rig_release(&rig);
    }
    assert_int_equal(threads_of(threads), 0);
    release_threads(&threads);
}

static void test_bulk_takes_a_second_thread(void **state)
{
    (void)state;
    struct thread_pool *threads = own_threads();
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig.relay.threads = threads;
    rig_start(&rig);
    struct peer reader = {.fd = &rig.target, .manner = PEER_FINISHES, .receives_stream = 1, .random = 1};
    peer_start(&reader);
    assert_int_equal(rig_send(rig.client, 1, 0, 3000000), 3000000);
    MUST(shutdown(rig.client, SHUT_WR) == 0);
    peer_join(&reader);
    rig_join(&rig);
    assert_int_equal(rig.failure.reason, CLOSE_COMPLETED);
    assert_int_equal(reader.received, 3000000);
    assert_true(threads_of(threads) <= 1); // none, if the reader's end came first
    rig_release(&rig);
    release_threads(&threads);
}

static void test_one_direction_needs_no_second_thread(void **state)
{
    (void)state;
    struct thread_pool *threads = own_threads();
    for (unsigned i = 0; i < 2 * ARRAY_LENGTH(pairings); i++) {
        enum relay_side ended = i % 2 == 0 ? RELAY_CLIENT : RELAY_TARGET;
        struct rig rig;
        rig_init(&rig, pairings[i / 2].client, pairings[i / 2].target, 0);
        rig.relay.threads = threads;
        rig_start(&rig);
        int *asks = ended == RELAY_CLIENT ? &rig.client : &rig.target;
        int answers = ended == RELAY_CLIENT ? rig.target : rig.client;
        MUST(shutdown(*asks, SHUT_WR) == 0);
        assert_int_equal(rig_next(answers), RIG_EOF);
        struct peer reader = {.fd = asks, .manner = PEER_ANSWERS, .receives_stream = 2, .random = 1};
        peer_start(&reader);
        assert_int_equal(rig_send(answers, 2, 0, 2000000), 2000000);
        MUST(shutdown(answers, SHUT_WR) == 0);
        peer_join(&reader);
        rig_join(&rig);
        rig_assert_ended(&rig, CLOSE_COMPLETED, ended == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
        rig_assert_resets(&rig, false, false);
        assert_int_equal(reader.received, 2000000);
        rig_release(&rig);
    }
    assert_int_equal(threads_of(threads), 0);
    release_threads(&threads);
}

// Fills a socket of the relay's before the relay begins, so that its first write there must wait.
static uint64_t fill_up(int near, unsigned stream)
{
    uint64_t sent = 0;
    for (unsigned refused = 0; refused < 3;) {
        unsigned char buffer[16384];
        rig_fill(buffer, sizeof buffer, stream, sent);
        ssize_t n = send(near, buffer, sizeof buffer, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            sent += (uint64_t)n;
            refused = 0;
            continue;
        }
        MUST(errno == EAGAIN);
        refused++;
        struct pollfd poller = {.fd = near, .events = POLLOUT};
        (void)lateness_poll(&poller, 50 * NS_PER_MS); // some may still be on their way
    }
    return sent;
}

// Both directions have bytes that were read and cannot be written when the relay goes from one thread to two, or fails
// to. False: the kernel found room for some of them.
static bool pending_both_ways(size_t pairing, bool goes_on)
{
    struct rig rig;
    rig_init(&rig, pairings[pairing].client, pairings[pairing].target, 0);
    uint64_t before[2] = {fill_up(rig.relay.sockets[RELAY_TARGET].fd, 1),
                          fill_up(rig.relay.sockets[RELAY_CLIENT].fd, 2)};
    assert_int_equal(rig_send(rig.client, 1, before[0], 2000), 2000);
    assert_int_equal(rig_send(rig.target, 2, before[1], 2000), 2000);
    if (!goes_on) {
        MUST(shutdown(rig.client, SHUT_WR) == 0);
        MUST(shutdown(rig.target, SHUT_WR) == 0);
    }
    rig_start(&rig);
    bool are_pending = true;
    // It has read what there was, and waits to write it.
    for (int i = 0; i < 2; i++) {
        int64_t deadline = clock_now() + PATIENCE;
        char byte;
        while (recv(rig.relay.sockets[i].fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
            MUST(clock_now() < deadline && usleep(200) == 0);
        are_pending = are_pending && rig_bytes(&rig, (enum relay_side)i) == 0;
    }
    uint64_t more = goes_on ? 300000 : 0;
    struct peer peers[2] = {
        {.fd = &rig.client, .sends_stream = 1, .receives_stream = 2, .random = 1},
        {.fd = &rig.target, .sends_stream = 2, .receives_stream = 1, .random = 2},
    };
    for (int i = 0; i < 2; i++) {
        peers[i].sent = before[i] + 2000;
        peers[i].size = peers[i].sent + more;
        peer_start(&peers[i]);
    }
    for (int i = 0; i < 2; i++)
        peer_join(&peers[i]);
    rig_join(&rig);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(peers[i].received, before[1 - i] + 2000 + more);
        assert_int_equal(peers[i].end, RIG_EOF);
        assert_int_equal(rig_bytes(&rig, (enum relay_side)i), 2000 + more);
    }
    assert_int_equal(rig.failure.reason, CLOSE_COMPLETED);
    rig_assert_resets(&rig, false, false);
    rig_release(&rig);
    return are_pending;
}

static void test_pending_bytes_are_handed_over(void **state)
{
    (void)state;
    FOR_EACH_PAIRING(i)
    {
        RIG_TRY(pending_both_ways(i, true));
        RIG_TRY(pending_both_ways(i, false));
    }
}

// Turned away at first, the relay asks again, and gets the thread that has become free.
static void test_a_refused_thread_is_asked_for_again(void **state)
{
    (void)state;
    sem_t until;
    struct thread_pool *threads = rig_exhausted_threads(&until);
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    rig.relay.threads = threads;
    rig_start(&rig);
    enum rig_end end;
    uint64_t at = rig_stuff(&rig, RELAY_CLIENT), taken = 0;
    taken = rig_receive(rig.target, 5, 0, at, &end);
    assert_int_equal(taken, at);
    char name[THREAD_NAME_SIZE + 1];
    assert_false(rig_read_thread(rig.relay.second_thread_name, "comm", name, (int)sizeof name));
    MUST(sem_post(&until) == 0);
    int64_t deadline = clock_now() + PATIENCE;
    while (!rig_read_thread(rig.relay.second_thread_name, "comm", name, (int)sizeof name)) {
        MUST(clock_now() < deadline);
        assert_int_equal(rig_send(rig.client, 5, at, 100000), 100000);
        assert_int_equal(rig_receive(rig.target, 5, at, 100000, &end), 100000);
        at += 100000;
    }
    rig_pass(rig.target, rig.client, "answer");
    rig_close_far(&rig.client);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    rig_close_far(&rig.target);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_COMPLETED, ENDED_BY_CLIENT);
    assert_int_equal(rig_bytes(&rig, RELAY_CLIENT), at);
    rig_release(&rig);
    release_threads(&threads);
    MUST(sem_destroy(&until) == 0);
}

// While one thread serves both sockets, a reset is noticed even where nothing is to be read or written any more.
static void test_a_reset_after_the_end_of_the_stream_is_noticed(void **state)
{
    (void)state;
    for (int side = RELAY_CLIENT; side <= RELAY_TARGET; side++) {
        struct rig rig;
        rig_init(&rig, RIG_TCP, RIG_TCP, 0);
        rig_start(&rig);
        int *one = side == RELAY_CLIENT ? &rig.client : &rig.target;
        int other = side == RELAY_CLIENT ? rig.target : rig.client;
        MUST(shutdown(*one, SHUT_WR) == 0);
        assert_int_equal(rig_next(other), RIG_EOF);
        rig_pass(other, *one, "answer");
        rig_reset_far(one);
        rig_join(&rig);
        rig_assert_ended(&rig, side == RELAY_CLIENT ? CLOSE_CLIENT_RESET : CLOSE_TARGET_RESET,
                         side == RELAY_CLIENT ? ENDED_BY_CLIENT : ENDED_BY_TARGET);
        assert_int_equal(rig.failure.error.os_errno, ECONNRESET);
        // It has read the end before, so that recv() would not tell.
        struct pollfd poller = {.fd = other};
        MUST(poll(&poller, 1, (int)(PATIENCE / NS_PER_MS)) == 1);
        assert_true((poller.revents & POLLERR) != 0);
        rig_release(&rig);
    }
}

// A Unix socket whose peer is closed has hung up for good: that must keep nobody busy while the other side is silent.
static void test_a_closed_unix_client_leaves_the_relay_at_rest(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_UNIX, RIG_TCP, 0);
    rig_start(&rig);
    rig_close_far(&rig.client);
    assert_int_equal(rig_next(rig.target), RIG_EOF);
    rig_wait_blocked(&rig, RELAY_CLIENT, SYS_poll, 1, 2);
    rig_close_far(&rig.target);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_CLIENT_LEFT, ENDED_BY_CLIENT);
    rig_release(&rig);
}

// Nothing but poll() tells of this reset: its error was taken by somebody else's call.
static void test_a_reset_whose_error_is_gone_is_noticed(void **state)
{
    (void)state;
    struct rig rig;
    rig_init(&rig, RIG_TCP, RIG_TCP, 0);
    int near = rig.relay.sockets[RELAY_TARGET].fd, os_errno = 0;
    rig_reset_far(&rig.target);
    struct pollfd poller = {.fd = near};
    MUST(poll(&poller, 1, (int)(PATIENCE / NS_PER_MS)) == 1);
    socklen_t size = sizeof os_errno;
    MUST(getsockopt(near, SOL_SOCKET, SO_ERROR, &os_errno, &size) == 0 && os_errno == ECONNRESET);
    rig_start(&rig);
    rig_join(&rig);
    rig_assert_ended(&rig, CLOSE_TARGET_RESET, ENDED_BY_TARGET);
    rig_assert_resets(&rig, true, false);
    assert_int_equal(rig_next(rig.client), RIG_RESET);
    rig_release(&rig);
}

int main(void)
{
    const struct CMUnitTest with_threads[] = {
        cmocka_unit_test(test_messages_take_one_thread),
        cmocka_unit_test(test_bulk_takes_a_second_thread),
        cmocka_unit_test(test_one_direction_needs_no_second_thread),
        cmocka_unit_test(test_pending_bytes_are_handed_over),
        cmocka_unit_test(test_a_refused_thread_is_asked_for_again),
        cmocka_unit_test(test_a_reset_after_the_end_of_the_stream_is_noticed),
        cmocka_unit_test(test_a_closed_unix_client_leaves_the_relay_at_rest),
        cmocka_unit_test(test_a_reset_whose_error_is_gone_is_noticed),
    };
    const struct CMUnitTest without_threads[] = {
        cmocka_unit_test(test_pending_bytes_are_handed_over),
        cmocka_unit_test(test_a_reset_whose_error_is_gone_is_noticed),
    };
    const struct at_once_group groups[] = {
        AT_ONCE_GROUP("with threads to be had", with_threads, rig_prepare),
        AT_ONCE_GROUP("on one thread", without_threads, rig_prepare_one_thread),
    };
    return at_once_run(groups, ARRAY_LENGTH(groups));
}
