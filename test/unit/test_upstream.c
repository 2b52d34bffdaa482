// The way to a target: the backoff as numbers, then attempts, failover and giving up with real sockets on the loopback.

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "proxy/upstream/balancer.h"
#include "proxy/upstream/health.h"
#include "proxy/upstream/upstream.h"

#define MIDDLE UINT32_C(0x7fff) // a `random` that varies the wait by next to nothing

static void assert_about(int64_t value, int64_t wanted)
{
    assert_in_range(value, wanted - wanted / 200, wanted + wanted / 200);
}

static void test_backoff_doubles_up_to_its_bound(void **state)
{
    (void)state;
    static const struct {
        int64_t backoff, attempt, wait; // ms
    } table[] = {
        {100, 2, 100},     {100, 3, 200},      {100, 4, 400},     {100, 9, 12800},       {100, 10, 25600},
        {100, 11, 30000},  {100, 1000, 30000}, {1, 2, 1},         {20000, 3, 30000},     {30000, 2, 30000},
        {30000, 5, 30000}, {60000, 2, 60000},  {60000, 9, 60000}, {3600000, 4, 3600000},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++)
        assert_about(upstream_backoff(table[i].backoff * NS_PER_MS, table[i].attempt, MIDDLE),
                     table[i].wait * NS_PER_MS);
}

// A fifth less at one end of the random numbers, a fifth more at the other, and never beyond.
static void test_backoff_varies_within_a_fifth(void **state)
{
    (void)state;
    static const int64_t backoffs[] = {1, 99, 1000, NS_PER_MS, 100 * NS_PER_MS, NS_PER_S, 3600 * NS_PER_S};
    for (size_t i = 0; i < ARRAY_LENGTH(backoffs); i++) {
        int64_t wait = backoffs[i];
        for (int n = 0; n < 20000; n++)
            assert_in_range(upstream_backoff(wait, 2, arc4random()), wait - wait / 5, wait + wait / 5);
    }
    assert_about(upstream_backoff(NS_PER_S, 2, 0), NS_PER_S * 8 / 10);
    assert_about(upstream_backoff(NS_PER_S, 2, UINT32_MAX), NS_PER_S * 12 / 10);
    assert_about(upstream_backoff(NS_PER_S, 100, UINT32_MAX), 36 * NS_PER_S);
}

static void test_backoff_does_not_overflow(void **state)
{
    (void)state;
    static const int64_t backoffs[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX / 2, INT64_MAX / 2 + 1, INT64_MAX / 4 * 3};
    static const int64_t attempts[] = {2, 3, 64, 1000, INT64_MAX};
    for (size_t i = 0; i < ARRAY_LENGTH(backoffs); i++) {
        for (size_t j = 0; j < ARRAY_LENGTH(attempts); j++) {
            assert_true(upstream_backoff(backoffs[i], attempts[j], 0) > 3600 * NS_PER_S);
            assert_true(upstream_backoff(backoffs[i], attempts[j], UINT32_MAX) > 3600 * NS_PER_S);
        }
    }
}

// Targets on the loopback: one that listens, and ports that are bound so that nobody else listens there either.

struct port {
    int fd;
    struct address address;
};

static struct port open_port(bool listening)
{
    struct port port;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    char text[64];
    struct error error = ERROR_INIT;
    port.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(port.fd >= 0);
    assert_int_equal(bind(port.fd, (struct sockaddr *)&address, length), 0);
    if (listening)
        assert_int_equal(listen(port.fd, 16), 0);
    assert_int_equal(getsockname(port.fd, (struct sockaddr *)&address, &length), 0);
    (void)snprintf(text, sizeof text, "tcp://127.0.0.1:%d", ntohs(address.sin_port));
    if (!address_parse(text, ADDRESS_TO_CONNECT, &port.address, &error))
        fail_msg("%s", error.text);
    return port;
}

