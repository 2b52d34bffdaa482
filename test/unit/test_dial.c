// Dialling one endpoint: what answers, what refuses, full accept queues, clients that leave, and what it leaves
// behind.

#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "bitflow/net/inherited.h"
#include "bitflow/net/local_ports.h"
#include "dial_rig.h"

static void test_a_literal_is_connected_to(void **state)
{
    (void)state;
    static const char *const texts[] = {"127.0.0.1:0", "[::1]:0"};
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        struct endpoint endpoint;
        int listener = rig_listen(texts[i], &endpoint);
        struct dialled with = dial_endpoint(&endpoint, rig_limit()), without = dial_endpoint(&endpoint, DEADLINE_NONE);
        assert_connected(&with, listener, &endpoint);
        assert_connected(&without, listener, &endpoint);
        assert_int_equal(with.result.resolve_time, 0);
        assert_in_range(with.result.connect_time, 1, with.took);
        (void)close(listener);
    }
}

static void test_a_refusal_names_the_endpoint(void **state)
{
    (void)state;
    struct endpoint endpoint;
    char text[ENDPOINT_TEXT_SIZE], reason[256];
    int fd = rig_bind("127.0.0.1:0", &endpoint);
    struct dialled dialled = dial_endpoint(&endpoint, rig_limit());
    endpoint_format(&endpoint, text);
    (void)snprintf(reason, sizeof reason, "cannot connect to %s: Connection refused", text);
    assert_failure(&dialled, ERROR_REFUSED, reason);
    assert_int_equal(dialled.error.os_errno, ECONNREFUSED);
    assert_true(endpoint_equal(&dialled.result.remote, &endpoint));
    assert_in_range(dialled.result.connect_time, 1, dialled.took);
    (void)close(fd);
}

static void test_a_full_accept_queue_times_out(void **state)
{
    (void)state;
    struct black_hole hole = rig_black_hole("127.0.0.1:0");
    struct dialled dialled = dial_endpoint(&hole.endpoint, deadline_after(60 * NS_PER_MS));
    assert_failure(&dialled, ERROR_TIMEOUT, "no answer in time");
    dialled = dial_endpoint(&hole.endpoint, clock_now()); // no time at all
    assert_failure(&dialled, ERROR_TIMEOUT, "no answer in time");
    rig_drop_black_hole(&hole);
}

static void test_an_unreachable_address_fails_at_once(void **state)
{
    (void)state;
    // The limited broadcast address cannot be connected to; the kernel says so at once and sends nothing.
    struct dialled dialled = dial_text("255.255.255.255:9", rig_limit());
    assert_failure(&dialled, ERROR_SYSTEM, "cannot connect to 255.255.255.255:9: ");
    dialled = dial_text("[fe80::1%nosuchif]:9", rig_limit());
    assert_failure(&dialled, ERROR_RESOLVE, "no such network interface");
}

// Where nobody listens, TCP can connect to itself once the kernel picks the same port for our side. A socket
// bound to the port it connects to does so for sure; dial_finish() must see through it.
static void test_self_connection_is_refused(void **state)
{
    (void)state;
    struct endpoint endpoint;
    int fd = rig_bind("127.0.0.1:0", &endpoint);
    assert_int_equal(connect(fd, &endpoint.address.any, endpoint.length), 0);
    struct pollfd ready = {.fd = fd, .revents = POLLOUT};
    assert_int_equal(dial_finish(&ready, &endpoint), ECONNREFUSED);
    (void)close(fd);
}

static bool is_local_port(const char *host, unsigned long port)
{
    char text[64];
    struct endpoint endpoint;
    (void)snprintf(text, sizeof text, "%s:%lu", host, port);
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    assert_true(endpoint_of_address(&address, &endpoint));
    return local_ports_include(&endpoint);
}

