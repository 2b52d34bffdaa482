// Changing the listeners of a running process, with real listeners, clients and targets on the loopback: it is all or
// nothing, and a address whose address stays is never closed.

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/thread.h"
#include "bitflow/config/config.h"
#include "bitflow/relay/relay.h"
#include "server/listeners.h"

#define PATIENCE_MS 20000 // only a test that fails waits so long
#define TEXT_SIZE 2048

static _Atomic int ends;
static struct runtime runtime;
static struct listeners listeners;

static void count_end(void)
{
    atomic_fetch_add(&ends, 1);
}

static int setup(void **state)
{
    (void)state;
    static const struct thread_pool_options options = {
        .parked_name = "parked", .stack_size = RELAY_STACK_SIZE, .max_parked = 8, .idle_time = NS_PER_S};
    struct error error = ERROR_INIT;
    runtime.threads = thread_pool_create(&options, &error);
    runtime.registry = registry_create(NULL, &error);
    atomic_store(&ends, 0);
    listeners_init(&listeners, &runtime, count_end);
    return runtime.threads == NULL || runtime.registry == NULL;
}

static int teardown(void **state)
{
    (void)state;
    listeners_release(&listeners);
    registry_end_all(runtime.registry, CLOSE_DRAIN);
    bool drained = thread_pool_drain(runtime.threads, deadline_after(PATIENCE_MS * NS_PER_MS));
    assert_true(drained);
    assert_int_equal(registry_count(runtime.registry), 0);
    registry_destroy(&runtime.registry);
    thread_pool_destroy(&runtime.threads);
    return 0;
}

static const struct config *load(const char *text)
{
    char path[] = "/tmp/bitflow-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    (void)close(fd);
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, "f");
    const struct config *config = config_load(path, &diagnostics);
    (void)unlink(path);
    if (config == NULL)
        fail_msg("%s", diagnostics.list[0].text);
    diagnostics_release(&diagnostics);
    return config;
}

// A configuration of one proxy after another: name, listener, target; ended by a NULL.
static const struct config *configure(const char *const *words)
{
    char text[TEXT_SIZE] = "server:\n  proxies:\n";
    for (; words[0] != NULL; words += 3) {
        size_t length = strlen(text);
        (void)snprintf(text + length, sizeof text - length,
                       "    - name: %s\n      listener: {address: \"%s\"}\n"
                       "      targets: [{name: t, address: \"%s\"}]\n",
                       words[0], words[1], words[2]);
    }
    return load(text);
}

#define CONFIGURE(...) configure((const char *const[]){__VA_ARGS__, NULL})

static bool change_doors(const struct config *config, struct error *error)
{
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, "f");
    struct tls_contexts *credentials = tls_contexts_load(config, &diagnostics);
    assert_non_null(credentials);
    bool changed = listeners_change(&listeners, config, credentials, error);
    tls_contexts_free(&credentials, config->proxy_count);
    diagnostics_release(&diagnostics);
    return changed;
}

// The listeners keep references of their own.
static bool change(const struct config *config, struct error *error)
{
    *error = ERROR_INIT;
    bool changed = change_doors(config, error);
    config_drop(&config);
    return changed;
}

static void assert_changes(const struct config *config)
{
    struct error error;
    if (!change(config, &error))
        fail_msg("%s", error.text);
}

// A target: a listening socket whose address is written to `text`.
#define ADDRESS_SIZE 64
static int open_target(char text[ADDRESS_SIZE])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    (void)snprintf(text, ADDRESS_SIZE, "tcp://127.0.0.1:%d", ntohs(address.sin_port));
    return fd;
}

// An address that is free now: of a socket that was bound and closed.
static void free_address(char text[ADDRESS_SIZE])
{
    (void)close(open_target(text));
}

