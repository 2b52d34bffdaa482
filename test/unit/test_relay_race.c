// A reset makes one system call on the socket fail, and no other. Here the write that has taken it is held up before
// its direction learns of it, while the other one reads the socket to its end: that must not be taken for an orderly
// end.

#include "relay_peers.h"

static _Atomic bool hold_up;
static _Atomic unsigned held_up;

// In place of the C library's.
ssize_t send(int fd, const void *data, size_t size, int flags)
{
    ssize_t result = sendto(fd, data, size, flags, NULL, 0);
    int os_errno = errno;
    if (result < 0 && os_errno != EAGAIN && atomic_load(&hold_up)) {
        atomic_fetch_add(&held_up, 1);
        MUST(usleep(300000) == 0);
    }
    errno = os_errno;
    return result;
}

static void the_end_of_a_reset_socket_is_not_passed_on(enum rig_kind target)
{
    struct rig rig;
    rig_init(&rig, RIG_TCP, target, 4096);
    rig_start(&rig);
    // Both directions are stuck in a write, so that it is the write to the target that takes the reset.
    (void)rig_stuff(&rig, RELAY_TARGET);
    (void)rig_stuff(&rig, RELAY_CLIENT);
    rig_wait_blocked(&rig, RELAY_CLIENT, SYS_sendto, 0, rig.relay.sockets[RELAY_TARGET].fd);
    rig_wait_blocked(&rig, RELAY_TARGET, SYS_sendto, 0, rig.relay.sockets[RELAY_CLIENT].fd);
    atomic_store(&held_up, 0);
    atomic_store(&hold_up, true);
    if (target == RIG_TCP)
        rig_reset_far(&rig.target);
    else
        rig_close_far(&rig.target); // with unread data
    struct peer reader = {.fd = &rig.client, .manner = PEER_ANSWERS, .receives_stream = 5, .random = 1};
    peer_start(&reader);
    rig_join(&rig);
    peer_join(&reader);
    atomic_store(&hold_up, false);
    assert_true(atomic_load(&held_up) > 0);
    rig_assert_ended(&rig, CLOSE_TARGET_RESET, ENDED_BY_TARGET);
    rig_assert_resets(&rig, true, false);
    assert_int_equal(rig.failure.error.os_errno, ECONNRESET);
    assert_int_equal(reader.received, rig_bytes(&rig, RELAY_TARGET));
    assert_int_equal(reader.end, RIG_RESET);
    rig_release(&rig);
}

static void test_the_end_of_a_reset_tcp_socket_is_not_passed_on(void **state)
{
    (void)state;
    the_end_of_a_reset_socket_is_not_passed_on(RIG_TCP);
}

static void test_the_end_of_a_reset_unix_socket_is_not_passed_on(void **state)
{
    (void)state;
    the_end_of_a_reset_socket_is_not_passed_on(RIG_UNIX);
}

int main(void)
{
    rig_prepare();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_end_of_a_reset_tcp_socket_is_not_passed_on),
        cmocka_unit_test(test_the_end_of_a_reset_unix_socket_is_not_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