// That is asked only where the kernel may pick the target's port.
static void test_ports_that_the_kernel_may_pick_are_known(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "[::1]"};
    char text[64] = "", *end;
    int fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    (void)close(fd);
    unsigned long first = strtoul(text, &end, 10), last = strtoul(end, NULL, 10);
    assert_in_range(first, 1, last);
    for (size_t i = 0; i < ARRAY_LENGTH(hosts); i++) {
        assert_true(is_local_port(hosts[i], first));
        assert_true(is_local_port(hosts[i], last));
        assert_true(first == 1 || !is_local_port(hosts[i], first - 1));
        assert_true(last == UINT16_MAX || !is_local_port(hosts[i], last + 1));
    }
}

static int unix_listener(const char *name, int backlog, struct endpoint *endpoint)
{
    struct address address = rig_address(name, ADDRESS_TO_LISTEN);
    assert_true(endpoint_of_address(&address, endpoint));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, &endpoint->address.any, endpoint->length), 0);
    assert_int_equal(listen(fd, backlog), 0);
    return fd;
}

static const char *unix_name(void)
{
    static char name[64];
    (void)snprintf(name, sizeof name, "unix://@bitflow-test-dial-%d", (int)getpid());
    return name;
}

static void test_a_unix_socket_is_connected_to_or_refuses(void **state)
{
    (void)state;
    struct endpoint endpoint;
    int listener = unix_listener(unix_name(), 4, &endpoint);
    struct dialled dialled = dial_text(unix_name(), rig_limit());
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
    dialled = dial_text(unix_name(), rig_limit());
    assert_failure(&dialled, ERROR_REFUSED, "Connection refused");
    dialled = dial_text("unix:///nonexistent/socket", rig_limit());
    assert_failure(&dialled, ERROR_REFUSED, "cannot connect to unix:///nonexistent/socket: No such file or directory");
    dialled = dial_text("unix:///dev/null", rig_limit());
    assert_failure(&dialled, ERROR_REFUSED, "cannot connect to unix:///dev/null: Connection refused");
}

static void *accept_later(void *argument)
{
    const int *listener = argument;
    (void)poll(NULL, 0, 120); // in the third turn of waiting or so; nothing depends on when
    (void)close(rig_accept(*listener));
    return NULL;
}

static void test_a_full_unix_queue_is_waited_for(void **state)
{
    (void)state;
    struct endpoint endpoint;
    int listener = unix_listener(unix_name(), 0, &endpoint), filler = rig_connect(&endpoint);
    struct dialled dialled = dial_text(unix_name(), deadline_after(120 * NS_PER_MS));
    assert_failure(&dialled, ERROR_TIMEOUT, "no answer in time");
    assert_true(dialled.took < RIG_LIMIT / 2);

    dialled = dial_text(unix_name(), DEADLINE_NONE); // bounded all the same
    assert_failure(&dialled, ERROR_TIMEOUT, "no answer in time");
    assert_in_range(dialled.took, 3 * NS_PER_S, RIG_LIMIT / 2);

    pthread_t acceptor; // makes room in the queue
    assert_int_equal(pthread_create(&acceptor, NULL, accept_later, &listener), 0);
    dialled = dial_text(unix_name(), rig_limit());
    assert_int_equal(pthread_join(acceptor, NULL), 0);
    struct timeval timeout;
    socklen_t size = sizeof timeout;
    assert_true(dialled.good);
    assert_int_equal(getsockopt(dialled.result.fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, &size), 0);
    assert_true(timeout.tv_sec == 0 && timeout.tv_usec == 0);
    assert_connected(&dialled, listener, &endpoint);
    (void)close(filler);
    (void)close(listener);
}

static void test_a_client_that_leaves_ends_the_wait_for_a_full_unix_queue(void **state)
{
    (void)state;
    struct endpoint endpoint;
    int client[2], listener = unix_listener(unix_name(), 0, &endpoint), filler = rig_connect(&endpoint);
    struct address address = rig_address(unix_name(), ADDRESS_TO_CONNECT);
    struct client_watch watch;
    rig_pair(client);
    client_watch_init(&watch, client[0]);
    socket_reset(client[1]);
    struct dialled dialled = dial_for(&address, &watch, rig_limit());
    assert_failure(&dialled, ERROR_CANCELLED, "the client has gone");
    (void)close(client[0]);
    (void)close(filler);
    (void)close(listener);
}

