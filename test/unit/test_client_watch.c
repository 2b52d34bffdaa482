// Waiting for the sake of a client: what its leaving looks like on TCP and on Unix sockets, and what only
// looks like it.

#include <sys/resource.h>

#include "bitflow/net/client_watch.h"
#include "net_rig.h"
#include "row.h"

#define SHORT (30 * NS_PER_MS) // long enough to show that nothing ended the wait before its time

// CPU time of the process; a wait that spins shows in it.
static int64_t cpu_time(void)
{
    struct timespec now;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), 0);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static enum client_watch_result wait_for(struct client_watch *watch, int64_t duration)
{
    return client_watch_poll(watch, NULL, 0, deadline_after(duration));
}

// Waits a good while and shows that it was spent asleep.
static void assert_waits_asleep(struct client_watch *watch)
{
    int64_t cpu = cpu_time(), start = clock_now();
    assert_int_equal(wait_for(watch, 200 * NS_PER_MS), CLIENT_WATCH_DEADLINE);
    assert_true(clock_now() - start >= 200 * NS_PER_MS);
    assert_true(cpu_time() - cpu < 100 * NS_PER_MS);
}

static void test_with_nobody_to_watch_the_deadline_is_waited_for(void **state)
{
    (void)state;
    struct client_watch watch;
    client_watch_init(&watch, -1);
    int64_t start = clock_now();
    assert_int_equal(wait_for(&watch, SHORT), CLIENT_WATCH_DEADLINE);
    assert_true(clock_now() - start >= SHORT);
}

static void test_a_ready_descriptor_ends_the_wait_and_data_of_the_client_does_not(void **state)
{
    (void)state;
    int pair[2], client[2];
    struct client_watch watch;
    rig_unix_pair(pair);
    rig_pair(client);
    client_watch_init(&watch, client[0]);
    struct pollfd descriptors[2] = {{.fd = pair[0], .events = POLLIN}, {.fd = pair[1], .events = POLLIN}};
    assert_int_equal(client_watch_poll(&watch, descriptors, 2, deadline_after(SHORT)), CLIENT_WATCH_DEADLINE);
    rig_write(pair[0], "x");
    rig_write(client[1], "data from the client is none of our business");
    assert_int_equal(client_watch_poll(&watch, descriptors, 2, rig_limit()), CLIENT_WATCH_READY);
    assert_int_equal(descriptors[0].revents, 0);
    assert_int_equal(descriptors[1].revents, POLLIN);
    // A deadline that has passed still looks.
    assert_int_equal(client_watch_poll(&watch, descriptors, 2, clock_now()), CLIENT_WATCH_READY);
    assert_int_equal(client_watch_poll(&watch, descriptors, 1, clock_now()), CLIENT_WATCH_DEADLINE);
    for (int i = 0; i < 2; i++) {
        (void)close(pair[i]);
        (void)close(client[i]);
    }
}

static void test_too_many_descriptors_are_refused(void **state)
{
    (void)state;
    struct client_watch watch;
    struct pollfd descriptors[CLIENT_WATCH_DESCRIPTORS_MAX + 1];
    for (size_t i = 0; i < CLIENT_WATCH_DESCRIPTORS_MAX + 1; i++)
        descriptors[i] = (struct pollfd){.fd = -1};
    client_watch_init(&watch, -1);
    assert_int_equal(client_watch_poll(&watch, descriptors, CLIENT_WATCH_DESCRIPTORS_MAX + 1, rig_limit()),
                     CLIENT_WATCH_FAILED);
    assert_int_equal(errno, EINVAL);
    assert_int_equal(client_watch_poll(&watch, descriptors, CLIENT_WATCH_DESCRIPTORS_MAX, clock_now()),
                     CLIENT_WATCH_DEADLINE);
}

static void test_a_failing_poll_is_told(void **state)
{
    (void)state;
    struct client_watch watch;
    struct rlimit before, low;
    struct pollfd descriptors[CLIENT_WATCH_DESCRIPTORS_MAX] = {{.fd = -1}};
    client_watch_init(&watch, -1);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = (struct rlimit){.rlim_cur = 8, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0); // poll() refuses more descriptors than a process may have
    enum client_watch_result result = client_watch_poll(&watch, descriptors, CLIENT_WATCH_DESCRIPTORS_MAX, rig_limit());
    int reason = errno;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(result, CLIENT_WATCH_FAILED);
    assert_int_equal(reason, EINVAL);
}

// A client that is watched, and its own end.
struct watched {
    int near, far;
    struct client_watch watch;
};

static struct watched watch_client(bool is_unix)
{
    int pair[2];
    struct watched client;
    is_unix ? rig_unix_pair(pair) : rig_pair(pair);
    client.near = pair[0];
    client.far = pair[1];
    client_watch_init(&client.watch, client.near);
    return client;
}

static const struct {
    const char *name;
    bool is_unix;
} kinds[] = {{"TCP", false}, {"Unix", true}};

