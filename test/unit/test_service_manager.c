// What the service manager is told (sd_notify(3)), by a datagram socket in its place: also one that is full, or gone.

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/signals.h"
#include "server/service_manager.h"

#define NOW_DUE 0
// The manager waits so long, µs, for another message of a process that ends.
#define EXTENSION "\nEXTEND_TIMEOUT_USEC=30000000"

struct rig {
    char name[sizeof(((struct sockaddr_un *)NULL)->sun_path)]; // "@..."
    int receiver;                                              // -1: gone
    struct runtime runtime;
    struct listeners listeners;
    struct service_manager manager;
};

static void listen_for_messages(struct rig *rig)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(rig->name);
    memcpy(address.sun_path, rig->name, length);
    address.sun_path[0] = '\0';
    rig->receiver = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(rig->receiver >= 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    assert_int_equal(bind(rig->receiver, (const struct sockaddr *)&address, size), 0);
}

static void start(struct rig *rig)
{
    service_manager_init(&rig->manager, &rig->runtime, &rig->listeners);
}

static int set_up(void **state)
{
    static unsigned count;
    struct rig *rig = calloc(1, sizeof *rig);
    assert_non_null(rig);
    rig->runtime.registry = registry_create(NULL, NULL);
    assert_non_null(rig->runtime.registry);
    (void)snprintf(rig->name, sizeof rig->name, "@bitflow-test-%d-%u", (int)getpid(), count++);
    listen_for_messages(rig);
    assert_int_equal(setenv("NOTIFY_SOCKET", rig->name, 1), 0);
    (void)unsetenv("WATCHDOG_USEC");
    (void)unsetenv("WATCHDOG_PID");
    *state = rig;
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;
    service_manager_release(&rig->manager);
    registry_destroy(&rig->runtime.registry);
    if (rig->receiver >= 0)
        (void)close(rig->receiver);
    free(rig);
    return 0;
}

static void assert_nothing_comes(const struct rig *rig)
{
    char message[SERVICE_MANAGER_MESSAGE_SIZE];
    assert_int_equal(recv(rig->receiver, message, sizeof message, 0), -1);
    assert_int_equal(errno, EAGAIN);
}

static void assert_comes(const struct rig *rig, const char *wanted)
{
    char message[SERVICE_MANAGER_MESSAGE_SIZE];
    ssize_t length = recv(rig->receiver, message, sizeof message - 1, 0);
    assert_true(length >= 0);
    message[length] = '\0';
    assert_string_equal(message, wanted);
}

// Its time stamp is between `least` and now.
static void assert_reloading_comes(const struct rig *rig, int64_t least, const char *rest)
{
    static const char begin[] = "RELOADING=1\nMONOTONIC_USEC=";
    char message[SERVICE_MANAGER_MESSAGE_SIZE];
    ssize_t length = recv(rig->receiver, message, sizeof message - 1, 0);
    assert_true(length >= 0);
    message[length] = '\0';
    assert_int_equal(strncmp(message, begin, strlen(begin)), 0);
    char *end;
    intmax_t stamp = strtoimax(message + strlen(begin), &end, 10);
    assert_in_range(stamp, least / NS_PER_US, clock_now() / NS_PER_US);
    assert_string_equal(end, rest);
}

static void test_each_phase_is_told(void **state)
{
    struct rig *rig = *state;
    start(rig);
    service_manager_ready(&rig->manager, false);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies");
    int64_t before = clock_now();
    service_manager_reloading(&rig->manager);
    assert_reloading_comes(rig, before, "\nSTATUS=reloading");
    service_manager_reloaded(&rig->manager, true);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies; the last reload failed, the old configuration is in "
                      "force");
    service_manager_reloading(&rig->manager);
    assert_reloading_comes(rig, before, "\nSTATUS=reloading");
    service_manager_reloaded(&rig->manager, false);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies");
    service_manager_ending(&rig->manager);
    assert_comes(rig, "STOPPING=1\nSTATUS=ending, 0 connections left" EXTENSION);
    assert_nothing_comes(rig);
}

