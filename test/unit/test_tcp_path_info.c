// TCP_INFO of real connections on loopback.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/net/socket.h"
#include "bitflow/net/tcp_path_info.h"

struct pair {
    int listener, client, server;
};

static void connect_pair(struct pair *pair)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    pair->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pair->client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(pair->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(pair->listener, 1), 0);
    assert_int_equal(getsockname(pair->listener, (struct sockaddr *)&address, &length), 0);
    assert_int_equal(connect(pair->client, (struct sockaddr *)&address, sizeof address), 0);
    pair->server = accept4(pair->listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(pair->server >= 0);
}

static void close_pair(const struct pair *pair)
{
    (void)close(pair->client);
    (void)close(pair->server);
    (void)close(pair->listener);
}

// Until all that was sent is acknowledged; a delayed acknowledgement takes 40 ms.
static void wait_acknowledged(int fd, struct tcp_path_info *facts)
{
    int64_t deadline = deadline_after(20 * NS_PER_S);
    do {
        assert_true(deadline_left(deadline) > 0);
        assert_true(tcp_path_info_of(fd, facts));
    } while (facts->unacked > 0 || facts->unsent > 0);
}

static void test_acknowledged_bytes_are_counted(void **state)
{
    (void)state;
    struct pair pair;
    struct tcp_path_info facts;
    char bytes[3000];
    connect_pair(&pair);
    memset(bytes, 'x', sizeof bytes);
    assert_int_equal(send(pair.client, bytes, sizeof bytes, 0), sizeof bytes);
    assert_int_equal(recv(pair.server, bytes, sizeof bytes, MSG_WAITALL), sizeof bytes);
    wait_acknowledged(pair.client, &facts);
    assert_in_range(facts.bytes_acked, sizeof bytes, sizeof bytes + 1); // the SYN
    assert_int_equal(facts.bytes_received, 0);
    assert_int_equal(facts.retransmits, 0);
    assert_int_equal(facts.lost, 0);
    assert_true(facts.rtt > 0 && facts.rtt < 20 * NS_PER_S && facts.rtt % NS_PER_US == 0);
    assert_true(facts.rttvar > 0 && facts.min_rtt >= 0 && facts.min_rtt <= facts.rtt);
    assert_true(facts.delivery_rate > 0);
    assert_true(tcp_path_info_of(pair.server, &facts));
    assert_int_equal(facts.bytes_received, sizeof bytes);
    close_pair(&pair);
}

static void test_bytes_that_nobody_takes_are_unsent(void **state)
{
    (void)state;
    struct pair pair;
    struct tcp_path_info facts;
    static char bytes[1 << 20];
    connect_pair(&pair);
    for (;;)
        if (send(pair.client, bytes, sizeof bytes, MSG_DONTWAIT) < 0)
            break;
    assert_int_equal(errno, EAGAIN);
    assert_true(tcp_path_info_of(pair.client, &facts));
    assert_true(facts.unsent > 0);
    close_pair(&pair);
}

// What was known before it stays: a record is written after a reset, too.
static void test_what_was_known_before_a_reset_stays(void **state)
{
    (void)state;
    struct pair pair;
    struct tcp_path_info facts;
    connect_pair(&pair);
    assert_int_equal(send(pair.client, "hello", 5, 0), 5);
    char bytes[5];
    assert_int_equal(recv(pair.server, bytes, sizeof bytes, MSG_WAITALL), 5);
    wait_acknowledged(pair.client, &facts);
    socket_set_reset_on_close(pair.server);
    (void)close(pair.server);
    struct pollfd poller = {.fd = pair.client, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, 20000), 1);
    assert_true((poller.revents & POLLHUP) != 0);
    assert_true(tcp_path_info_of(pair.client, &facts));
    assert_in_range(facts.bytes_acked, 5, 6);
    assert_true(facts.rtt > 0);
    (void)close(pair.client);
    (void)close(pair.listener);
}

static void test_what_is_no_tcp_has_no_info(void **state)
{
    (void)state;
    struct tcp_path_info facts = {.rtt = 42};
    int unix_pair[2], pipe_pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, unix_pair), 0);
    assert_int_equal(pipe(pipe_pair), 0);
    int datagrams = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const int others[] = {unix_pair[0], pipe_pair[0], datagrams, -1};
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++)
        assert_false(tcp_path_info_of(others[i], &facts));
    assert_int_equal(facts.rtt, 42);
    (void)close(unix_pair[0]);
    (void)close(unix_pair[1]);
    (void)close(pipe_pair[0]);
    (void)close(pipe_pair[1]);
    (void)close(datagrams);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_acknowledged_bytes_are_counted),
        cmocka_unit_test(test_bytes_that_nobody_takes_are_unsent),
        cmocka_unit_test(test_what_was_known_before_a_reset_stays),
        cmocka_unit_test(test_what_is_no_tcp_has_no_info),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
