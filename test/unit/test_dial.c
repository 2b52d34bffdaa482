// Dialling: one endpoint, several of them racing, full accept queues, clients that leave, and what it leaves
// behind.

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "../../src/net/dial_race.h"
#include "bitflow/base/compiler.h"
#include "bitflow/net/dial.h"
#include "bitflow/net/inherited.h"
#include "fake_resolver.h"

struct dialled {
    bool good;
    struct dial_result result;
    struct error error;
    int64_t took;
};

// The endpoint that the error names is told apart, too; none where it never came to one.
static void assert_last_tried(const struct dialled *dialled)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(&dialled->result.remote, text);
    bool was_tried =
        dialled->error.code != ERROR_RESOLVE && (strstr(dialled->error.text, "cannot connect to ") != NULL ||
                                                 strstr(dialled->error.text, "connecting to ") != NULL);
    if (was_tried && strstr(dialled->error.text, text) == NULL)
        fail_msg("\"%s\" does not name %s", dialled->error.text, text);
    if (!was_tried)
        assert_int_equal(dialled->result.remote.length, 0);
}

static struct dialled dial_for(const struct address *address, struct patience *patience, int64_t deadline)
{
    struct dialled dialled = {.result.fd = -7};
    int64_t start = clock_now();
    dialled.good = dial(address, patience, deadline, &dialled.result, &dialled.error);
    dialled.took = clock_now() - start;
    if (!dialled.good) {
        assert_int_equal(dialled.result.fd, -1);
        assert_int_not_equal(dialled.error.code, ERROR_NONE);
        if (dialled.error.code == ERROR_TIMEOUT && deadline != DEADLINE_NONE)
            assert_true(clock_now() >= deadline); // never before its time
        assert_last_tried(&dialled);
    }
    return dialled;
}

static struct dialled dial_text(const char *text, int64_t deadline)
{
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    struct patience patience;
    patience_init(&patience, -1);
    return dial_for(&address, &patience, deadline);
}

static struct dialled dial_endpoint(const struct endpoint *endpoint, int64_t deadline)
{
    char text[ENDPOINT_TEXT_SIZE];
    endpoint_format(endpoint, text);
    return dial_text(text, deadline);
}

static void assert_failure(const struct dialled *dialled, enum error_code code, const char *fragment)
{
    assert_false(dialled->good);
    if (dialled->error.code != code || strstr(dialled->error.text, fragment) == NULL)
        fail_msg("%s: \"%s\" does not say \"%s\"", error_code_name(dialled->error.code), dialled->error.text, fragment);
}

// That the dialled socket is connected to `listener`, is blocking and closes on exec; closes it.
static void assert_connected(const struct dialled *dialled, int listener, const struct endpoint *endpoint)
{
    if (!dialled->good)
        fail_msg("%s", dialled->error.text);
    int fd = dialled->result.fd, served = rig_accept(listener);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    assert_false(dialled->result.is_borrowed);
    assert_true(endpoint_equal(&dialled->result.remote, endpoint));
    char byte = 0;
    rig_write(fd, "x");
    assert_int_equal(read(served, &byte, 1), 1);
    assert_int_equal(byte, 'x');
    (void)close(served);
    (void)close(fd);
}

// A port where nobody listens and that stays ours: bound, not listening.
static int dead_end(const char *text, struct endpoint *endpoint)
{
    return rig_bind(text, endpoint);
}

static void test_literals(void **state)
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

static void test_refused(void **state)
{
    (void)state;
    struct endpoint endpoint;
    char text[ENDPOINT_TEXT_SIZE], reason[256];
    int fd = dead_end("127.0.0.1:0", &endpoint);
    struct dialled dialled = dial_endpoint(&endpoint, rig_limit());
    endpoint_format(&endpoint, text);
    (void)snprintf(reason, sizeof reason, "cannot connect to %s: Connection refused", text);
    assert_failure(&dialled, ERROR_REFUSED, reason);
    assert_int_equal(dialled.error.os_errno, ECONNREFUSED);
    assert_true(endpoint_equal(&dialled.result.remote, &endpoint));
    assert_in_range(dialled.result.connect_time, 1, dialled.took);
    (void)close(fd);
}