static void test_a_status_is_told_when_it_has_changed(void **state)
{
    struct rig *rig = *state;
    struct registry_entry entries[2] = {{.deadline = DEADLINE_NONE}, {.deadline = DEADLINE_NONE}};
    start(rig);
    rig->listeners.count = 1; // nobody looks at it
    service_manager_ready(&rig->manager, false);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 1 proxy");
    registry_add(rig->runtime.registry, &entries[0]);
    assert_true(service_manager_attend(&rig->manager) > clock_now());
    assert_nothing_comes(rig); // not yet
    rig->manager.status_due = NOW_DUE;
    assert_true(service_manager_attend(&rig->manager) > clock_now());
    assert_comes(rig, "STATUS=1 connection on 1 proxy");
    rig->manager.status_due = NOW_DUE;
    (void)service_manager_attend(&rig->manager);
    assert_nothing_comes(rig);
    registry_add(rig->runtime.registry, &entries[1]);
    service_manager_ending(&rig->manager);
    assert_comes(rig, "STOPPING=1\nSTATUS=ending, 2 connections left" EXTENSION);
    registry_remove(rig->runtime.registry, &entries[1]);
    rig->manager.status_due = NOW_DUE;
    (void)service_manager_attend(&rig->manager);
    assert_comes(rig, "STATUS=ending, 1 connection left" EXTENSION);
    registry_remove(rig->runtime.registry, &entries[0]);
    rig->listeners.count = 0;
}

static void test_without_a_manager_nothing_is_done(void **state)
{
    struct rig *rig = *state;
    char too_long[300];
    memset(too_long, 'x', sizeof too_long - 1);
    too_long[0] = '@';
    too_long[sizeof too_long - 1] = '\0';
    const char *const names[] = {NULL, "", "relative", "vsock:2:1234", "@", "/", too_long};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        (void)(names[i] == NULL ? unsetenv("NOTIFY_SOCKET") : setenv("NOTIFY_SOCKET", names[i], 1));
        assert_int_equal(setenv("WATCHDOG_USEC", "1000000", 1), 0);
        start(rig);
        service_manager_ready(&rig->manager, false);
        service_manager_reloading(&rig->manager);
        service_manager_reloaded(&rig->manager, false);
        assert_int_equal(service_manager_attend(&rig->manager), DEADLINE_NONE);
        service_manager_hand_over(&rig->manager, 1);
        service_manager_ending(&rig->manager);
        assert_int_equal(rig->manager.message_count, 0);
        service_manager_release(&rig->manager);
    }
    assert_nothing_comes(rig);
}

static void fill(const struct rig *rig, struct service_manager *manager)
{
    while (sendto(manager->fd, "x", 1, MSG_DONTWAIT, &manager->endpoint.address.any, manager->endpoint.length) == 1)
        continue;
    assert_int_equal(errno, EAGAIN);
    assert_true(rig->receiver >= 0);
}

static void empty(const struct rig *rig)
{
    char message[SERVICE_MANAGER_MESSAGE_SIZE];
    while (recv(rig->receiver, message, sizeof message, 0) == 1)
        continue;
    assert_int_equal(errno, EAGAIN);
}

static void test_what_a_full_socket_does_not_take_comes_later_and_in_order(void **state)
{
    struct rig *rig = *state;
    start(rig);
    fill(rig, &rig->manager);
    int64_t before = clock_now();
    service_manager_ready(&rig->manager, false);
    service_manager_reloading(&rig->manager);
    service_manager_reloaded(&rig->manager, false);
    service_manager_ending(&rig->manager);
    int64_t due = service_manager_attend(&rig->manager);
    assert_true(due > clock_now() && due < clock_now() + 2 * NS_PER_S);
    empty(rig);
    (void)service_manager_attend(&rig->manager);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies");
    assert_reloading_comes(rig, before, "\nSTATUS=reloading");
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies");
    assert_comes(rig, "STOPPING=1\nSTATUS=ending, 0 connections left" EXTENSION);
    assert_nothing_comes(rig);
}

static void test_of_too_much_the_oldest_is_lost(void **state)
{
    struct rig *rig = *state;
    start(rig);
    fill(rig, &rig->manager);
    for (int i = 0; i < 100; i++) {
        service_manager_reloading(&rig->manager);
        service_manager_reloaded(&rig->manager, false);
    }
    service_manager_ending(&rig->manager);
    int64_t last = clock_now();
    empty(rig);
    (void)service_manager_attend(&rig->manager);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies");
    assert_reloading_comes(rig, last - NS_PER_S, "\nSTATUS=reloading");
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies");
    assert_comes(rig, "STOPPING=1\nSTATUS=ending, 0 connections left" EXTENSION);
    assert_nothing_comes(rig);
}

