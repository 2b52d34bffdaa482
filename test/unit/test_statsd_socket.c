// The way to a receiver that is there, is not, comes and goes, or has moved.

#include "fake_resolver.h"

#include "statsd_rig.h"
#include "telemetry/statsd_socket.h"

static bool prepare(struct statsd_socket *socket)
{
    struct error error = ERROR_INIT;
    bool is_ready = statsd_socket_prepare(socket, rig_limit(), &error);
    assert_true(is_ready == (error.code == ERROR_NONE));
    assert_true(is_ready || *error.text != '\0');
    return is_ready;
}

static void send_text(struct statsd_socket *socket, const char *text)
{
    assert_int_equal(statsd_socket_send(socket, text, strlen(text)), STATSD_SENT);
}

static void test_a_datagram_arrives_by_udp(void **state)
{
    (void)state;
    static const char *const literals[] = {"127.0.0.1:0", "[::1]:0"};
    for (size_t i = 0; i < ARRAY_LENGTH(literals); i++)
        for (int form = 0; form < 2; form++) {
            char bound[ENDPOINT_TEXT_SIZE], address[ENDPOINT_TEXT_SIZE + 8];
            int receiver = rig_receiver(literals[i], bound);
            struct statsd_socket socket;
            (void)snprintf(address, sizeof address, "%s%s", form == 0 ? "" : "udp://", bound);
            statsd_socket_init(&socket, address);
            assert_int_equal(statsd_socket_limit(&socket), STATSD_UDP_DATAGRAM);
            assert_true(prepare(&socket));
            send_text(&socket, "a:1|c");
            assert_string_equal(rig_datagram(receiver), "a:1|c");
            assert_false(statsd_socket_was_refused(&socket));
            statsd_socket_close(&socket);
            (void)close(receiver);
        }
}

static void test_a_udp_receiver_may_come_and_go(void **state)
{
    (void)state;
    char address[ENDPOINT_TEXT_SIZE];
    (void)close(rig_receiver("127.0.0.1:0", address));
    struct statsd_socket socket;
    statsd_socket_init(&socket, address);
    assert_false(prepare(&socket));
    assert_false(prepare(&socket));
    for (int round = 0; round < 3; round++) {
        char same[ENDPOINT_TEXT_SIZE];
        int receiver = rig_receiver(address, same);
        assert_true(prepare(&socket));
        send_text(&socket, "here");
        assert_string_equal(rig_datagram(receiver), "here");
        (void)close(receiver);
        // Now there is none: sooner or later it is told so, and keeps being told.
        int64_t limit = rig_limit();
        while (statsd_socket_send(&socket, "nobody", 6) == STATSD_SENT && deadline_left(limit) > 0)
            (void)poll(NULL, 0, 1);
        assert_true(deadline_left(limit) > 0);
        assert_false(prepare(&socket));
    }
    statsd_socket_close(&socket);
}

static void add_address(const char *text)
{
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    struct endpoint endpoint;
    assert_true(endpoint_of_address(&address, &endpoint));
    fake_add(&endpoint);
}

static void test_the_address_that_answers_is_found(void **state)
{
    (void)state;
    char bound[ENDPOINT_TEXT_SIZE], address[64];
    int receiver = rig_receiver("127.0.0.1:0", bound);
    fake_clear();
    add_address("127.0.0.2:1");
    add_address("[::1]:1");
    add_address("127.0.0.1:1");
    (void)snprintf(address, sizeof address, "list.test:%s", strrchr(bound, ':') + 1);
    struct statsd_socket socket;
    statsd_socket_init(&socket, address);
    assert_true(prepare(&socket));
    send_text(&socket, "found");
    assert_string_equal(rig_datagram(receiver), "found");
    statsd_socket_close(&socket);
    (void)close(receiver);
}

// A name that stands for another address is followed: once all that are known refuse, or after a minute.
static void test_a_receiver_that_moved_is_followed(void **state)
{
    (void)state;
    char bound[ENDPOINT_TEXT_SIZE], moved[ENDPOINT_TEXT_SIZE], address[64], there[64];
    int receiver = rig_receiver("127.0.0.2:0", bound);
    (void)snprintf(address, sizeof address, "list.test:%s", strrchr(bound, ':') + 1);
    (void)snprintf(there, sizeof there, "127.0.0.3:%s", strrchr(bound, ':') + 1);
    fake_clear();
    add_address("127.0.0.2:1");
    struct statsd_socket socket;
    statsd_socket_init(&socket, address);
    assert_true(prepare(&socket));
    int other = rig_receiver(there, moved);
    fake_clear();
    add_address("127.0.0.3:1");
    assert_true(prepare(&socket));
    send_text(&socket, "not yet");
    assert_string_equal(rig_datagram(receiver), "not yet");
    socket.resolved -= 61 * NS_PER_S;
    assert_true(prepare(&socket));
    send_text(&socket, "after a minute");
    assert_string_equal(rig_datagram(other), "after a minute");
    // And back, by refusal.
    (void)close(other);
    fake_clear();
    add_address("127.0.0.2:1");
    int64_t limit = rig_limit();
    while (statsd_socket_send(&socket, "nobody", 6) == STATSD_SENT && deadline_left(limit) > 0)
        (void)poll(NULL, 0, 1);
    assert_false(prepare(&socket)); // this finds that all refuse
    assert_true(prepare(&socket));
    send_text(&socket, "back");
    assert_string_equal(rig_datagram(receiver), "back");
    statsd_socket_close(&socket);
    (void)close(receiver);
}

