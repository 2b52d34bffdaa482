// How a listener ends: nobody new gets in, and handshakes that are under way are told of, and can be finished.

#include <linux/filter.h>

#include "bitflow/base/clock.h"
#include "listener_rig.h"

// Returns a socket whose connect() has begun; `failure`: what it said, or 0.
static int begin_connect(const struct endpoint *endpoint, int *failure)
{
    int fd = socket(endpoint->address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    *failure = connect(fd, &endpoint->address.any, endpoint->length) == 0 ? 0 : errno;
    return fd;
}

static unsigned accept_all(int listening)
{
    unsigned count = 0;
    for (int fd; (fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC)) >= 0; count++) {
        listener_clear_filter(fd);
        (void)close(fd);
    }
    return count;
}

// Attaches a filter that lets nothing through.
static bool attach_filter(int fd)
{
    struct sock_filter drop[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
    const struct sock_fprog filter = {.len = 1, .filter = drop};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0;
}

// Some systems grant filters only to the privileged.
static bool has_filters(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool has = attach_filter(fd);
    (void)close(fd);
    return has;
}

// As if the system granted none.
static void forbid_filters(const struct listener *listener)
{
    int on = 1;
    assert_int_equal(setsockopt(listener->sockets[0], SOL_SOCKET, SO_LOCK_FILTER, &on, sizeof on), 0);
}

// `is_refused`: who comes late gets an answer.
static void check_stopped(const char *address, bool is_forbidden, int at_once, bool is_refused)
{
    enum { EARLY = 3, LATE = 2 };
    struct listener listener = rig_listener(address);
    if (is_forbidden)
        forbid_filters(&listener);
    struct endpoint endpoint;
    int clients[EARLY + LATE], failure;
    assert_true(socket_local(listener.sockets[0], &endpoint));
    for (int i = 0; i < EARLY; i++)
        clients[i] = begin_connect(&endpoint, &failure);
    assert_true(listener_stop_arrivals(&listener));
    for (int i = EARLY; i < EARLY + LATE; i++) {
        clients[i] = begin_connect(&endpoint, &failure);
        assert_int_equal(failure, at_once);
    }
    assert_true(listener_stop_arrivals(&listener)); // once more does no harm
    assert_int_equal(accept_all(listener.sockets[0]), EARLY);
    for (int i = EARLY; i < EARLY + LATE; i++) {
        struct pollfd poller = {.fd = clients[i], .events = POLLOUT};
        assert_int_equal(poll(&poller, 1, is_refused ? 5000 : 0), is_refused);
        assert_true(!is_refused || (poller.revents & POLLHUP) != 0);
    }
    for (int i = 0; i < EARLY + LATE; i++)
        (void)close(clients[i]);
    listener_close(&listener);
}

static void test_a_stopped_listener_takes_no_arrivals(void **state)
{
    (void)state;
    bool is_refused = !has_filters();
    check_stopped("127.0.0.1:0", false, EINPROGRESS, is_refused);
    check_stopped("[::1]:0", false, EINPROGRESS, is_refused);
    check_stopped("127.0.0.1:0", true, EINPROGRESS, true);
    check_stopped("[::1]:0", true, EINPROGRESS, true);
    check_stopped("unix://@bitflow-test-stopped", false, ECONNREFUSED, true);
}

static bool await_handshakes(const struct listener *listener, bool expected)
{
    int64_t deadline = deadline_after(5 * NS_PER_S);
    while (listener_has_handshakes(listener) != expected && deadline_left(deadline) > 0)
        (void)poll(NULL, 0, 1);
    return listener_has_handshakes(listener) == expected;
}

static void check_handshakes(const char *listening, const char *host, bool is_forbidden)
{
    struct listener listener = rig_listener(listening);
    if (is_forbidden)
        forbid_filters(&listener);
    struct endpoint endpoint;
    char text[64];
    (void)snprintf(text, sizeof text, "%s:%u", host, (unsigned)rig_listener_port(&listener, 0));
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    assert_true(endpoint_of_address(&address, &endpoint));
    assert_false(listener_has_handshakes(&listener));
    int client = socket(endpoint.address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(attach_filter(client)); // it does not hear the answer
    assert_int_equal(connect(client, &endpoint.address.any, endpoint.length), -1);
    assert_int_equal(errno, EINPROGRESS);
    assert_true(await_handshakes(&listener, true));
    assert_true(listener_stop_arrivals(&listener));
    assert_true(listener_has_handshakes(&listener));
    assert_int_equal(accept_all(listener.sockets[0]), 0);
    listener_clear_filter(client); // the listener's kernel says it again
    assert_true(await_handshakes(&listener, false));
    assert_int_equal(accept_all(listener.sockets[0]), 1);
    (void)close(client);
    listener_close(&listener);
}

static void test_handshakes_under_way_are_finished(void **state)
{
    (void)state;
    if (!has_filters())
        skip();
    check_handshakes("127.0.0.1:0", "127.0.0.1", false);
    check_handshakes("[::1]:0", "[::1]", false);
    check_handshakes(":0", "127.0.0.1", false); // IPv4 at an IPv6 socket
    check_handshakes("127.0.0.1:0", "127.0.0.1", true);
    check_handshakes("[::1]:0", "[::1]", true);
    struct listener listener = rig_listener("unix://@bitflow-test-handshakes");
    assert_false(listener_has_handshakes(&listener));
    listener_close(&listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stopped_listener_takes_no_arrivals),
        cmocka_unit_test(test_handshakes_under_way_are_finished),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
