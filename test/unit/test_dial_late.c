// Dialling names whose addresses come one family after the other, and dialling when descriptors or memory are short.

#include <pthread.h>
#include <sys/syscall.h>

#include "dial_rig.h"

// A socket() that the test commands: of the calls that follow, the first `socket_good` work, the next `socket_bad` fail
// with `socket_errno`, the others work.
static atomic_int socket_good = 1 << 30, socket_bad, socket_errno;

int socket(int domain, int type, int protocol)
{
    if (atomic_load(&socket_good) > 0) {
        atomic_fetch_sub(&socket_good, 1);
    } else if (atomic_load(&socket_bad) > 0) {
        atomic_fetch_sub(&socket_bad, 1);
        errno = atomic_load(&socket_errno);
        return -1;
    }
    return (int)syscall(SYS_socket, domain, type, protocol);
}

static void run_short(int good, int bad, int os_errno)
{
    atomic_store(&socket_errno, os_errno);
    atomic_store(&socket_bad, bad);
    atomic_store(&socket_good, good);
}

static void run_well(void)
{
    atomic_store(&socket_bad, 0);
    atomic_store(&socket_good, 1 << 30);
}

static struct dialled dial_port(const char *name, uint16_t port, int64_t deadline)
{
    return dial_text(rig_on_port(name, port), deadline);
}

// Releases the look-ups that hang, a while after there are two of them.
static void *release_later(void *argument)
{
    (void)argument;
    int64_t limit = rig_limit();
    while (atomic_load(&fake_waiting) < 2 && deadline_left(limit) > 0)
        (void)poll(NULL, 0, 1);
    (void)poll(NULL, 0, 400); // past all delays of the resolver's
    for (int i = atomic_load(&fake_waiting); i > 0; i--)
        fake_release();
    return NULL;
}

// Dials while the IPv6 addresses come late, and is to connect to one of them.
static void assert_late_one_connects(bool is_silent)
{
    static const char *const hosts[] = {"127.0.0.1", "[::1]"};
    struct endpoint ipv6;
    struct black_hole hole;
    pthread_t releaser;
    int listener = rig_listen("[::1]:0", &ipv6);
    uint16_t port = rig_port(&ipv6);
    if (is_silent)
        hole = rig_black_hole(rig_on_port(hosts[0], port));
    set_list(hosts, 2, port);
    assert_int_equal(pthread_create(&releaser, NULL, release_later, NULL), 0);
    struct dialled dialled = dial_port("late6.test", port, rig_limit());
    assert_int_equal(pthread_join(releaser, NULL), 0);
    assert_connected(&dialled, listener, &ipv6);
    (void)close(listener);
    if (is_silent)
        rig_drop_black_hole(&hole);
    fake_release_to_end(0);
}

// The addresses that are known have all failed when the other family's come.
static void test_addresses_that_come_after_all_have_failed_are_tried(void **state)
{
    (void)state;
    assert_late_one_connects(false);
}

// Those that are known are being tried.
static void test_addresses_that_come_late_join_the_race(void **state)
{
    (void)state;
    assert_late_one_connects(true);
}

// They never come: what failed is told, at the deadline or when they have had their time.
static void test_addresses_that_never_come_are_told_of(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "[::1]"};
    struct endpoint endpoint;
    int fd = rig_bind("127.0.0.1:0", &endpoint);
    set_list(hosts, 2, rig_port(&endpoint));
    int64_t asked = clock_now(), deadline = deadline_after(400 * NS_PER_MS);
    struct dialled dialled = dial_port("late6.test", rig_port(&endpoint), deadline);
    assert_failure(&dialled, ERROR_REFUSED, "Connection refused; no answer in time about its other IP family");
    assert_true(clock_now() >= deadline);
    dialled = dial_port("late6.test", rig_port(&endpoint), DEADLINE_NONE);
    assert_failure(&dialled, ERROR_REFUSED, "no answer in time about its other IP family");
    assert_in_range(clock_now() - asked, RESOLVER_LATE, RESOLVER_LATE + RIG_LIMIT / 2); // it was asked only once
    fake_release_to_end(1);
    // One that never will come, as the other has answered, is not waited for.
    set_list(hosts, 1, rig_port(&endpoint));
    dialled = dial_port("whole.test", rig_port(&endpoint), rig_limit());
    assert_failure(&dialled, ERROR_REFUSED, "cannot connect to 127.0.0.1:");
    assert_true(dialled.took < RESOLVER_LATE);
    (void)close(fd);
    fake_release_to_end(0);
}

static void test_a_lasting_shortage_fails_the_dial(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "127.0.0.2"};
    struct endpoint endpoint;
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    set_list(hosts, 2, rig_port(&endpoint));
    run_short(0, 1 << 30, EMFILE);
    struct dialled dialled = dial_port("list.test", rig_port(&endpoint), rig_limit());
    run_short(0, 1 << 30, ENOMEM);
    struct dialled memory = dial_port("list.test", rig_port(&endpoint), rig_limit());
    run_well();
    assert_failure(&dialled, ERROR_NO_DESCRIPTORS, "cannot connect to 127.0.0.1:");
    assert_int_equal(dialled.error.os_errno, EMFILE);
    assert_failure(&memory, ERROR_NO_MEMORY, "cannot connect to 127.0.0.1:");
    (void)close(listener);
}

// An address that a shortage kept from being tried is tried again, and not taken for one that failed.
static void test_an_address_kept_back_by_a_shortage_is_tried_again(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.1"};
    struct endpoint endpoint;
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    struct black_hole hole = rig_black_hole(rig_on_port(hosts[0], rig_port(&endpoint)));
    set_list(hosts, 2, rig_port(&endpoint));
    run_short(1, 3, ENFILE);
    struct dialled dialled = dial_port("list.test", rig_port(&endpoint), rig_limit());
    run_well();
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY + 3 * 50 * NS_PER_MS, RIG_LIMIT / 2);
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
    rig_drop_black_hole(&hole);
}

// The first one failed, and the second cannot be tried: it is tried again for a moment, then the shortage is the
// reason.
static void test_a_shortage_after_a_failure_is_the_reason(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.1"};
    struct endpoint endpoint;
    int listener = rig_listen("127.0.0.1:0", &endpoint);
    set_list(hosts, 2, rig_port(&endpoint));
    run_short(1, 2, EMFILE);
    struct dialled dialled = dial_port("list.test", rig_port(&endpoint), rig_limit());
    run_well();
    assert_connected(&dialled, listener, &endpoint);
    run_short(1, 1 << 30, EMFILE);
    dialled = dial_port("list.test", rig_port(&endpoint), rig_limit());
    run_well();
    assert_failure(&dialled, ERROR_NO_DESCRIPTORS, "1 of 2 addresses failed, and then: cannot connect to 127.0.0.1:");
    assert_int_equal(dialled.error.os_errno, EMFILE);
    assert_true(dialled.took < RIG_LIMIT / 2);
    (void)close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses_that_come_after_all_have_failed_are_tried),
        cmocka_unit_test(test_addresses_that_come_late_join_the_race),
        cmocka_unit_test(test_addresses_that_never_come_are_told_of),
        cmocka_unit_test(test_a_lasting_shortage_fails_the_dial),
        cmocka_unit_test(test_an_address_kept_back_by_a_shortage_is_tried_again),
        cmocka_unit_test(test_a_shortage_after_a_failure_is_the_reason),
        cmocka_unit_test(test_no_descriptor_leaks),
    };
    return cmocka_run_group_tests(tests, fake_begin, NULL);
}