static void test_a_name_that_is_not_found_stops_nothing(void **state)
{
    (void)state;
    struct statsd_socket socket;
    statsd_socket_init(&socket, "no-name.test:8125");
    assert_false(prepare(&socket));
    assert_false(prepare(&socket)); // it is not asked for each second
    // Once the name is known, a resolver that fails does not stop it.
    char bound[ENDPOINT_TEXT_SIZE];
    int receiver = rig_receiver("127.0.0.1:0", bound);
    socket.address = rig_address(bound, ADDRESS_TO_CONNECT);
    socket.look_up_after = 0;
    assert_true(prepare(&socket));
    (void)snprintf(socket.address.host, sizeof socket.address.host, "no-name.test");
    socket.address.is_literal = false;
    socket.resolved -= 61 * NS_PER_S;
    assert_true(prepare(&socket));
    send_text(&socket, "still");
    assert_string_equal(rig_datagram(receiver), "still");
    statsd_socket_close(&socket);
    (void)close(receiver);
}

static void test_a_unix_receiver_may_come_and_go(void **state)
{
    (void)state;
    char directory[] = "/tmp/bitflow-statsd-XXXXXX";
    char address[64], path[sizeof directory + 2], text[ENDPOINT_TEXT_SIZE];
    assert_non_null(mkdtemp(directory));
    (void)snprintf(path, sizeof path, "%s/s", directory);
    (void)snprintf(address, sizeof address, "unix://%s", path);
    struct statsd_socket socket;
    statsd_socket_init(&socket, address);
    assert_int_equal(statsd_socket_limit(&socket), STATSD_DATAGRAM_MAX);
    assert_false(prepare(&socket));
    int receiver = rig_receiver(address, text);
    assert_true(prepare(&socket));
    send_text(&socket, "first");
    assert_string_equal(rig_datagram(receiver), "first");
    // Restarted between two datagrams: the second one arrives all the same.
    (void)close(receiver);
    (void)unlink(path);
    receiver = rig_receiver(address, text);
    send_text(&socket, "second");
    assert_string_equal(rig_datagram(receiver), "second");
    // Gone.
    (void)close(receiver);
    assert_int_equal(statsd_socket_send(&socket, "x", 1), STATSD_GONE);
    assert_false(prepare(&socket)); // its file is left
    (void)unlink(path);
    assert_false(prepare(&socket));
    (void)rmdir(directory);
    statsd_socket_close(&socket);
}

static void test_a_datagram_arrives_at_an_abstract_socket(void **state)
{
    (void)state;
    char address[64], text[ENDPOINT_TEXT_SIZE];
    (void)snprintf(address, sizeof address, "unix://@bitflow-statsd-%d", (int)getpid());
    int receiver = rig_receiver(address, text);
    struct statsd_socket socket;
    statsd_socket_init(&socket, address);
    assert_true(prepare(&socket));
    send_text(&socket, "abstract");
    assert_string_equal(rig_datagram(receiver), "abstract");
    statsd_socket_close(&socket);
    (void)close(receiver);
}

// A reader that does not read costs a tenth of a second a batch, and no more; then datagrams are dropped.
static void test_a_slow_reader_is_not_waited_for_long(void **state)
{
    (void)state;
    char address[64], text[ENDPOINT_TEXT_SIZE];
    static char big[STATSD_DATAGRAM_MAX];
    memset(big, 'x', sizeof big);
    (void)snprintf(address, sizeof address, "unix://@bitflow-slow-%d", (int)getpid());
    int receiver = rig_receiver(address, text);
    struct statsd_socket socket;
    statsd_socket_init(&socket, address);
    assert_true(prepare(&socket));
    unsigned sent = 0;
    int64_t begin = clock_now();
    while (statsd_socket_send(&socket, big, sizeof big) == STATSD_SENT)
        sent++;
    assert_true(sent >= 1);
    int64_t first = clock_now() - begin;
    assert_true(first >= 90 * NS_PER_MS);
    begin = clock_now();
    for (int i = 0; i < 100; i++)
        assert_int_equal(statsd_socket_send(&socket, big, sizeof big), STATSD_DROPPED);
    assert_true(clock_now() - begin < 10 * first);
    // Once it reads, all is well again.
    for (unsigned i = 0; i < sent; i++)
        assert_int_equal(strlen(rig_datagram(receiver)), sizeof big);
    assert_true(prepare(&socket));
    send_text(&socket, "again");
    assert_string_equal(rig_datagram(receiver), "again");
    statsd_socket_close(&socket);
    (void)close(receiver);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_datagram_arrives_by_udp),
        cmocka_unit_test(test_a_udp_receiver_may_come_and_go),
        cmocka_unit_test(test_the_address_that_answers_is_found),
        cmocka_unit_test(test_a_receiver_that_moved_is_followed),
        cmocka_unit_test(test_a_name_that_is_not_found_stops_nothing),
        cmocka_unit_test(test_a_unix_receiver_may_come_and_go),
        cmocka_unit_test(test_a_datagram_arrives_at_an_abstract_socket),
        cmocka_unit_test(test_a_slow_reader_is_not_waited_for_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