enum { REFUSES, LISTENS, REFUSES_TOO, PORTS };

struct fixture {
    struct port ports[PORTS];
    struct target_config target_settings[PORTS];
    struct target_load loads[PORTS];
    struct health healths[PORTS];
    struct target targets[PORTS];
    struct proxy_config settings;
    int client[2]; // ours, the client's end
    struct client_watch watch;
    struct upstream upstream;
    struct phases phases;
    struct failure failure;
};

static int setup(void **state)
{
    static const char *const names[PORTS] = {"refuses", "listens", "refuses too"};
    struct fixture *fixture = calloc(1, sizeof *fixture);
    for (size_t i = 0; i < PORTS; i++) {
        fixture->ports[i] = open_port(i == LISTENS);
        fixture->target_settings[i] =
            (struct target_config){.name = names[i], .address = fixture->ports[i].address, .connect_attempts = 1};
    }
    for (size_t i = 0; i < PORTS; i++) {
        fixture->targets[i] = (struct target){
            .settings = &fixture->target_settings[i], .load = &fixture->loads[i], .health = &fixture->healths[i]};
    }
    fixture->settings = (struct proxy_config){.name = "web", .target_count = PORTS, .balancer = BALANCER_FAILOVER};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fixture->client), 0);
    client_watch_init(&fixture->watch, fixture->client[0]);
    fixture->upstream.dialled.fd = -1;
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    for (size_t i = 0; i < PORTS; i++)
        (void)close(fixture->ports[i].fd);
    if (fixture->upstream.dialled.fd >= 0)
        (void)close(fixture->upstream.dialled.fd);
    (void)close(fixture->client[0]);
    if (fixture->client[1] >= 0)
        (void)close(fixture->client[1]);
    free(fixture);
    return 0;
}

static bool connect_with(struct fixture *fixture, uint64_t rr_counter, const struct proxy_header *header)
{
    struct log_context context = {.proxy = "web", .connection = 1};
    static struct metrics metrics; // they are off
    static struct proxy_metrics proxy_metrics = {.all = &metrics};
    struct proxy proxy = {.rr_counter = rr_counter, .metrics = &proxy_metrics};
    const struct generation generation = {.proxy = &proxy, .settings = &fixture->settings, .targets = fixture->targets};
    const struct upstream_terms terms = {
        .generation = &generation, .header = header, .watch = &fixture->watch, .context = &context};
    fixture->phases = (struct phases){.current = PHASE_DIALLING, .reached = PHASE_DIALLING, .started = 1, .since = 1};
    return upstream_connect(&fixture->upstream, &terms, &fixture->phases, &fixture->failure);
}

static bool connect_now(struct fixture *fixture, uint64_t rr_counter)
{
    return connect_with(fixture, rr_counter, NULL);
}

