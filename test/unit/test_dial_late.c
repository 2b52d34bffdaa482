// Dialling names whose addresses come one family after the other, and dialling when descriptors or memory are short.

#include <pthread.h>
#include <sys/syscall.h>

#include "dial_rig.h"

static unsigned descriptors_at_start;

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

static struct endpoint on_port(const char *host, uint16_t port)
{
    char text[64];
    struct endpoint endpoint;
    (void)snprintf(text, sizeof text, "%s:%u", host, (unsigned)port);
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    assert_true(endpoint_of_address(&address, &endpoint));
    return endpoint;
}

static void set_list(const char *const *hosts, size_t count, uint16_t port)
{
    fake_clear();
    for (size_t i = 0; i < count; i++) {
        struct endpoint endpoint = on_port(hosts[i], port);
        fake_add(&endpoint);
    }
}

static struct dialled dial_port(const char *name, uint16_t port, int64_t deadline)
{
    char text[64];
    (void)snprintf(text, sizeof text, "%s:%u", name, (unsigned)port);
    return dial_text(text, deadline);
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

// The addresses that are known have all failed when the other family's come: they are waited for, and connected to.
static void test_late_after_all_failed(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "[::1]"};
    struct endpoint ipv6;
    pthread_t releaser;
    int listener = rig_listen("[::1]:0", &ipv6);
    set_list(hosts, 2, rig_port(&ipv6));
    assert_int_equal(pthread_create(&releaser, NULL, release_later, NULL), 0);
    struct dialled dialled = dial_port("late6.test", rig_port(&ipv6), rig_limit());
    assert_int_equal(pthread_join(releaser, NULL), 0);
    assert_connected(&dialled, listener, &ipv6);
    (void)close(listener);
    fake_release_to_end(descriptors_at_start);
}

// They join those that are being tried.
static void test_late_into_the_race(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "[::1]"};
    struct endpoint ipv4, ipv6;
    pthread_t releaser;
    int filler, listener = rig_listen("[::1]:0", &ipv6);
    char text[64];
    (void)snprintf(text, sizeof text, "127.0.0.1:%u", (unsigned)rig_port(&ipv6));
    int black_hole = rig_black_hole(text, &ipv4, &filler);
    set_list(hosts, 2, rig_port(&ipv6));
    assert_int_equal(pthread_create(&releaser, NULL, release_later, NULL), 0);
    struct dialled dialled = dial_port("late6.test", rig_port(&ipv6), rig_limit());
    assert_int_equal(pthread_join(releaser, NULL), 0);
    assert_connected(&dialled, listener, &ipv6);
    (void)close(listener);
    (void)close(filler);
    (void)close(black_hole);
    fake_release_to_end(descriptors_at_start);
}

// They never come: what failed is told, at the deadline or when they have had their time.
static void test_late_and_never(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "[::1]"};
    struct endpoint endpoint;
    int fd = dead_end("127.0.0.1:0", &endpoint);
    set_list(hosts, 2, rig_port(&endpoint));
    int64_t deadline = deadline_after(400 * NS_PER_MS);
    struct dialled dialled = dial_port("late6.test", rig_port(&endpoint), deadline);
    assert_failure(&dialled, ERROR_REFUSED, "Connection refused; no answer in time about its other IP family");
    assert_true(clock_now() >= deadline);
    dialled = dial_port("late6.test", rig_port(&endpoint), DEADLINE_NONE);
    assert_failure(&dialled, ERROR_REFUSED, "no answer in time about its other IP family");
    assert_in_range(dialled.took, NS_PER_S, RESOLVER_LATE + RIG_LIMIT / 2); // from the question, which is older
    fake_release_to_end(descriptors_at_start + 1);
    // One that never will come, as the other has answered, is not waited for.
    set_list(hosts, 1, rig_port(&endpoint));
    dialled = dial_port("whole.test", rig_port(&endpoint), rig_limit());
    assert_failure(&dialled, ERROR_REFUSED, "cannot connect to 127.0.0.1:");
    assert_true(dialled.took < RESOLVER_LATE);
    (void)close(fd);
    fake_release_to_end(descriptors_at_start);
}

static void test_shortage_from_the_beginning(void **state)
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
static void test_shortage_while_one_is_tried(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.2", "127.0.0.1"};
    struct endpoint endpoint, silent;
    int filler, listener = rig_listen("127.0.0.1:0", &endpoint);
    char text[64];
    (void)snprintf(text, sizeof text, "127.0.0.2:%u", (unsigned)rig_port(&endpoint));
    int black_hole = rig_black_hole(text, &silent, &filler);
    set_list(hosts, 2, rig_port(&endpoint));
    run_short(1, 3, ENFILE);
    struct dialled dialled = dial_port("list.test", rig_port(&endpoint), rig_limit());
    run_well();
    assert_in_range(dialled.result.connect_time, DIAL_ATTEMPT_DELAY + 3 * 50 * NS_PER_MS, RIG_LIMIT / 2);
    assert_connected(&dialled, listener, &endpoint);
    (void)close(listener);
    (void)close(filler);
    (void)close(black_hole);
}

// The first one failed, and the second cannot be tried: it is tried again for a moment, then the shortage is the
// reason.
static void test_shortage_after_a_failure(void **state)
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

static void test_no_descriptor_leaks(void **state)
{
    (void)state;
    fake_release_to_end(descriptors_at_start);
}

int main(void)
{
    if (sem_init(&fake_slow, 0, 0) != 0)
        return 1;
    descriptors_at_start = rig_descriptors();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_late_after_all_failed),
        cmocka_unit_test(test_late_into_the_race),
        cmocka_unit_test(test_late_and_never),
        cmocka_unit_test(test_shortage_from_the_beginning),
        cmocka_unit_test(test_shortage_while_one_is_tried),
        cmocka_unit_test(test_shortage_after_a_failure),
        cmocka_unit_test(test_no_descriptor_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
