// Listeners: every kind of address, what is in use, what is stale, and that nothing is left behind.

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "bitflow/base/compiler.h"
#include "bitflow/net/inherited.h"
#include "listener_rig.h"

static void refuse_listener(const char *text, const char *reason)
{
    struct address address = rig_address(text, ADDRESS_TO_LISTEN);
    struct listener listener, untouched;
    struct error error = ERROR_INIT;
    memset(&listener, 0x5a, sizeof listener);
    memcpy(&untouched, &listener, sizeof listener);
    unsigned before = rig_descriptors();
    assert_false(listener_open(&address, NULL, &listener, &error));
    if (strstr(error.text, reason) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", error.text, reason);
    assert_memory_equal(&listener, &untouched, sizeof listener);
    assert_int_equal(rig_descriptors(), before);
}

// Whether a connection to a literal is taken by one of the listener's sockets. Connections are made, not waited for:
// on loopback connect() returns once it is in the queue.
static bool serves(const struct listener *listener, const char *host, uint16_t port)
{
    char text[64];
    struct endpoint endpoint;
    (void)snprintf(text, sizeof text, "%s:%u", host, (unsigned)port);
    struct address address = rig_address(text, ADDRESS_TO_CONNECT);
    assert_true(endpoint_of_address(&address, &endpoint));
    int client = socket(endpoint.address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool connected = connect(client, &endpoint.address.any, endpoint.length) == 0;
    if (connected) {
        struct pollfd pollers[LISTENER_SOCKETS_MAX];
        for (size_t i = 0; i < listener->socket_count; i++)
            pollers[i] = (struct pollfd){.fd = listener->sockets[i], .events = POLLIN};
        assert_true(poll(pollers, listener->socket_count, deadline_poll_ms(rig_limit())) == 1);
        for (size_t i = 0; i < listener->socket_count; i++)
            if (pollers[i].revents != 0)
                (void)close(accept4(listener->sockets[i], NULL, NULL, SOCK_CLOEXEC));
    }
    (void)close(client);
    return connected;
}

static void test_a_tcp_listener_serves_its_families(void **state)
{
    (void)state;
    static const struct {
        const char *address;
        bool ipv4, ipv6;
    } rows[] = {{"127.0.0.1:0", true, false}, {"[::1]:0", false, true},   {":0", true, true},
                {"tcp4://:0", true, false},   {"tcp6://:0", false, true}, {"[::]:0", false, true},
                {"0.0.0.0:0", true, false}};
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct listener listener = rig_listener(rows[i].address);
        assert_int_equal(listener.socket_count, 1);
        assert_false(listener.is_connected || listener.is_inherited);
        int fd = listener.sockets[0];
        assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
        assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
        uint16_t port = rig_listener_port(&listener, 0);
        if (serves(&listener, "127.0.0.1", port) != rows[i].ipv4 || serves(&listener, "[::1]", port) != rows[i].ipv6)
            fail_msg("%s", rows[i].address);
        listener_close(&listener);
        assert_int_equal(fcntl(fd, F_GETFD), -1);
        assert_int_equal(listener.socket_count, 0);
        listener_close(&listener); // once more does nothing
    }
}

static void test_an_address_in_use_is_refused(void **state)
{
    (void)state;
    char text[32], reason[96];
    struct listener listener = rig_listener("127.0.0.1:0");
    (void)snprintf(text, sizeof text, "127.0.0.1:%u", (unsigned)rig_listener_port(&listener, 0));
    (void)snprintf(reason, sizeof reason, "cannot listen on %s: Address already in use", text);
    refuse_listener(text, reason);
    listener_close(&listener);
    listener = rig_listener(text); // free again
    listener_close(&listener);
}

// The port of a connection in TIME_WAIT can be listened on again.
static void test_a_port_in_time_wait_is_listened_on_again(void **state)
{
    (void)state;
    char text[64];
    struct listener listener = rig_listener("127.0.0.1:0");
    struct endpoint bound;
    assert_true(socket_local(listener.sockets[0], &bound));
    (void)snprintf(text, sizeof text, "127.0.0.1:%u", (unsigned)rig_port(&bound));
    int client = rig_connect(&bound), served = rig_accept(listener.sockets[0]);
    (void)close(served); // who closes first has the TIME_WAIT
    rig_await(client, POLLRDHUP);
    (void)close(client);
    listener_close(&listener);
    listener = rig_listener(text);
    listener_close(&listener);
}

static void test_an_address_that_is_not_ours_is_refused(void **state)
{
    (void)state;
    refuse_listener("203.0.113.1:0", "cannot listen on 203.0.113.1:0: Cannot assign requested address");
    refuse_listener("[fe80::1%nosuchif]:0", "no such network interface");
}

static char directory[] = "/tmp/bitflow-test-XXXXXX";
static char socket_path[64], socket_address[80];

static int set_up_directory(void **state)
{
    (void)state;
    (void)snprintf(directory, sizeof directory, "/tmp/bitflow-test-XXXXXX");
    if (mkdtemp(directory) == NULL)
        return -1;
    (void)snprintf(socket_path, sizeof socket_path, "%s/s", directory);
    (void)snprintf(socket_address, sizeof socket_address, "unix://%s", socket_path);
    return 0;
}

// Fails, too, if a test left a file behind.
static int tear_down_directory(void **state)
{
    (void)state;
    return rmdir(directory);
}

static bool exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0;
}

