// Listening sockets that go from one process to the next: here both ends are in one process.

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/handover.h"
#include "bitflow/net/listener.h"
#include "listener_rig.h"
#include "net/handover_table.h"
#include "net_rig.h"

static int channel[2];
static struct handover_offer offer;

static int set_up(void **state)
{
    (void)state;
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel);
}

static int tear_down(void **state)
{
    (void)state;
    handover_close_rest();
    handover_settle(&offer, false);
    (void)close(channel[0]);
    (void)close(channel[1]);
    return 0;
}

static void hand_over(void)
{
    struct error error = ERROR_INIT;
    if (!handover_send(channel[0], &offer, &error) || !handover_receive(channel[1], rig_limit(), &error))
        fail_msg("%s", error.text);
}

// What is there under two numbers is one socket.
static bool is_same(int a, int b)
{
    uint64_t left = 0, right = 1;
    socklen_t size = sizeof left;
    assert_int_equal(getsockopt(a, SOL_SOCKET, SO_COOKIE, &left, &size), 0);
    assert_int_equal(getsockopt(b, SOL_SOCKET, SO_COOKIE, &right, &size), 0);
    return left == right;
}

static struct endpoint endpoint_of(const char *text)
{
    struct address address = rig_address(text, ADDRESS_TO_LISTEN);
    struct endpoint endpoint;
    assert_true(endpoint_of_address(&address, &endpoint));
    return endpoint;
}

static struct endpoint bound(const struct listener *listener)
{
    struct endpoint endpoint;
    assert_true(socket_local(listener->sockets[0], &endpoint));
    return endpoint;
}

static void test_a_tcp_socket_is_taken_by_its_address(void **state)
{
    (void)state;
    struct listener listener = rig_listener("127.0.0.1:0"), other = rig_listener("127.0.0.2:0");
    struct endpoint here = bound(&listener), there = endpoint_of("127.0.0.3:1");
    hand_over();
    assert_int_equal(handover_take_tcp(&there, false), -1);
    int taken = handover_take_tcp(&here, false);
    assert_true(taken >= 0 && is_same(taken, listener.sockets[0]));
    assert_int_equal(fcntl(taken, F_GETFD), FD_CLOEXEC);
    assert_int_equal(handover_take_tcp(&here, false), -1); // once
    handover_close_rest();
    assert_false(handover_is_given(listener.sockets[0])); // it is not settled yet
    handover_settle(&offer, true);
    assert_true(handover_is_given(listener.sockets[0]));
    assert_false(handover_is_given(other.sockets[0]));
    listener_leave_given(&other);
    assert_int_equal(other.socket_count, 1);
    struct listener left = listener;
    listener_leave_given(&left);
    assert_int_equal(left.socket_count, 0);
    listener_close(&listener);
    listener_close(&other);
    (void)close(taken);
}

static void test_what_is_not_accepted_is_not_given(void **state)
{
    (void)state;
    struct listener listener = rig_listener("127.0.0.1:0");
    struct endpoint here = bound(&listener);
    hand_over();
    int taken = handover_take_tcp(&here, false);
    handover_settle(&offer, false);
    assert_false(handover_is_given(listener.sockets[0]));
    (void)close(taken);
    listener_close(&listener);
}

static void test_both_families_are_not_one(void **state)
{
    (void)state;
    struct listener both = rig_listener(":0");
    struct endpoint here = bound(&both);
    hand_over();
    assert_int_equal(handover_take_tcp(&here, true), -1);
    int taken = handover_take_tcp(&here, false);
    assert_true(taken >= 0);
    (void)close(taken);
    listener_close(&both);
}

static void test_a_port_that_was_chosen_is_taken_if_it_is_the_only_one(void **state)
{
    (void)state;
    struct endpoint any = endpoint_of("127.0.0.1:0"), elsewhere = endpoint_of("127.0.0.2:0");
    struct listener listener = rig_listener("127.0.0.1:0");
    hand_over();
    assert_int_equal(handover_take_tcp(&elsewhere, false), -1);
    int taken = handover_take_tcp(&any, false);
    assert_true(taken >= 0);
    (void)close(taken);
    handover_settle(&offer, false);
    struct listener second = rig_listener("127.0.0.1:0");
    hand_over();
    assert_int_equal(handover_take_tcp(&any, false), -1);
    listener_close(&listener);
    listener_close(&second);
}

static void test_a_listener_is_opened_by_taking_over(void **state)
{
    (void)state;
    char text[32];
    struct listener listener = rig_listener("127.0.0.1:0");
    (void)snprintf(text, sizeof text, "127.0.0.1:%u", (unsigned)rig_listener_port(&listener, 0));
    hand_over();
    struct listener next = rig_listener(text); // in use, for everyone else
    assert_true(is_same(next.sockets[0], listener.sockets[0]));
    listener_close(&next);
    listener_close(&listener);
}

static void test_the_file_of_a_unix_socket_is_the_last_ones(void **state)
{
    (void)state;
    char path[] = "/tmp/bitflow-handover-XXXXXX", text[64];
    assert_non_null(mkdtemp(path));
    (void)snprintf(text, sizeof text, "unix://%s/socket", path);
    const char *file = text + strlen("unix://");
    struct listener listener = rig_listener(text);
    hand_over();
    struct listener failed = rig_listener(text);
    assert_true(is_same(failed.sockets[0], listener.sockets[0]));
    listener_give_up(&failed);
    assert_int_equal(access(file, F_OK), 0);
    handover_settle(&offer, false);

    hand_over();
    struct listener next = rig_listener(text), copy = next;
    copy.sockets[0] = fcntl(next.sockets[0], F_DUPFD_CLOEXEC, 0);
    listener_close(&copy); // as if it was given up, since nobody knows yet that this process will serve
    assert_int_equal(access(file, F_OK), 0);
    handover_confirm();
    handover_settle(&offer, true);
    listener_close(&listener);
    assert_int_equal(access(file, F_OK), 0);
    listener_close(&next);
    assert_int_equal(access(file, F_OK), -1);
    assert_int_equal(rmdir(path), 0);
}

