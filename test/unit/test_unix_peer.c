// Who has connected to a Unix socket, and whether a list has them. What other users see, the end-to-end tests show.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/compiler.h"
#include "bitflow/net/unix_peer.h"
#include "net_rig.h"

static void test_users_and_groups_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        struct unix_peer peer;
    } table[] = {
        {"uid:0", {.id = 0}},
        {"uid:4294967294", {.id = 4294967294}},
        {"gid:33", {.is_group = true, .id = 33}},
        {"user:root", {.id = 0}},
        {"user:7", {.id = 7}},
        {"group:root", {.is_group = true, .id = 0}},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(table); i++) {
        struct unix_peer peer;
        struct error error = ERROR_INIT;
        if (!unix_peer_parse(table[i].text, &peer, &error))
            fail_msg("%s: %s", table[i].text, error.text);
        assert_int_equal(peer.is_group, table[i].peer.is_group);
        assert_int_equal(peer.id, table[i].peer.id);
    }
    static const char *const bad[] = {"",
                                      "0",
                                      "uid:",
                                      "uid:x",
                                      "uid:-1",
                                      "uid: 1",
                                      "uid:4294967295",
                                      "gid:",
                                      "root",
                                      "user:",
                                      "group:",
                                      "UID:0",
                                      "user:no-such-user-here"};
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct unix_peer peer;
        if (unix_peer_parse(bad[i], &peer, NULL))
            fail_msg("\"%s\"", bad[i]);
    }
}

static void test_numbers_are_told(void **state)
{
    (void)state;
    char text[UNIX_PEER_TEXT_SIZE];
    unix_peer_format(&(struct unix_peer){.id = 4294967295}, text);
    assert_string_equal(text, "uid:4294967295");
    unix_peer_format(&(struct unix_peer){.is_group = true, .id = 33}, text);
    assert_string_equal(text, "gid:33");
}

static bool is_among(int fd, bool is_group, uint32_t id)
{
    const struct unix_peer peers[] = {{.id = 77777}, {.is_group = is_group, .id = id}};
    struct unix_credentials credentials = unix_credentials_of(fd);
    return unix_peer_is_among(fd, &credentials, peers, ARRAY_LENGTH(peers));
}

static void test_the_kernel_says_who_it_is(void **state)
{
    (void)state;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_true(is_among(pair[0], false, geteuid()));
    assert_true(is_among(pair[0], true, getegid()));
    assert_false(is_among(pair[0], false, geteuid() + 1));
    assert_false(is_among(pair[0], true, 77778));
    gid_t groups[256];
    int count = getgroups(ARRAY_LENGTH(groups), groups);
    for (int i = 0; i < count; i++)
        assert_true(is_among(pair[0], true, groups[i]));
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void test_nobody_is_known_by_tcp(void **state)
{
    (void)state;
    struct endpoint address;
    int listener = rig_listen("127.0.0.1:0", &address);
    int client = rig_connect(&address);
    int server = accept(listener, NULL, NULL);
    assert_true(server >= 0);
    const int sockets[] = {server, client, listener, -1};
    for (size_t i = 0; i < ARRAY_LENGTH(sockets); i++) {
        assert_false(unix_credentials_of(sockets[i]).is_known);
        assert_false(is_among(sockets[i], false, UINT32_MAX));
        assert_false(is_among(sockets[i], true, UINT32_MAX));
        assert_false(is_among(sockets[i], false, 0));
    }
    (void)close(server);
    (void)close(client);
    (void)close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_users_and_groups_are_read),
        cmocka_unit_test(test_numbers_are_told),
        cmocka_unit_test(test_the_kernel_says_who_it_is),
        cmocka_unit_test(test_nobody_is_known_by_tcp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