static void test_full_accept_queue_times_out(void **state)
{
    (void)state;
    struct endpoint endpoint;
    int filler, listener = rig_black_hole("127.0.0.1:0", &endpoint, &filler);
    struct dialled dialled = dial_endpoint(&endpoint, deadline_after(60 * NS_PER_MS));
    assert_failure(&dialled, ERROR_TIMEOUT, "no answer in time");
    dialled = dial_endpoint(&endpoint, clock_now()); // no time at all
    assert_failure(&dialled, ERROR_TIMEOUT, "no answer in time");
    (void)close(filler);
    (void)close(listener);
}

static void test_unreachable(void **state)
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
    assert_int_equal(dial_finish(fd, &endpoint), ECONNREFUSED);
    (void)close(fd);
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

static void test_unix(void **state)
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

static void test_unix_full_queue(void **state)
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

static void test_unix_full_queue_closed_meanwhile(void **state)
{
    (void)state;
    struct endpoint endpoint;
    int client[2], listener = unix_listener(unix_name(), 0, &endpoint), filler = rig_connect(&endpoint);
    struct address address = rig_address(unix_name(), ADDRESS_TO_CONNECT);
    struct patience patience;
    rig_pair(client);
    patience_init(&patience, client[0]);
    socket_reset(client[1]);
    struct dialled dialled = dial_for(&address, &patience, rig_limit());
    assert_failure(&dialled, ERROR_CANCELLED, "the client has gone");
    (void)close(client[0]);
    (void)close(filler);
    (void)close(listener);
}