// How the dial of an endpoint that never answers ends for what the client does.
static void check_client(void (*leave)(int), enum error_code code, int64_t at_least)
{
    int client[2];
    struct black_hole hole = rig_black_hole("127.0.0.1:0");
    struct address address = rig_address_of(&hole.endpoint);
    struct client_watch watch;
    rig_pair(client);
    client_watch_init(&watch, client[0]);
    leave(client[1]);
    struct dialled dialled =
        dial_for(&address, &watch, deadline_after(CLIENT_WATCH_HALF_CLOSE_TIMEOUT + 200 * NS_PER_MS));
    assert_failure(&dialled, code, code == ERROR_CANCELLED ? "the client has gone" : "no answer in time");
    assert_true(dialled.took >= at_least);
    (void)close(client[0]);
    rig_drop_black_hole(&hole);
}

static void leave_by_reset(int fd)
{
    socket_reset(fd);
}

static void leave_silently(int fd)
{
    (void)close(fd);
}

static void leave_a_request(int fd)
{
    rig_write(fd, "request");
    (void)close(fd);
}

static void test_a_client_that_leaves_cancels_the_dial(void **state)
{
    (void)state;
    check_client(leave_by_reset, ERROR_CANCELLED, 0);
    check_client(leave_silently, ERROR_CANCELLED, CLIENT_WATCH_HALF_CLOSE_TIMEOUT);
    check_client(leave_a_request, ERROR_TIMEOUT, 0);
}

static void test_a_shortage_of_descriptors_is_told_as_such(void **state)
{
    (void)state;
    struct endpoint endpoint;
    struct rlimit before, low;
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = (struct rlimit){.rlim_cur = 3, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    struct dialled tcp = dial_endpoint(&endpoint, rig_limit()), local = dial_text(unix_name(), rig_limit());
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_failure(&tcp, ERROR_NO_DESCRIPTORS, "Too many open files");
    assert_failure(&local, ERROR_NO_DESCRIPTORS, "Too many open files");
    tcp = dial_endpoint(&endpoint, rig_limit());
    assert_connected(&tcp, listener, &endpoint);
    (void)close(listener);
}

static void test_an_inherited_stream_is_lent_once(void **state)
{
    (void)state;
    int pair[2];
    char text[32];
    struct endpoint peer;
    rig_pair(pair);
    inherited_init();
    (void)snprintf(text, sizeof text, "fd://%d", pair[0]);
    struct dialled dialled = dial_text(text, rig_limit());
    assert_true(dialled.good);
    assert_true(dialled.result.is_lent);
    assert_int_equal(dialled.result.fd, pair[0]);
    assert_true(socket_peer(pair[0], &peer) && endpoint_equal(&peer, &dialled.result.remote));
    struct dialled second = dial_text(text, rig_limit());
    assert_failure(&second, ERROR_REFUSED, "in use");
    inherited_return(pair[0], true);
    second = dial_text(text, rig_limit());
    assert_failure(&second, ERROR_REFUSED, "used up");
    (void)close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_literal_is_connected_to),
        cmocka_unit_test(test_a_refusal_names_the_endpoint),
        cmocka_unit_test(test_a_full_accept_queue_times_out),
        cmocka_unit_test(test_an_unreachable_address_fails_at_once),
        cmocka_unit_test(test_self_connection_is_refused),
        cmocka_unit_test(test_ports_that_the_kernel_may_pick_are_known),
        cmocka_unit_test(test_a_unix_socket_is_connected_to_or_refuses),
        cmocka_unit_test(test_a_full_unix_queue_is_waited_for),
        cmocka_unit_test(test_a_client_that_leaves_ends_the_wait_for_a_full_unix_queue),
        cmocka_unit_test(test_a_client_that_leaves_cancels_the_dial),
        cmocka_unit_test(test_a_shortage_of_descriptors_is_told_as_such),
        cmocka_unit_test(test_an_inherited_stream_is_lent_once),
        cmocka_unit_test(test_no_descriptor_leaks),
    };
    return cmocka_run_group_tests(tests, fake_begin, NULL);
}
