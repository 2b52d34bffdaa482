// Options, timeouts, flushing and resetting of single sockets.

#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "bitflow/base/compiler.h"
#include "net_rig.h"

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t size = sizeof value;
    assert_int_equal(getsockopt(fd, level, name, &value, &size), 0);
    return value;
}

static int64_t timeout(int fd, int name)
{
    struct timeval value;
    socklen_t size = sizeof value;
    assert_int_equal(getsockopt(fd, SOL_SOCKET, name, &value, &size), 0);
    return value.tv_sec * NS_PER_S + value.tv_usec * NS_PER_US;
}

static void test_timeouts_are_set_and_cleared(void **state)
{
    (void)state;
    int pair[2];
    rig_unix_pair(pair);
    socket_set_receive_timeout(pair[0], 1500 * NS_PER_MS);
    socket_set_send_timeout(pair[0], 2 * NS_PER_S);
    // The kernel keeps it in ticks (4 ms at most) and rounds up.
    assert_in_range(timeout(pair[0], SO_RCVTIMEO), 1500 * NS_PER_MS, 1510 * NS_PER_MS);
    assert_in_range(timeout(pair[0], SO_SNDTIMEO), 2 * NS_PER_S, 2010 * NS_PER_MS);
    socket_set_receive_timeout(pair[0], 1); // as short as can be, but not "none"
    assert_true(timeout(pair[0], SO_RCVTIMEO) > 0);
    socket_set_receive_timeout(pair[0], 0);
    socket_set_send_timeout(pair[0], 0);
    assert_int_equal(timeout(pair[0], SO_RCVTIMEO), 0);
    assert_int_equal(timeout(pair[0], SO_SNDTIMEO), 0);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void test_keepalive_has_its_interval(void **state)
{
    (void)state;
    static const struct {
        int64_t interval;
        int on, seconds; // 0: the system's
    } rows[] = {
        {0, 1, 0},
        {-1, 0, 0},
        {1, 1, 1},
        {NS_PER_S, 1, 1},
        {NS_PER_S + 1, 1, 2},
        {90 * NS_PER_S, 1, 90},
        {100000 * NS_PER_S, 1, 32767},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int system_idle = option(fd, IPPROTO_TCP, TCP_KEEPIDLE),
            system_interval = option(fd, IPPROTO_TCP, TCP_KEEPINTVL);
        socket_set_keepalive(fd, rows[i].interval);
        assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), rows[i].on);
        assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), rows[i].seconds != 0 ? rows[i].seconds : system_idle);
        assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPINTVL),
                         rows[i].seconds != 0 ? rows[i].seconds : system_interval);
        (void)close(fd);
    }
}

static void test_the_systems_keepalive_timing_can_be_had_again(void **state)
{
    (void)state;
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int idle = option(fd, IPPROTO_TCP, TCP_KEEPIDLE), interval = option(fd, IPPROTO_TCP, TCP_KEEPINTVL);
    socket_set_keepalive(fd, 7 * NS_PER_S);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), 7);
    socket_reset_keepalive_timing(fd);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), idle);
    assert_int_equal(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), interval);
    assert_int_equal(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    int probes = option(fd, IPPROTO_TCP, TCP_KEEPCNT);
    assert_true(socket_keepalive_patience(fd, 7 * NS_PER_S) == 7 * NS_PER_S * (probes + 1));
    assert_true(socket_keepalive_patience(fd, INT64_MAX / 2) == INT64_MAX);
    (void)close(fd);
}

static void test_a_user_timeout_is_in_milliseconds_rounded_up(void **state)
{
    (void)state;
    static const struct {
        int64_t timeout;
        int ms;
    } rows[] = {{1, 1}, {NS_PER_MS, 1}, {NS_PER_MS + 1, 2}, {90 * NS_PER_S, 90000}, {INT64_MAX, INT32_MAX}, {0, 0}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        socket_set_user_timeout(fd, rows[i].timeout);
        assert_int_equal(option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), rows[i].ms);
    }
    (void)close(fd);
}