static void test_failover_goes_on_to_the_one_that_listens(void **state)
{
    struct fixture *fixture = *state;
    assert_true(connect_now(fixture, 0));
    assert_string_equal(fixture->upstream.target->settings->name, "listens");
    assert_int_equal(fixture->upstream.attempts, 2);
    assert_true(fixture->phases.spent[PHASE_CONNECT] > 0);
    assert_int_equal(fixture->phases.spent[PHASE_RESOLVE], 0);
    assert_int_equal(fixture->failure.error.code, ERROR_NONE);
    // It really is connected to that one.
    int accepted = accept4(fixture->ports[LISTENS].fd, NULL, NULL, SOCK_CLOEXEC);
    char byte = 0;
    assert_int_equal(send(fixture->upstream.dialled.fd, "x", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(recv(accepted, &byte, 1, 0), 1);
    assert_int_equal(byte, 'x');
    (void)close(accepted);
}

static void test_none_tries_the_first_only(void **state)
{
    struct fixture *fixture = *state;
    fixture->settings.balancer = BALANCER_NONE;
    assert_false(connect_now(fixture, 1));
    assert_int_equal(fixture->failure.error.code, ERROR_REFUSED);
    assert_string_equal(fixture->upstream.target->settings->name, "refuses");
    assert_int_equal(fixture->upstream.attempts, 1);
}

static void test_round_robin_begins_where_its_counter_says(void **state)
{
    struct fixture *fixture = *state;
    fixture->settings.balancer = BALANCER_ROUND_ROBIN;
    assert_true(connect_now(fixture, 1));
    assert_string_equal(fixture->upstream.target->settings->name, "listens");
    assert_int_equal(fixture->upstream.attempts, 1);
}

static void test_round_robin_moves_on_and_around(void **state)
{
    struct fixture *fixture = *state;
    fixture->settings.balancer = BALANCER_ROUND_ROBIN;
    assert_true(connect_now(fixture, 2));
    assert_string_equal(fixture->upstream.target->settings->name, "listens");
    assert_int_equal(fixture->upstream.attempts, 3); // refuses too, refuses, listens
}

static void test_each_target_has_its_attempts(void **state)
{
    struct fixture *fixture = *state;
    fixture->target_settings[REFUSES].connect_attempts = 3;
    fixture->target_settings[REFUSES_TOO].connect_attempts = 2;
    fixture->target_settings[LISTENS].address = fixture->target_settings[REFUSES].address;
    assert_false(connect_now(fixture, 0));
    assert_int_equal(fixture->upstream.attempts, 3 + 1 + 2);
    assert_int_equal(fixture->failure.error.code, ERROR_REFUSED);
    assert_true(strlen(fixture->failure.error.text) > 0);
}

static void test_attempts_wait_for_the_backoff(void **state)
{
    struct fixture *fixture = *state;
    fixture->settings.target_count = 1;
    fixture->target_settings[REFUSES].connect_attempts = 4;
    fixture->target_settings[REFUSES].connect_backoff = 20 * NS_PER_MS;
    int64_t start = clock_now();
    assert_false(connect_now(fixture, 0));
    int64_t took = clock_now() - start;
    assert_int_equal(fixture->upstream.attempts, 4);
    // 20 + 40 + 80 ms less a fifth at least; the upper bound only tells "waited" from "hung".
    assert_true(took >= 140 * NS_PER_MS * 8 / 10);
    assert_true(took < 20 * NS_PER_S);
    assert_true(fixture->phases.spent[PHASE_CONNECT] <
                took - 100 * NS_PER_MS); // the waits are not counted as connecting
}

static void test_a_failure_of_all_says_how_many(void **state)
{
    struct fixture *fixture = *state;
    fixture->target_settings[LISTENS].address = fixture->target_settings[REFUSES].address;
    assert_false(connect_now(fixture, 0));
    static const char wanted[] = "all 3 targets failed, the last: cannot connect to 127.0.0.1:";
    assert_memory_equal(fixture->failure.error.text, wanted, strlen(wanted));
    assert_int_equal(fixture->failure.error.code, ERROR_REFUSED);
    assert_int_equal(fixture->failure.error.os_errno, ECONNREFUSED);
    for (size_t i = 0; i < PORTS; i++)
        assert_int_equal(atomic_load(&fixture->loads[i].active), 0);
}

static void test_a_connection_is_counted_where_it_is(void **state)
{
    struct fixture *fixture = *state;
    assert_true(connect_now(fixture, 0));
    assert_int_equal(atomic_load(&fixture->loads[REFUSES].active), 0);
    assert_int_equal(atomic_load(&fixture->loads[LISTENS].active), 1);
    upstream_leave(&fixture->upstream);
    assert_int_equal(atomic_load(&fixture->loads[LISTENS].active), 0);
    upstream_leave(&fixture->upstream);
    assert_int_equal(atomic_load(&fixture->loads[LISTENS].active), 0);
}

static void test_a_target_that_fails_is_passed_over(void **state)
{
    struct fixture *fixture = *state;
    fixture->target_settings[REFUSES].max_fails = 1;
    fixture->target_settings[REFUSES].fail_timeout = 3600 * NS_PER_S;
    fixture->target_settings[REFUSES].connect_attempts = 2;
    assert_true(connect_now(fixture, 0));
    assert_int_equal(fixture->upstream.attempts, 2 + 1);
    (void)close(fixture->upstream.dialled.fd);
    fixture->upstream = (struct upstream){.dialled.fd = -1};
    assert_true(connect_now(fixture, 1));
    assert_int_equal(fixture->upstream.attempts, 1);
    assert_string_equal(fixture->upstream.target->settings->name, "listens");
}

// What the client does says nothing about the target.
static void test_a_client_that_leaves_is_no_failure_of_the_target(void **state)
{
    struct fixture *fixture = *state;
    fixture->target_settings[REFUSES].max_fails = 1;
    fixture->target_settings[REFUSES].fail_timeout = 3600 * NS_PER_S;
    fixture->target_settings[REFUSES].connect_attempts = 2;
    fixture->target_settings[REFUSES].connect_backoff = 3600 * NS_PER_S;
    (void)close(fixture->client[1]);
    fixture->client[1] = -1;
    assert_false(connect_now(fixture, 0));
    assert_int_equal(fixture->failure.error.code, ERROR_CANCELLED);
    assert_int_equal(atomic_load(&fixture->healths[REFUSES].state), 0);
    assert_int_equal(atomic_load(&fixture->loads[REFUSES].active), 0);
}

static void test_the_header_comes_first_and_whole(void **state)
{
    struct fixture *fixture = *state;
    static const char *const lines[] = {"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n", "\r\n\r\n"};
    struct proxy_header header = {.source = {.family = PROXY_HEADER_IPV4, .address = {192, 0, 2, 1}, .port = 50000},
                                  .destination = {.family = PROXY_HEADER_IPV4, .address = {192, 0, 2, 2}, .port = 443}};
    static const enum proxy_header_version versions[] = {PROXY_HEADER_VERSION_1, PROXY_HEADER_VERSION_2};
    static const size_t lengths[] = {42, 16 + 12 + 7};
    for (size_t i = 0; i < ARRAY_LENGTH(versions); i++) {
        char got[200];
        fixture->settings.proxy_header_version = versions[i];
        assert_true(connect_with(fixture, 0, &header));
        assert_true(fixture->upstream.is_header_sent);
        int accepted = accept4(fixture->ports[LISTENS].fd, NULL, NULL, SOCK_CLOEXEC);
        assert_true(accepted >= 0);
        assert_int_equal(recv(accepted, got, sizeof got, 0), lengths[i]);
        assert_memory_equal(got, lines[i], strlen(lines[i]));
        (void)close(accepted);
        (void)close(fixture->upstream.dialled.fd);
        fixture->upstream.dialled.fd = -1;
    }
}

static void test_a_socks_server_that_is_not_there_is_the_failure(void **state)
{
    struct fixture *fixture = *state;
    char proxy[64];
    (void)snprintf(proxy, sizeof proxy, "socks5://user7:s3cret@127.0.0.1:%u",
                   (unsigned)fixture->ports[REFUSES].address.port);
    fixture->settings.target_count = 1;
    fixture->target_settings[REFUSES].address = fixture->ports[LISTENS].address;
    fixture->target_settings[REFUSES].socks_proxy = proxy;
    assert_false(connect_now(fixture, 0));
    assert_int_equal(fixture->failure.error.code, ERROR_REFUSED);
    assert_int_equal(fixture->failure.error.os_errno, ECONNREFUSED);
    assert_int_equal(fixture->phases.step, PHASE_CONNECT);
    assert_int_equal(fixture->failure.reason, CLOSE_CONNECT_REFUSED);
    static const char wanted[] = "the SOCKS5 server: cannot connect to 127.0.0.1:";
    assert_memory_equal(fixture->failure.error.text, wanted, strlen(wanted));
    assert_null(strstr(fixture->failure.error.text, "s3cret"));
}

// Leaves with a wait of an hour ahead, once the first attempt is known to have failed.
static void *leave_after_the_first_failure(void *argument)
{
    struct fixture *fixture = ((struct fixture **)argument)[0];
    const int *log_end = ((int **)argument)[1];
    char said[LOG_LINE_MAX];
    if (read(*log_end, said, sizeof said) > 0) {
        (void)close(fixture->client[1]);
        fixture->client[1] = -1;
    }
    return NULL;
}

static void test_a_client_that_leaves_ends_the_wait(void **state)
{
    struct fixture *fixture = *state;
    int ends[2];
    pthread_t thread;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    void *arguments[] = {fixture, &ends[0]};
    log_set_descriptor(ends[1]);
    log_set_level(LOG_WARN);
    fixture->target_settings[REFUSES].connect_attempts = 2;
    fixture->target_settings[REFUSES].connect_backoff = 3600 * NS_PER_S;
    assert_int_equal(pthread_create(&thread, NULL, leave_after_the_first_failure, arguments), 0);
    int64_t start = clock_now();
    assert_false(connect_now(fixture, 0));
    assert_true(clock_now() - start < 20 * NS_PER_S);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(fixture->failure.error.code, ERROR_CANCELLED);
    assert_int_equal(fixture->upstream.attempts, 1); // nor is another target tried
    assert_string_equal(fixture->upstream.target->settings->name, "refuses");
    log_set_level(LOG_OFF);
    log_set_descriptor(STDERR_FILENO);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

// One who half-closed after a request waits for the answer, and so does the dial.
static void test_a_half_close_after_data_is_no_leaving(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(send(fixture->client[1], "GET", 3, MSG_NOSIGNAL), 3);
    assert_int_equal(shutdown(fixture->client[1], SHUT_WR), 0);
    fixture->target_settings[REFUSES].connect_attempts = 3;
    fixture->target_settings[REFUSES].connect_backoff = 2 * NS_PER_MS;
    assert_true(connect_now(fixture, 0));
    assert_int_equal(fixture->upstream.attempts, 4);
}

static void test_a_shortage_of_descriptors_is_not_tried_again(void **state)
{
    struct fixture *fixture = *state;
    struct rlimit before, none;
    fixture->target_settings[REFUSES].connect_attempts = 5;
    fixture->target_settings[REFUSES].connect_backoff = 3600 * NS_PER_S;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    bool connected = connect_now(fixture, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_false(connected);
    assert_int_equal(fixture->failure.error.code, ERROR_NO_DESCRIPTORS);
    assert_int_equal(fixture->upstream.attempts, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backoff_doubles_up_to_its_bound),
        cmocka_unit_test(test_backoff_varies_within_a_fifth),
        cmocka_unit_test(test_backoff_does_not_overflow),
        cmocka_unit_test_setup_teardown(test_failover_goes_on_to_the_one_that_listens, setup, teardown),
        cmocka_unit_test_setup_teardown(test_none_tries_the_first_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_round_robin_begins_where_its_counter_says, setup, teardown),
        cmocka_unit_test_setup_teardown(test_round_robin_moves_on_and_around, setup, teardown),
        cmocka_unit_test_setup_teardown(test_each_target_has_its_attempts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attempts_wait_for_the_backoff, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_failure_of_all_says_how_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_connection_is_counted_where_it_is, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_target_that_fails_is_passed_over, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_leaves_is_no_failure_of_the_target, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_header_comes_first_and_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_socks_server_that_is_not_there_is_the_failure, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_leaves_ends_the_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_half_close_after_data_is_no_leaving, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_shortage_of_descriptors_is_not_tried_again, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