// How the dial of an endpoint that never answers ends for what the client does.
static void check_client(void (*leave)(int), enum error_code code, int64_t at_least)
{
    struct endpoint endpoint;
    int client[2], filler, listener = rig_black_hole("127.0.0.1:0", &endpoint, &filler);
    struct address address = rig_address_of(&endpoint);
    struct patience patience;
    rig_pair(client);
    patience_init(&patience, client[0]);
    leave(client[1]);
    struct dialled dialled = dial_for(&address, &patience, deadline_after(PATIENCE_GRACE + 200 * NS_PER_MS));
    assert_failure(&dialled, code, code == ERROR_CANCELLED ? "the client has gone" : "no answer in time");
    assert_true(dialled.took >= at_least);
    (void)close(client[0]);
    (void)close(filler);
    (void)close(listener);
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

static void test_the_client_leaves(void **state)
{
    (void)state;
    check_client(leave_by_reset, ERROR_CANCELLED, 0);
    check_client(leave_silently, ERROR_CANCELLED, PATIENCE_GRACE);
    check_client(leave_a_request, ERROR_TIMEOUT, 0);
}

static void test_order(void **state)
{
    (void)state;
    static const struct {
        const char *families; // in the resolver's order
        const char *order;
    } rows[] = {
        {"", ""},           {"4", "0"},           {"6", "0"},           {"44", "01"},       {"64", "01"},
        {"46", "01"},       {"664", "021"},       {"6644", "0213"},     {"4466", "0213"},   {"66664", "04123"},
        {"44446", "04123"}, {"646464", "012345"}, {"644466", "014253"}, {"46666", "01234"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct endpoint endpoints[8] = {{.length = 0}};
        uint8_t order[RESOLVE_ADDRESSES_MAX];
        size_t count = strlen(rows[i].families);
        for (size_t j = 0; j < count; j++)
            endpoints[j].address.any.sa_family = rows[i].families[j] == '4' ? AF_INET : AF_INET6;
        dial_race_order(endpoints, count, order);
        for (size_t j = 0; j < count; j++)
            if (order[j] != rows[i].order[j] - '0')
                fail_msg("%s: %u at %zu", rows[i].families, (unsigned)order[j], j);
    }
}

// The resolver gives the port as the address has it; addresses of 127/8 tell the endpoints of one port apart.
static struct endpoint on_port(const char *host, uint16_t port)
{
    char text[64];
    struct endpoint endpoint;
    (void)snprintf(text, sizeof text, "%s:%u", host, (unsigned)port);
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    assert_true(endpoint_of_address(&address, &endpoint));
    return endpoint;
}

static struct dialled dial_list(const char *const *hosts, size_t count, uint16_t port, int64_t deadline)
{
    char text[64];
    fake_clear();
    for (size_t i = 0; i < count; i++) {
        struct endpoint endpoint = on_port(hosts[i], port);
        fake_add(&endpoint);
    }
    (void)snprintf(text, sizeof text, "list.test:%u", (unsigned)port);
    return dial_text(text, deadline);
}

static int listen_on(const char *host, uint16_t port, struct endpoint *endpoint)
{
    char text[64];
    (void)snprintf(text, sizeof text, "%s:%u", host, (unsigned)port);
    return rig_listen(text, endpoint);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1"};
    struct endpoint endpoint;
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    struct dialled dialled = dial_list(hosts, 1, rig_port(&endpoint), rig_limit());
    assert_connected(&dialled, listener, &endpoint);
    assert_true(dialled.result.resolve_time > 0);
    (void)close(listener);
    dialled = dial_text("no-name.test:80", rig_limit());
    assert_failure(&dialled, ERROR_RESOLVE, "cannot resolve no-name.test");
    assert_true(dialled.result.resolve_time > 0);
    assert_int_equal(dialled.result.connect_time, 0);
    dialled = dial_text("slow.test:80", deadline_after(300 * NS_PER_MS));
    assert_failure(&dialled, ERROR_TIMEOUT, "cannot resolve slow.test: no answer in time");
    fake_release();
}

// A refusal starts the next one at once, without the delay.
static void test_race_first_refuses(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.3", "127.0.0.1"};
    struct endpoint endpoint;
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    struct dialled dialled = dial_list(hosts, 3, rig_port(&endpoint), rig_limit());
    assert_true(dialled.result.connect_time < DIAL_ATTEMPT_DELAY);
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
}

// One that doesn't answer holds the next one up for the delay only.
static void test_race_first_is_silent(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.1"};
    struct endpoint endpoint, silent;
    int filler, listener = rig_listen("127.0.0.1:0", &endpoint);
    char text[64];
    (void)snprintf(text, sizeof text, "127.0.0.2:%u", (unsigned)rig_port(&endpoint));
    int black_hole = rig_black_hole(text, &silent, &filler);
    struct dialled dialled = dial_list(hosts, 2, rig_port(&endpoint), rig_limit());
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY, RIG_LIMIT / 2);
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
    (void)close(filler);
    (void)close(black_hole);
}

static void test_race_families_take_turns(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.3", "[::1]"};
    struct endpoint ipv6, first, second;
    int fillers[2], listener = rig_listen("[::1]:0", &ipv6), black_holes[2];
    char text[64];
    (void)snprintf(text, sizeof text, "127.0.0.2:%u", (unsigned)rig_port(&ipv6));
    black_holes[0] = rig_black_hole(text, &first, &fillers[0]);
    (void)snprintf(text, sizeof text, "127.0.0.3:%u", (unsigned)rig_port(&ipv6));
    black_holes[1] = rig_black_hole(text, &second, &fillers[1]);
    struct dialled dialled = dial_list(hosts, 3, rig_port(&ipv6), rig_limit());
    // Second, not third: one delay, not two.
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY, 2 * DIAL_ATTEMPT_DELAY - 1);
    assert_connected(&dialled, listener, &ipv6);
    for (int i = 0; i < 2; i++) {
        (void)close(fillers[i]);
        (void)close(black_holes[i]);
    }
    (void)close(listener);
}

static void test_race_all_fail(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "127.0.0.2", "[::1]"};
    struct endpoint endpoint;
    int fd = dead_end("127.0.0.1:0", &endpoint);
    struct dialled dialled = dial_list(hosts, 3, rig_port(&endpoint), rig_limit());
    assert_failure(&dialled, ERROR_REFUSED, "all 3 addresses failed, the last: cannot connect to 127.0.0.2:");
    assert_int_equal(dialled.error.os_errno, ECONNREFUSED);
    (void)close(fd);
}

static void test_race_times_out(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.1"};
    struct endpoint endpoint;
    int filler, black_hole = rig_black_hole("127.0.0.1:0", &endpoint, &filler);
    struct dialled dialled = dial_list(hosts, 2, rig_port(&endpoint), deadline_after(60 * NS_PER_MS));
    assert_failure(&dialled, ERROR_TIMEOUT, "2 of 2 addresses tried, 1 failed");
    assert_true(endpoint_equal(&dialled.result.remote, &endpoint));
    (void)close(filler);
    (void)close(black_hole);
}