static void test_a_socket_that_is_gone_may_come_back(void **state)
{
    struct rig *rig = *state;
    start(rig);
    assert_int_equal(close(rig->receiver), 0);
    rig->receiver = -1;
    service_manager_ready(&rig->manager, false);
    assert_true(service_manager_attend(&rig->manager) < clock_now() + 2 * NS_PER_S);
    listen_for_messages(rig);
    (void)service_manager_attend(&rig->manager);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies");
    assert_nothing_comes(rig);
}

static void test_a_successor_speaks_for_the_service(void **state)
{
    struct rig *rig = *state;
    start(rig);
    service_manager_ready(&rig->manager, false);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies");
    fill(rig, &rig->manager);
    service_manager_hand_over(&rig->manager, 4711);
    service_manager_ending(&rig->manager); // the process ends, the service does not
    empty(rig);
    assert_int_equal(service_manager_attend(&rig->manager), DEADLINE_NONE);
    assert_comes(rig, "MAINPID=4711\nREADY=1");
    assert_nothing_comes(rig);
}

static void test_a_successor_is_not_the_first_to_speak(void **state)
{
    struct rig *rig = *state;
    start(rig);
    service_manager_ready(&rig->manager, true);
    (void)service_manager_attend(&rig->manager);
    assert_nothing_comes(rig);
    service_manager_ending(&rig->manager);
    assert_comes(rig, "STOPPING=1\nSTATUS=ending, 0 connections left" EXTENSION);
}

static void test_the_watchdog_is_told_when_due(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(setenv("WATCHDOG_USEC", "4000000", 1), 0);
    start(rig);
    service_manager_ready(&rig->manager, false);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies");
    int64_t due = service_manager_attend(&rig->manager);
    assert_true(due > clock_now() && due <= clock_now() + NS_PER_S);
    assert_nothing_comes(rig);
    rig->manager.watchdog_due = NOW_DUE;
    due = service_manager_attend(&rig->manager);
    assert_true(due > clock_now() && due <= clock_now() + NS_PER_S);
    assert_comes(rig, "WATCHDOG=1");
    assert_nothing_comes(rig);
}

static void test_a_reload_may_take_longer_than_the_watchdog_waits(void **state)
{
    struct rig *rig = *state;
    int64_t before = clock_now();
    assert_int_equal(setenv("WATCHDOG_USEC", "4000000", 1), 0);
    start(rig);
    service_manager_reloading(&rig->manager);
    assert_reloading_comes(rig, before, "\nSTATUS=reloading\nWATCHDOG_USEC=300000000");
    service_manager_reloaded(&rig->manager, false);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies\nWATCHDOG_USEC=4000000");
    assert_int_equal(setenv("WATCHDOG_USEC", "400000000", 1), 0); // is never shortened
    service_manager_release(&rig->manager);
    start(rig);
    service_manager_reloading(&rig->manager);
    assert_reloading_comes(rig, before, "\nSTATUS=reloading");
}

// In place: the process is the same one all the time, and what happens is not the service's end.
static void test_the_watchdog_is_told_all_through_an_upgrade(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(setenv("WATCHDOG_USEC", "4000000", 1), 0);
    start(rig);
    service_manager_upgrading(&rig->manager);
    assert_comes(rig, "STATUS=upgrading, another process serves, 0 connections left\nWATCHDOG_USEC=4000000");
    (void)service_manager_attend(&rig->manager);
    assert_comes(rig, "WATCHDOG=1");
    service_manager_returning(&rig->manager);
    assert_comes(rig, "STATUS=starting\nWATCHDOG_USEC=300000000");
    service_manager_release(&rig->manager);

    service_manager_init(&rig->manager, NULL, NULL); // the program has begun anew, and could not start
    service_manager_upgrading(&rig->manager);
    assert_comes(rig, "STATUS=the upgrade is not complete, another process serves\nWATCHDOG_USEC=4000000");
    (void)service_manager_attend(&rig->manager);
    assert_comes(rig, "WATCHDOG=1");
    service_manager_ending(&rig->manager);
    assert_comes(rig, "STOPPING=1\nSTATUS=ending, another process drains" EXTENSION);
    service_manager_release(&rig->manager);

    start(rig); // it could
    service_manager_returned(&rig->manager);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies\nWATCHDOG_USEC=4000000");
    assert_nothing_comes(rig);
}