// That it becomes lost takes a network that loses: test_vanished_peers.py.
static void test_a_peer_that_takes_nothing_is_not_lost(void **state)
{
    (void)state;
    int pair[2], local[2];
    char bytes[65536] = {0};
    rig_pair(pair);
    rig_unix_pair(local);
    assert_int_equal(socket_look_at_peer(pair[0], 0), SOCKET_PEER_HAS_ALL);
    while (send(pair[0], bytes, sizeof bytes, MSG_DONTWAIT) > 0)
        ;
    assert_int_equal(socket_look_at_peer(pair[0], 0), SOCKET_PEER_IS_DUE);
    assert_int_equal(socket_look_at_peer(local[0], 0), SOCKET_PEER_HAS_ALL);
    for (int i = 0; i < 2; i++) {
        (void)close(pair[i]);
        (void)close(local[i]);
    }
}

static void test_options_are_set_where_they_exist(void **state)
{
    (void)state;
    int pair[2], local[2];
    rig_pair(pair);
    rig_unix_pair(local);
    socket_set_nodelay(pair[0]);
    assert_int_equal(option(pair[0], IPPROTO_TCP, TCP_NODELAY), 1);
    socket_set_nodelay(local[0]); // no such option there, and no harm
    socket_prepare_tcp(pair[1], 7 * NS_PER_S);
    assert_int_equal(option(pair[1], IPPROTO_TCP, TCP_NODELAY), 1);
    assert_int_equal(option(pair[1], IPPROTO_TCP, TCP_KEEPIDLE), 7);
    assert_int_equal(option(pair[1], SOL_SOCKET, SO_OOBINLINE), 1);
    assert_int_equal(option(pair[0], SOL_SOCKET, SO_OOBINLINE), 0);
    socket_set_blocking(pair[0], false);
    assert_true((fcntl(pair[0], F_GETFL) & O_NONBLOCK) != 0);
    socket_set_blocking(pair[0], true);
    assert_true((fcntl(pair[0], F_GETFL) & O_NONBLOCK) == 0);
    for (int i = 0; i < 2; i++) {
        (void)close(pair[i]);
        (void)close(local[i]);
    }
}

// As much as is said goes in without waiting, and once nothing more goes in, little is said.
static void test_the_room_told_goes_in_without_waiting(void **state)
{
    (void)state;
    int pair[2], local[2];
    static char bytes[1 << 20];
    rig_pair(pair);
    rig_unix_pair(local);
    for (int i = 0; i < 2; i++) {
        int fd = i == 0 ? pair[0] : local[0];
        size_t room = socket_room(fd);
        assert_in_range(room, 1024, 64 << 20);
        size_t part = room / 2 < sizeof bytes ? room / 2 : sizeof bytes;
        assert_int_equal(send(fd, bytes, part, MSG_DONTWAIT), part);
        while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
            ;
        assert_int_equal(errno, EAGAIN);
        assert_true(socket_room(fd) < room);
    }
    int pipe_ends[2];
    assert_int_equal(pipe(pipe_ends), 0);
    assert_true(socket_room(pipe_ends[1]) == SIZE_MAX);
    for (int i = 0; i < 2; i++) {
        (void)close(pair[i]);
        (void)close(local[i]);
        (void)close(pipe_ends[i]);
    }
}

static void test_a_reset_reaches_the_peer(void **state)
{
    (void)state;
    int pair[2];
    char byte;
    rig_pair(pair);
    socket_reset(pair[0]);
    rig_await(pair[1], POLLIN);
    assert_int_equal(read(pair[1], &byte, 1), -1);
    assert_int_equal(errno, ECONNRESET);
    (void)close(pair[1]);

    rig_unix_pair(pair);
    socket_reset(pair[0]);
    rig_await(pair[1], POLLIN);
    assert_int_equal(read(pair[1], &byte, 1), 0);
    (void)close(pair[1]);
}

static void test_a_socket_has_its_names_or_leaves_them_alone(void **state)
{
    (void)state;
    int pair[2];
    struct endpoint local, peer, untouched = {.length = 7};
    rig_pair(pair);
    assert_true(socket_local(pair[0], &local));
    assert_true(socket_peer(pair[1], &peer));
    assert_true(endpoint_equal(&local, &peer));
    (void)close(pair[0]);
    (void)close(pair[1]);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_false(socket_peer(fd, &untouched));
    assert_int_equal(untouched.length, 7);
    (void)close(fd);
    assert_false(socket_local(fd, &untouched));
    assert_int_equal(untouched.length, 7);
}