static int unix_socket(int type)
{
    struct address address = rig_address(socket_address, ADDRESS_TO_LISTEN);
    struct endpoint endpoint;
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    assert_true(endpoint_of_address(&address, &endpoint));
    assert_int_equal(bind(fd, &endpoint.address.any, endpoint.length), 0);
    return fd;
}

static void test_a_unix_listener_makes_and_removes_its_file(void **state)
{
    (void)state;
    struct listener listener = rig_listener(socket_address);
    struct endpoint endpoint;
    assert_true(exists(socket_path));
    assert_true(endpoint_of_address(&listener.address, &endpoint));
    int client = rig_connect(&endpoint), served = rig_accept(listener.sockets[0]);
    rig_write(client, "x");
    (void)close(client);
    (void)close(served);
    refuse_listener(socket_address, "a server is already listening there"); // live: not replaced
    assert_true(exists(socket_path));
    listener_close(&listener);
    assert_false(exists(socket_path));
}

static void test_a_stale_unix_file_is_replaced(void **state)
{
    (void)state;
    (void)close(unix_socket(SOCK_STREAM)); // leaves its file
    assert_true(exists(socket_path));
    struct listener listener = rig_listener(socket_address);
    listener_close(&listener);
    assert_false(exists(socket_path));
}

static void test_a_unix_listener_with_a_full_queue_is_live(void **state)
{
    (void)state;
    int fd = unix_socket(SOCK_STREAM);
    struct address address = rig_address(socket_address, ADDRESS_TO_CONNECT);
    struct endpoint endpoint;
    assert_int_equal(listen(fd, 0), 0);
    assert_true(endpoint_of_address(&address, &endpoint));
    int filler = rig_connect(&endpoint);
    refuse_listener(socket_address, "a server is already listening there");
    (void)close(filler);
    (void)close(fd);
    assert_int_equal(unlink(socket_path), 0);
}