// However long the drain takes: with each status, whether it has changed or not.
static void test_an_end_asks_for_time_again_and_again(void **state)
{
    struct rig *rig = *state;
    start(rig);
    service_manager_ending(&rig->manager);
    assert_comes(rig, "STOPPING=1\nSTATUS=ending, 0 connections left" EXTENSION);
    service_manager_ending(&rig->manager); // it was told to end twice
    assert_nothing_comes(rig);
    for (int i = 0; i < 3; i++) {
        int64_t due = service_manager_attend(&rig->manager);
        assert_true(due <= clock_now() + 30 * NS_PER_S / 4);
        rig->manager.status_due = NOW_DUE;
        (void)service_manager_attend(&rig->manager);
        assert_comes(rig, "STATUS=ending, 0 connections left" EXTENSION);
    }
    assert_nothing_comes(rig);
}

static void test_waiting_for_a_signal_tells_of_an_end(void **state)
{
    struct rig *rig = *state;
    signals_init();
    start(rig);
    service_manager_ready(&rig->manager, false);
    assert_comes(rig, "READY=1\nSTATUS=0 connections on 0 proxies");
    assert_int_equal(service_manager_wait(&rig->manager, clock_now()), 0);
    assert_nothing_comes(rig);
    assert_int_equal(raise(SIGHUP), 0);
    assert_int_equal(service_manager_wait(&rig->manager, DEADLINE_NONE), SIGHUP);
    assert_nothing_comes(rig);
    assert_int_equal(raise(SIGTERM), 0);
    assert_int_equal(service_manager_wait(&rig->manager, DEADLINE_NONE), SIGTERM);
    assert_comes(rig, "STOPPING=1\nSTATUS=ending, 0 connections left" EXTENSION);
    assert_nothing_comes(rig);
}

static void test_a_watchdog_that_waits_for_another_process_is_not_ours(void **state)
{
    struct rig *rig = *state;
    char own[24];
    (void)snprintf(own, sizeof own, "%d", (int)getpid());
    const struct {
        const char *pid, *usec;
        int64_t time;
    } cases[] = {
        {own, "30000000", 30 * NS_PER_S},
        {NULL, "30000000", 30 * NS_PER_S},
        {"1", "30000000", 0},
        {"x", "30000000", 0},
        {own, "", 0},
        {own, "-1", 0},
        {own, "3s", 0},
        {own, "99999999999999999999999", 0},
        {own, "9223372036854775807", 0},
        {own, "0", 0},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        (void)(cases[i].pid == NULL ? unsetenv("WATCHDOG_PID") : setenv("WATCHDOG_PID", cases[i].pid, 1));
        assert_int_equal(setenv("WATCHDOG_USEC", cases[i].usec, 1), 0);
        start(rig);
        assert_int_equal(rig->manager.watchdog_time, cases[i].time);
        assert_null(getenv("WATCHDOG_PID"));
        assert_non_null(getenv("NOTIFY_SOCKET"));
        service_manager_release(&rig->manager);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_each_phase_is_told),
        TEST(test_a_status_is_told_when_it_has_changed),
        TEST(test_without_a_manager_nothing_is_done),
        TEST(test_what_a_full_socket_does_not_take_comes_later_and_in_order),
        TEST(test_of_too_much_the_oldest_is_lost),
        TEST(test_a_socket_that_is_gone_may_come_back),
        TEST(test_a_successor_speaks_for_the_service),
        TEST(test_a_successor_is_not_the_first_to_speak),
        TEST(test_the_watchdog_is_told_when_due),
        TEST(test_a_reload_may_take_longer_than_the_watchdog_waits),
        TEST(test_the_watchdog_is_told_all_through_an_upgrade),
        TEST(test_an_end_asks_for_time_again_and_again),
        TEST(test_waiting_for_a_signal_tells_of_an_end),
        TEST(test_a_watchdog_that_waits_for_another_process_is_not_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