static int unsent(int fd)
{
    int bytes = -1;
    assert_int_equal(ioctl(fd, SIOCOUTQNSD, &bytes), 0);
    return bytes;
}

// Writes until the socket takes no more, so that some of it cannot have been sent; returns how much it took.
static size_t fill(int fd)
{
    static const char block[64 * 1024];
    size_t total = 0;
    socket_set_blocking(fd, false);
    for (ssize_t written; (written = write(fd, block, sizeof block)) > 0;)
        total += (size_t)written;
    assert_int_equal(errno, EAGAIN);
    socket_set_blocking(fd, true);
    assert_true(unsent(fd) > 0);
    return total;
}

static void *drain(void *argument)
{
    static char block[64 * 1024];
    size_t total = 0;
    for (ssize_t got; (got = read(*(const int *)argument, block, sizeof block)) > 0;)
        total += (size_t)got;
    return (void *)(uintptr_t)total;
}

// Shut down for writing or not, a flush with a reading peer ends when all is sent, and a reset after it loses
// nothing that the peer's kernel had room for.
static void check_flush(bool shut_down)
{
    int pair[2];
    pthread_t reader;
    void *received;
    rig_pair(pair);
    size_t sent = fill(pair[0]);
    if (shut_down)
        assert_int_equal(shutdown(pair[0], SHUT_WR), 0);

    int before = option(pair[0], IPPROTO_TCP, TCP_NOTSENT_LOWAT);
    int64_t start = clock_now();
    socket_flush(pair[0], deadline_after(50 * NS_PER_MS)); // nobody reads
    assert_in_range(clock_now() - start, 50 * NS_PER_MS, RIG_LIMIT);
    assert_true(unsent(pair[0]) > 0);
    assert_int_equal(option(pair[0], IPPROTO_TCP, TCP_NOTSENT_LOWAT), before);

    assert_int_equal(pthread_create(&reader, NULL, drain, &pair[1]), 0);
    socket_flush(pair[0], rig_limit());
    assert_int_equal(unsent(pair[0]), 0);
    if (!shut_down)
        assert_int_equal(shutdown(pair[0], SHUT_WR), 0);
    assert_int_equal(pthread_join(reader, &received), 0);
    assert_int_equal((uintptr_t)received, sent);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void test_a_flush_waits_until_the_peer_has_all(void **state)
{
    (void)state;
    check_flush(false);
    check_flush(true);
}

static void test_flush_ends_when_the_peer_resets(void **state)
{
    (void)state;
    int pair[2];
    rig_pair(pair);
    (void)fill(pair[0]);
    socket_reset(pair[1]);
    int64_t start = clock_now();
    socket_flush(pair[0], rig_limit());
    assert_true(clock_now() - start < RIG_LIMIT);
    (void)close(pair[0]);
}

static void test_flush_returns_at_once_where_there_is_nothing_to_wait_for(void **state)
{
    (void)state;
    int pair[2];
    rig_pair(pair);
    socket_flush(pair[0], DEADLINE_NONE);
    (void)close(pair[0]);
    (void)close(pair[1]);
    rig_unix_pair(pair);
    socket_set_blocking(pair[0], false);
    while (write(pair[0], "x", 1) == 1)
        continue;
    socket_flush(pair[0], DEADLINE_NONE); // full, but no TCP socket
    (void)close(pair[0]);
    (void)close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timeouts_are_set_and_cleared),
        cmocka_unit_test(test_keepalive_has_its_interval),
        cmocka_unit_test(test_the_systems_keepalive_timing_can_be_had_again),
        cmocka_unit_test(test_a_user_timeout_is_in_milliseconds_rounded_up),
        cmocka_unit_test(test_a_peer_that_takes_nothing_is_not_lost),
        cmocka_unit_test(test_options_are_set_where_they_exist),
        cmocka_unit_test(test_the_room_told_goes_in_without_waiting),
        cmocka_unit_test(test_a_reset_reaches_the_peer),
        cmocka_unit_test(test_a_socket_has_its_names_or_leaves_them_alone),
        cmocka_unit_test(test_a_flush_waits_until_the_peer_has_all),
        cmocka_unit_test(test_flush_ends_when_the_peer_resets),
        cmocka_unit_test(test_flush_returns_at_once_where_there_is_nothing_to_wait_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