static void test_race_is_cancelled(void **state)
{
    (void)state;
    struct endpoint endpoint, other;
    int client[2], filler, black_hole = rig_black_hole("127.0.0.1:0", &endpoint, &filler);
    struct patience patience;
    char text[64];
    other = on_port("127.0.0.2", rig_port(&endpoint));
    fake_clear();
    fake_add(&endpoint);
    fake_add(&other);
    (void)snprintf(text, sizeof text, "list.test:%u", (unsigned)rig_port(&endpoint));
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    rig_pair(client);
    patience_init(&patience, client[0]);
    assert_int_equal(shutdown(client[1], SHUT_WR), 0); // gone after the grace, while both are tried
    struct dialled dialled = dial_for(&address, &patience, rig_limit());
    assert_failure(&dialled, ERROR_CANCELLED, "the client has gone");
    (void)close(client[0]);
    (void)close(client[1]);
    (void)close(filler);
    (void)close(black_hole);
}

// As many as a name can have, all of them refusing but the last.
static void test_race_of_many(void **state)
{
    (void)state;
    char texts[RESOLVE_ADDRESSES_MAX][16];
    const char *hosts[RESOLVE_ADDRESSES_MAX];
    struct endpoint endpoint;
    for (size_t i = 0; i < RESOLVE_ADDRESSES_MAX; i++) {
        (void)snprintf(texts[i], sizeof texts[i], "127.0.1.%zu", i + 1);
        hosts[i] = texts[i];
    }
    int dead = rig_bind("127.0.0.1:0", &endpoint);
    int listener = listen_on(hosts[RESOLVE_ADDRESSES_MAX - 1], rig_port(&endpoint), &endpoint);
    struct dialled dialled = dial_list(hosts, RESOLVE_ADDRESSES_MAX, rig_port(&endpoint), rig_limit());
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
    (void)close(dead);
}

static void test_no_descriptor_left(void **state)
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

static void test_inherited(void **state)
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
    assert_true(dialled.result.is_borrowed);
    assert_int_equal(dialled.result.fd, pair[0]);
    assert_true(socket_peer(pair[0], &peer) && endpoint_equal(&peer, &dialled.result.remote));
    struct dialled second = dial_text(text, rig_limit());
    assert_failure(&second, ERROR_REFUSED, "in use");
    inherited_return(pair[0], true);
    second = dial_text(text, rig_limit());
    assert_failure(&second, ERROR_REFUSED, "used up");
    (void)close(pair[1]);
}

static void test_no_descriptor_leaks(void **state)
{
    (void)state;
    const unsigned before = *(const unsigned *)*state;
    int64_t limit = rig_limit();
    while (rig_descriptors() != before && deadline_left(limit) > 0) // a resolver's thread may be about to close its own
        (void)poll(NULL, 0, 1);
    assert_int_equal(rig_descriptors(), before);
}

int main(void)
{
    if (sem_init(&fake_slow, 0, 0) != 0)
        return 1;
    static unsigned before;
    before = rig_descriptors();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_literals),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_full_accept_queue_times_out),
        cmocka_unit_test(test_unreachable),
        cmocka_unit_test(test_self_connection_is_refused),
        cmocka_unit_test(test_unix),
        cmocka_unit_test(test_unix_full_queue),
        cmocka_unit_test(test_unix_full_queue_closed_meanwhile),
        cmocka_unit_test(test_the_client_leaves),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_race_first_refuses),
        cmocka_unit_test(test_race_first_is_silent),
        cmocka_unit_test(test_race_families_take_turns),
        cmocka_unit_test(test_race_all_fail),
        cmocka_unit_test(test_race_times_out),
        cmocka_unit_test(test_race_is_cancelled),
        cmocka_unit_test(test_race_of_many),
        cmocka_unit_test(test_no_descriptor_left),
        cmocka_unit_test(test_inherited),
        cmocka_unit_test_prestate(test_no_descriptor_leaks, &before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