static void test_a_reset_is_leaving_at_once(void **state)
{
    (void)state;
    struct watched client = watch_client(false);
    rig_write(client.far, "data before the reset changes nothing");
    assert_int_equal(wait_for(&client.watch, SHORT), CLIENT_WATCH_DEADLINE);
    socket_reset(client.far);
    assert_int_equal(wait_for(&client.watch, RIG_LIMIT), CLIENT_WATCH_GONE);
    assert_int_equal(wait_for(&client.watch, RIG_LIMIT), CLIENT_WATCH_GONE); // and it stays gone
    (void)close(client.near);
}

static void test_an_end_without_data_is_leaving_after_the_timeout(void **state)
{
    (void)state;
    FOR_EACH_ROW(kind, kinds)
    {
        struct watched client = watch_client(kind->is_unix);
        int64_t start = clock_now();
        assert_int_equal(shutdown(client.far, SHUT_WR), 0);
        assert_int_equal(wait_for(&client.watch, SHORT), CLIENT_WATCH_DEADLINE); // the caller's deadline comes first
        assert_true(client.watch.half_closed);
        int64_t cpu = cpu_time();
        assert_int_equal(wait_for(&client.watch, RIG_LIMIT), CLIENT_WATCH_GONE);
        assert_true(clock_now() - start >= CLIENT_WATCH_HALF_CLOSE_TIMEOUT);
        assert_true(cpu_time() - cpu < CLIENT_WATCH_HALF_CLOSE_TIMEOUT / 2);
        assert_int_equal(wait_for(&client.watch, RIG_LIMIT), CLIENT_WATCH_GONE);
        (void)close(client.near);
        (void)close(client.far);
    }
}

static void test_an_end_after_data_is_a_half_close(void **state)
{
    (void)state;
    FOR_EACH_ROW(kind, kinds)
    {
        struct watched client = watch_client(kind->is_unix);
        rig_write(client.far, "request");
        assert_int_equal(shutdown(client.far, SHUT_WR), 0);
        assert_int_equal(wait_for(&client.watch, CLIENT_WATCH_HALF_CLOSE_TIMEOUT + SHORT), CLIENT_WATCH_DEADLINE);
        assert_true(client.watch.half_closed);
        assert_waits_asleep(&client.watch);
        socket_reset(client.far); // leaving is noticed nevertheless, on TCP
        if (!kind->is_unix)
            assert_int_equal(wait_for(&client.watch, RIG_LIMIT), CLIENT_WATCH_GONE);
        (void)close(client.near);
    }
}

// There is nothing to deliver, and nobody to answer.
static void test_a_silent_unix_client_that_closes_is_gone_at_once(void **state)
{
    (void)state;
    struct watched client = watch_client(true);
    (void)close(client.far);
    assert_int_equal(wait_for(&client.watch, RIG_LIMIT), CLIENT_WATCH_GONE);
    (void)close(client.near);
}

// A full close of TCP is a FIN like any other until something is sent to it.
static void test_a_client_that_closes_after_data_is_not_gone(void **state)
{
    (void)state;
    FOR_EACH_ROW(kind, kinds)
    {
        struct watched client = watch_client(kind->is_unix);
        rig_write(client.far, "to be delivered");
        (void)close(client.far);
        assert_int_equal(wait_for(&client.watch, CLIENT_WATCH_HALF_CLOSE_TIMEOUT + SHORT), CLIENT_WATCH_DEADLINE);
        if (kind->is_unix)
            assert_waits_asleep(&client.watch);
        (void)close(client.near);
    }
}

static bool flag_is_set(const void *subject)
{
    return *(const bool *)subject;
}

// Whoever ends a connection from outside sets its reason and shuts its socket down. A closed Unix client that had sent
// something is not watched any more, so the shutdown cannot wake the wait; it must end all the same.
static void test_an_end_from_outside_ends_the_wait(void **state)
{
    (void)state;
    bool over = false;
    struct watched client = watch_client(true);
    client.watch.is_over = flag_is_set;
    client.watch.subject = &over;
    rig_write(client.far, "request");
    (void)close(client.far);
    assert_int_equal(wait_for(&client.watch, SHORT), CLIENT_WATCH_DEADLINE);
    assert_true(client.watch.unwatched);
    assert_waits_asleep(&client.watch);
    over = true;
    assert_int_equal(client_watch_poll(&client.watch, NULL, 0, rig_limit()), CLIENT_WATCH_GONE);
    (void)close(client.near);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_with_nobody_to_watch_the_deadline_is_waited_for),
        cmocka_unit_test(test_a_ready_descriptor_ends_the_wait_and_data_of_the_client_does_not),
        cmocka_unit_test(test_too_many_descriptors_are_refused),
        cmocka_unit_test(test_a_failing_poll_is_told),
        cmocka_unit_test(test_a_reset_is_leaving_at_once),
        UNIT_TEST_OF_ROWS(test_an_end_without_data_is_leaving_after_the_timeout),
        UNIT_TEST_OF_ROWS(test_an_end_after_data_is_a_half_close),
        cmocka_unit_test(test_a_silent_unix_client_that_closes_is_gone_at_once),
        UNIT_TEST_OF_ROWS(test_a_client_that_closes_after_data_is_not_gone),
        cmocka_unit_test(test_an_end_from_outside_ends_the_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