static void test_other_kinds_of_file_stay(void **state)
{
    (void)state;
    int datagram = unix_socket(SOCK_DGRAM);
    refuse_listener(socket_address, "a server is already listening there");
    (void)close(datagram);
    assert_int_equal(unlink(socket_path), 0);

    int file = open(socket_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    refuse_listener(socket_address, "the file there is not a socket");
    (void)close(file);
    assert_int_equal(unlink(socket_path), 0);

    assert_int_equal(symlink("/nonexistent", socket_path), 0);
    refuse_listener(socket_address, "the file there is not a socket");
    assert_int_equal(unlink(socket_path), 0);

    assert_int_equal(mkdir(socket_path, 0700), 0);
    refuse_listener(socket_address, "the file there is not a socket");
    assert_int_equal(rmdir(socket_path), 0);
}

static void test_a_missing_directory_is_an_error(void **state)
{
    (void)state;
    char text[96];
    (void)snprintf(text, sizeof text, "%s/none/x", socket_address);
    refuse_listener(text, "No such file or directory");
}

static void test_the_file_of_another_listener_stays(void **state)
{
    (void)state;
    struct listener listener = rig_listener(socket_address);
    assert_int_equal(unlink(socket_path), 0);
    int other = unix_socket(SOCK_STREAM);
    listener_close(&listener);
    assert_true(exists(socket_path));
    (void)close(other);
    assert_int_equal(unlink(socket_path), 0);
}

static void test_a_locked_directory_is_not_waited_for_for_ever(void **state)
{
    (void)state;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    struct listener listener = rig_listener(socket_address);
    listener_close(&listener);
    (void)close(fd);
}

// Many processes want one stale path at once: exactly one gets it.
#define RIVALS 8
static void test_of_rivals_one_gets_the_unix_socket(void **state)
{
    (void)state;
    int start[2], ready[2], done[2];
    assert_int_equal(pipe2(start, O_CLOEXEC), 0);
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    assert_int_equal(pipe2(done, O_CLOEXEC), 0);
    (void)close(unix_socket(SOCK_STREAM));
    pid_t rivals[RIVALS];
    for (int i = 0; i < RIVALS; i++) {
        rivals[i] = fork();
        assert_true(rivals[i] >= 0);
        if (rivals[i] == 0) {
            struct address address = rig_address(socket_address, ADDRESS_TO_LISTEN);
            struct listener listener;
            char byte;
            (void)close(start[1]);
            (void)close(done[1]);
            (void)!read(start[0], &byte, 1); // until the parent closes it
            bool won = listener_open(&address, NULL, &listener, NULL);
            (void)!write(ready[1], won ? "1" : "0", 1);
            (void)!read(done[0], &byte, 1);
            if (won)
                listener_close(&listener);
            _exit(0);
        }
    }
    (void)close(start[1]);
    char answers[RIVALS];
    for (size_t i = 0; i < RIVALS; i++)
        assert_int_equal(read(ready[0], &answers[i], 1), 1);
    bool found = exists(socket_path);
    (void)close(done[1]);
    int winners = 0;
    for (size_t i = 0; i < RIVALS; i++) {
        assert_int_equal(waitpid(rivals[i], NULL, 0), rivals[i]);
        winners += answers[i] == '1';
    }
    assert_int_equal(winners, 1);
    assert_true(found);
    assert_false(exists(socket_path));
    (void)close(start[0]);
    (void)close(ready[0]);
    (void)close(ready[1]);
    (void)close(done[0]);
}

static void test_an_abstract_listener_is_free_once_closed(void **state)
{
    (void)state;
    char text[64];
    (void)snprintf(text, sizeof text, "unix://@bitflow-test-%d", (int)getpid());
    struct listener listener = rig_listener(text);
    struct endpoint endpoint;
    assert_true(endpoint_of_address(&listener.address, &endpoint));
    (void)close(rig_connect(&endpoint));
    refuse_listener(text, "Address already in use");
    listener_close(&listener);
    listener = rig_listener(text);
    listener_close(&listener);
}

static void test_an_inherited_listening_socket_is_used(void **state)
{
    (void)state;
    char text[32];
    struct endpoint bound;
    int fd = rig_listen("127.0.0.1:0", &bound);
    inherited_init();
    (void)snprintf(text, sizeof text, "fd://%d", fd);
    struct listener listener = rig_listener(text);
    assert_true(listener.is_inherited);
    assert_false(listener.is_connected);
    assert_int_equal(listener.sockets[0], fd);
    assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    int client = rig_connect(&bound), served = rig_accept(fd);
    (void)close(client);
    (void)close(served);
    refuse_listener(text, "in use");
    listener_give_up(&listener);
    listener = rig_listener(text); // as after a reload that failed
    assert_int_equal(listener.sockets[0], fd);
    listener_close(&listener);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    refuse_listener(text, "used up");
}

static void test_an_inherited_connection_is_served_and_not_closed(void **state)
{
    (void)state;
    char text[32];
    int pair[2];
    rig_unix_pair(pair);
    socket_set_blocking(pair[0], false);
    inherited_init();
    (void)snprintf(text, sizeof text, "fd://%d", pair[0]);
    struct listener listener = rig_listener(text);
    assert_true(listener.is_inherited && listener.is_connected);
    assert_int_equal(listener.sockets[0], pair[0]);
    assert_int_equal(fcntl(pair[0], F_GETFL) & O_NONBLOCK, 0);

    listener.socket_count = 0; // a connection's worker has it now
    listener_close(&listener);
    assert_int_equal(fcntl(pair[0], F_GETFD), FD_CLOEXEC);
    inherited_return(pair[0], true);
    assert_int_equal(fcntl(pair[0], F_GETFD), -1);
    (void)close(pair[1]);
}

static void test_an_inherited_socket_that_is_neither_is_refused(void **state)
{
    (void)state;
    char text[32];
    struct endpoint bound;
    int fd = rig_bind("127.0.0.1:0", &bound);
    inherited_init();
    (void)snprintf(text, sizeof text, "fd://%d", fd);
    refuse_listener(text, "it neither listens nor is connected");
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    (void)close(fd);
}

// Comes last: the thread that resolves may still be about to close its descriptor while later tests count theirs.
static void test_a_host_name_is_listened_on(void **state)
{
    (void)state;
    struct listener listener = rig_listener("tcp4://localhost:0");
    assert_true(serves(&listener, "127.0.0.1", rig_listener_port(&listener, 0)));
    listener_close(&listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_tcp_listener_serves_its_families),
        cmocka_unit_test(test_an_address_in_use_is_refused),
        cmocka_unit_test(test_a_port_in_time_wait_is_listened_on_again),
        cmocka_unit_test(test_an_address_that_is_not_ours_is_refused),
        cmocka_unit_test_setup_teardown(test_a_unix_listener_makes_and_removes_its_file, set_up_directory,
                                        tear_down_directory),
        cmocka_unit_test_setup_teardown(test_a_stale_unix_file_is_replaced, set_up_directory, tear_down_directory),
        cmocka_unit_test_setup_teardown(test_a_unix_listener_with_a_full_queue_is_live, set_up_directory,
                                        tear_down_directory),
        cmocka_unit_test_setup_teardown(test_other_kinds_of_file_stay, set_up_directory, tear_down_directory),
        cmocka_unit_test_setup_teardown(test_a_missing_directory_is_an_error, set_up_directory, tear_down_directory),
        cmocka_unit_test_setup_teardown(test_the_file_of_another_listener_stays, set_up_directory, tear_down_directory),
        cmocka_unit_test_setup_teardown(test_a_locked_directory_is_not_waited_for_for_ever, set_up_directory,
                                        tear_down_directory),
        cmocka_unit_test_setup_teardown(test_of_rivals_one_gets_the_unix_socket, set_up_directory, tear_down_directory),
        cmocka_unit_test(test_an_abstract_listener_is_free_once_closed),
        cmocka_unit_test(test_an_inherited_listening_socket_is_used),
        cmocka_unit_test(test_an_inherited_connection_is_served_and_not_closed),
        cmocka_unit_test(test_an_inherited_socket_that_is_neither_is_refused),
        cmocka_unit_test(test_a_host_name_is_listened_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