static int connect_to(const char *text)
{
    struct address address;
    struct endpoint endpoint;
    struct error error = ERROR_INIT;
    assert_true(address_parse(text, ADDRESS_TO_CONNECT, &address, &error));
    assert_true(endpoint_of_address(&address, &endpoint));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, &endpoint.address.any, endpoint.length) == 0)
        return fd;
    assert_int_equal(errno, ECONNREFUSED);
    (void)close(fd);
    return -1;
}

static int accept_within(int target)
{
    struct pollfd poller = {.fd = target, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, PATIENCE_MS), 1);
    return accept4(target, NULL, NULL, SOCK_CLOEXEC);
}

// A byte from a client at `address` arrives at `target`. The two ends stay open; returned in `pair`.
static void assert_leads_to(const char *address, int target, int pair[2])
{
    char byte = 0;
    pair[0] = connect_to(address);
    assert_true(pair[0] >= 0);
    pair[1] = accept_within(target);
    assert_int_equal(send(pair[0], "x", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(recv(pair[1], &byte, 1, 0), 1);
    assert_int_equal(byte, 'x');
}

static void close_pair(const int pair[2])
{
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void assert_closed(const char *address)
{
    assert_int_equal(connect_to(address), -1);
}

static void test_proxies_lead_to_their_targets(void **state)
{
    (void)state;
    char a[ADDRESS_SIZE], b[ADDRESS_SIZE], first[ADDRESS_SIZE], second[ADDRESS_SIZE];
    int first_target = open_target(first), second_target = open_target(second);
    int pairs[2][2];
    free_address(a);
    free_address(b);
    assert_changes(CONFIGURE("one", a, first, "two", b, second));
    assert_int_equal(listeners.count, 2);
    assert_leads_to(a, first_target, pairs[0]);
    assert_leads_to(b, second_target, pairs[1]);
    listeners_release(&listeners);
    assert_closed(a);
    assert_closed(b);
    // What is connected stays so when its address closes.
    assert_int_equal(send(pairs[0][1], "y", 1, MSG_NOSIGNAL), 1);
    char byte = 0;
    assert_int_equal(recv(pairs[0][0], &byte, 1, 0), 1);
    assert_int_equal(byte, 'y');
    close_pair(pairs[0]);
    close_pair(pairs[1]);
    (void)close(first_target);
    (void)close(second_target);
}

static void test_a_listener_whose_address_stays_is_kept(void **state)
{
    (void)state;
    char a[ADDRESS_SIZE], old[ADDRESS_SIZE], new[ADDRESS_SIZE];
    int old_target = open_target(old), new_target = open_target(new);
    int before[2], after[2];
    free_address(a);
    assert_changes(CONFIGURE("web", a, old));
    const struct acceptor *address = listeners.acceptors[0];
    const struct proxy *proxy = acceptor_proxy(listeners.acceptors[0]);
    assert_leads_to(a, old_target, before);
    assert_changes(CONFIGURE("web", a, new));
    assert_int_equal(listeners.count, 1);
    assert_ptr_equal(listeners.acceptors[0], address);
    assert_ptr_equal(acceptor_proxy(listeners.acceptors[0]), proxy); // with its counts
    assert_leads_to(a, new_target, after);
    // The connection from before goes on with what it began with.
    assert_int_equal(send(before[1], "y", 1, MSG_NOSIGNAL), 1);
    char byte = 0;
    assert_int_equal(recv(before[0], &byte, 1, 0), 1);
    close_pair(before);
    close_pair(after);
    (void)close(old_target);
    (void)close(new_target);
}

// Accepts at both targets and lets each say its letter, until the client has heard one.
static char letter_heard(int client, const int targets[2])
{
    for (;;) {
        struct pollfd pollers[] = {{.fd = client, .events = POLLIN},
                                   {.fd = targets[0], .events = POLLIN},
                                   {.fd = targets[1], .events = POLLIN}};
        char letter = 0;
        if (poll(pollers, 3, PATIENCE_MS) <= 0 || (pollers[0].revents != 0 && recv(client, &letter, 1, 0) <= 0))
            return 0;
        if (letter != 0)
            return letter;
        for (int i = 0; i < 2; i++) {
            if (pollers[1 + i].revents == 0)
                continue;
            int accepted = accept4(targets[i], NULL, NULL, SOCK_CLOEXEC);
            (void)send(accepted, i == 0 ? "a" : "b", 1, MSG_NOSIGNAL);
            (void)close(accepted);
        }
    }
}

// Also when the acceptor is busy with a client from before, who may be served by either.
static void test_who_comes_after_a_change_is_served_by_it(void **state)
{
    (void)state;
    char a[ADDRESS_SIZE], texts[2][ADDRESS_SIZE];
    int targets[2] = {open_target(texts[0]), open_target(texts[1])};
    free_address(a);
    const struct config *configs[] = {CONFIGURE("web", a, texts[0]), CONFIGURE("web", a, texts[1])};
    struct error error = ERROR_INIT;
    assert_true(change_doors(configs[1], &error));
    for (int round = 0; round < 300; round++) {
        int before = connect_to(a);
        assert_true(change_doors(configs[round % 2], &error));
        int after = connect_to(a);
        assert_int_equal(letter_heard(after, targets), round % 2 == 0 ? 'a' : 'b');
        (void)close(before);
        (void)close(after);
    }
    config_drop(&configs[0]);
    config_drop(&configs[1]);
    (void)close(targets[0]);
    (void)close(targets[1]);
}

static void test_a_change_is_all_or_nothing(void **state)
{
    (void)state;
    char a[ADDRESS_SIZE], b[ADDRESS_SIZE], old[ADDRESS_SIZE], new[ADDRESS_SIZE], taken[ADDRESS_SIZE];
    int old_target = open_target(old), new_target = open_target(new), holder = open_target(taken);
    struct error error;
    int pair[2];
    free_address(a);
    free_address(b);
    assert_changes(CONFIGURE("web", a, old));
    assert_false(change(CONFIGURE("web", a, new, "more", b, new, "last", taken, new), &error));
    assert_non_null(strstr(error.text, "proxy last: "));
    assert_non_null(strstr(error.text, "Address already in use"));
    assert_int_equal(listeners.count, 1);
    assert_closed(b);
    assert_leads_to(a, old_target, pair);
    close_pair(pair);
    (void)close(old_target);
    (void)close(new_target);
    (void)close(holder);
}

static void test_a_log_that_cannot_be_opened_stops_the_change(void **state)
{
    (void)state;
    char a[ADDRESS_SIZE], text[TEXT_SIZE];
    struct error error;
    free_address(a);
    (void)snprintf(text, sizeof text,
                   "server:\n  proxies:\n    - name: web\n      listener: {address: \"%s\"}\n"
                   "      targets: [{name: t, address: \"127.0.0.1:1\"}]\n"
                   "      options: {connection_log: /nonexistent/bitflow.log}\n",
                   a);
    assert_false(change(load(text), &error));
    assert_non_null(strstr(error.text, "/nonexistent/bitflow.log"));
    assert_int_equal(listeners.count, 0);
    assert_closed(a);
}

static void test_listeners_come_and_go_and_keep_their_proxies(void **state)
{
    (void)state;
    char a[ADDRESS_SIZE], b[ADDRESS_SIZE], target_text[ADDRESS_SIZE];
    int target = open_target(target_text);
    int pair[2];
    free_address(a);
    free_address(b);
    assert_changes(CONFIGURE("one", a, target_text));
    const struct proxy *proxy = acceptor_proxy(listeners.acceptors[0]);
    assert_changes(CONFIGURE("one", b, target_text)); // it moves, and keeps its counts
    assert_closed(a);
    assert_ptr_equal(acceptor_proxy(listeners.acceptors[0]), proxy);
    assert_leads_to(b, target, pair);
    close_pair(pair);
    // Names are exchanged: the listeners stay, the proxies behind them change.
    assert_changes(CONFIGURE("one", b, target_text, "two", a, target_text));
    const struct acceptor *at_b = listeners.acceptors[0];
    assert_changes(CONFIGURE("one", a, target_text, "two", b, target_text));
    assert_int_equal(listeners.count, 2);
    assert_ptr_equal(listeners.acceptors[1], at_b);
    assert_string_equal(acceptor_proxy(listeners.acceptors[1])->name, "two");
    assert_ptr_equal(acceptor_proxy(listeners.acceptors[0]), proxy);
    assert_leads_to(a, target, pair);
    close_pair(pair);
    (void)close(target);
}

// Two listeners with the same address in the file are two listeners (the kernel chooses each its port), also after a
// reload.
static void test_listeners_with_one_address_stay_apart(void **state)
{
    (void)state;
    char target_text[ADDRESS_SIZE];
    int target = open_target(target_text);
    assert_changes(CONFIGURE("one", "127.0.0.1:0", target_text, "two", "127.0.0.1:0", target_text));
    assert_changes(CONFIGURE("one", "127.0.0.1:0", target_text, "two", "127.0.0.1:0", target_text));
    assert_int_equal(listeners.count, 2);
    assert_ptr_not_equal(listeners.acceptors[0], listeners.acceptors[1]);
    assert_changes(CONFIGURE("one", "127.0.0.1:0", target_text, "two", "127.0.0.1:0", target_text, "three",
                             "127.0.0.1:0", target_text));
    assert_int_equal(listeners.count, 3);
    assert_ptr_not_equal(listeners.acceptors[0], listeners.acceptors[2]);
    assert_ptr_not_equal(listeners.acceptors[1], listeners.acceptors[2]);
    (void)close(target);
}

static void wait_until_ended(const struct acceptor *acceptor)
{
    int64_t deadline = deadline_after(PATIENCE_MS * NS_PER_MS);
    while (!acceptor_has_ended(acceptor) && deadline_left(deadline) > 0)
        (void)poll(NULL, 0, 1);
    assert_true(acceptor_has_ended(acceptor));
}

// Inetd style: the socket is the one connection. Its address has then done its work, but a reload leaves it at that.
static void test_an_inherited_connection_is_served_once(void **state)
{
    (void)state;
    char target_text[ADDRESS_SIZE], address[ADDRESS_SIZE];
    int target = open_target(target_text);
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    (void)snprintf(address, sizeof address, "fd://%d", pair[0]);
    assert_changes(CONFIGURE("inetd", address, target_text));
    int accepted = accept_within(target);
    char byte = 0;
    assert_int_equal(send(pair[1], "x", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(recv(accepted, &byte, 1, 0), 1);
    assert_int_equal(send(accepted, "y", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(recv(pair[1], &byte, 1, 0), 1);
    wait_until_ended(listeners.acceptors[0]);
    assert_int_equal(atomic_load(&ends), 1);
    bool any_failed = false;
    assert_int_equal(listeners_close_failed(&listeners, &any_failed), 0);
    assert_int_equal(listeners.count, 1);
    assert_changes(CONFIGURE("inetd", address, target_text));
    assert_int_equal(listeners_close_failed(&listeners, &any_failed), 0);
    assert_false(any_failed);
    (void)close(pair[1]);
    assert_int_equal(recv(accepted, &byte, 1, 0), 0);
    (void)close(accepted);
    (void)close(target);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_proxies_lead_to_their_targets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_listener_whose_address_stays_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_comes_after_a_change_is_served_by_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_change_is_all_or_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_log_that_cannot_be_opened_stops_the_change, setup, teardown),
        cmocka_unit_test_setup_teardown(test_listeners_come_and_go_and_keep_their_proxies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_listeners_with_one_address_stay_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_inherited_connection_is_served_once, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