static void test_a_unix_socket_whose_file_is_another_is_not_taken(void **state)
{
    (void)state;
    char path[] = "/tmp/bitflow-handover-XXXXXX", text[64];
    assert_non_null(mkdtemp(path));
    (void)snprintf(text, sizeof text, "unix://%s/socket", path);
    struct endpoint endpoint = endpoint_of(text);
    struct handover_mark mark;
    struct listener listener = rig_listener(text);
    assert_int_equal(unlink(text + strlen("unix://")), 0);
    struct listener second = rig_listener(text);
    hand_over();
    int taken = handover_take_unix(&endpoint, &mark);
    assert_true(taken >= 0 && is_same(taken, second.sockets[0]));
    assert_true(mark.inode == second.inode && mark.device == second.device);
    assert_int_equal(handover_take_unix(&endpoint, &mark), -1);
    (void)close(taken);
    listener_close(&second);
    listener_close(&listener);
    assert_int_equal(rmdir(path), 0);
}

static void test_many_sockets_go_in_several_messages(void **state)
{
    (void)state;
    enum { MANY = 2 * HANDOVER_MESSAGE_SOCKETS + 3 };
    static struct listener many[MANY];
    char text[64];
    for (size_t i = 0; i < MANY; i++) {
        (void)snprintf(text, sizeof text, "unix://@bitflow-handover-%d-%zu", (int)getpid(), i);
        many[i] = rig_listener(text);
    }
    hand_over();
    for (size_t i = 0; i < MANY; i++) {
        struct handover_mark mark;
        (void)snprintf(text, sizeof text, "unix://@bitflow-handover-%d-%zu", (int)getpid(), MANY - 1 - i);
        struct endpoint endpoint = endpoint_of(text);
        int taken = handover_take_unix(&endpoint, &mark);
        assert_true(taken >= 0 && is_same(taken, many[MANY - 1 - i].sockets[0]));
        (void)close(taken);
    }
    for (size_t i = 0; i < MANY; i++)
        listener_close(&many[i]);
}

static void refuse(const char *reason)
{
    struct error error = ERROR_INIT;
    assert_false(handover_receive(channel[1], clock_now() + 50 * NS_PER_MS, &error));
    if (strstr(error.text, reason) == NULL)
        fail_msg("%s: %s", reason, error.text);
}

static void send_table(const void *bytes, size_t size)
{
    int memory = memfd_create("test", MFD_CLOEXEC);
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    char byte = 's';
    struct iovec content = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &content, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    assert_int_equal(write(memory, bytes, size), (ssize_t)size);
    *head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(head), &memory, sizeof memory);
    assert_int_equal(sendmsg(channel[0], &message, 0), 1);
    (void)close(memory);
}

static void test_what_is_no_offer_is_refused(void **state)
{
    (void)state;
    const struct handover_table tables[] = {
        {.magic = 1, .record_size = sizeof(struct handover_record)},
        {.magic = HANDOVER_MAGIC, .record_size = sizeof(struct handover_record) + 8},
        {.magic = HANDOVER_MAGIC, .record_size = sizeof(struct handover_record), .count = 1},
        {.magic = HANDOVER_MAGIC, .record_size = sizeof(struct handover_record), .count = UINT32_MAX},
    };
    refuse("timed out"); // nothing has come
    assert_int_equal(send(channel[0], "s", 1, 0), 1);
    refuse("Protocol error");
    send_table("", 0);
    refuse("offers no table");
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        send_table(&tables[i], sizeof tables[i]);
        refuse("another version's way");
    }
    (void)shutdown(channel[0], SHUT_WR);
    refuse("Connection reset");
}

static void test_an_offer_that_stops_in_the_middle_is_refused(void **state)
{
    (void)state;
    const struct handover_table head = {
        .magic = HANDOVER_MAGIC, .record_size = sizeof(struct handover_record), .count = 1};
    unsigned char table[sizeof head + sizeof(struct handover_record)] = {0};
    memcpy(table, &head, sizeof head);
    send_table(table, sizeof table);
    refuse("cannot take over the listening sockets");
}

static void test_a_full_channel_is_an_error(void **state)
{
    (void)state;
    struct error error = ERROR_INIT;
    struct listener listener = rig_listener("127.0.0.1:0");
    while (send(channel[0], "x", 1, MSG_DONTWAIT) == 1)
        continue;
    assert_false(handover_send(channel[0], &offer, &error));
    assert_non_null(strstr(error.text, "cannot hand over 1 listening sockets"));
    assert_null(offer.table);
    listener_close(&listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_tcp_socket_is_taken_by_its_address, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_not_accepted_is_not_given, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_both_families_are_not_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_port_that_was_chosen_is_taken_if_it_is_the_only_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_listener_is_opened_by_taking_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_file_of_a_unix_socket_is_the_last_ones, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_unix_socket_whose_file_is_another_is_not_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_sockets_go_in_several_messages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_no_offer_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_an_offer_that_stops_in_the_middle_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_full_channel_is_an_error, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
