// Inherited descriptors: by number and by name, lending, what is refused.

#include <fcntl.h>
#include <stdlib.h>

#include "bitflow/base/compiler.h"
#include "bitflow/net/inherited.h"
#include "net_rig.h"

static struct error failure(enum error_code code, const char *text)
{
    struct error error = {.code = code};
    (void)snprintf(error.text, sizeof error.text, "%s", text);
    return error;
}

static void assert_error(const struct error *error, enum error_code code, const char *fragment)
{
    assert_int_equal(error->code, code);
    if (strstr(error->text, fragment) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", error->text, fragment);
}

static struct address number(int fd)
{
    char text[32];
    (void)snprintf(text, sizeof text, "fd://%d", fd);
    return rig_address(text, ADDRESS_TO_LISTEN);
}

static void set_environment(const char *pid, const char *count, const char *names)
{
    static const char *const keys[] = {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"};
    const char *const values[] = {pid, count, names};
    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++)
        assert_int_equal(values[i] != NULL ? setenv(keys[i], values[i], 1) : unsetenv(keys[i]), 0);
}

// The number a name stands for, -1 if none. The descriptors from 3 on are made stream sockets first.
#define NAMED 4
static int find_name(const char *name)
{
    char text[64];
    int fd = -1;
    struct error error = ERROR_INIT;
    (void)snprintf(text, sizeof text, "fd://%s", name);
    struct address address = rig_address(text, ADDRESS_TO_LISTEN);
    if (inherited_find(&address, &fd, &error))
        return fd;
    assert_error(&error, ERROR_INVALID, name);
    return -1;
}

// Puts `count` sockets at 3, 4, ...; what was there is kept in `saved`.
static void occupy(int saved[NAMED])
{
    for (int i = 0; i < NAMED; i++) {
        saved[i] = fcntl(3 + i, F_DUPFD_CLOEXEC, 100);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(fd >= 0);
        if (fd == 3 + i) {
            assert_int_equal(fcntl(fd, F_SETFD, 0), 0);
        } else {
            // dup3() with the flag, which is then taken off: an inherited descriptor has none.
            assert_int_equal(dup3(fd, 3 + i, O_CLOEXEC), 3 + i);
            assert_int_equal(fcntl(3 + i, F_SETFD, 0), 0);
            (void)close(fd);
        }
    }
}

static void give_back(const int saved[NAMED])
{
    for (int i = 0; i < NAMED; i++) {
        (void)close(3 + i);
        if (saved[i] >= 0) {
            assert_int_equal(dup3(saved[i], 3 + i, O_CLOEXEC), 3 + i);
            (void)close(saved[i]);
        }
    }
}

static void test_descriptors_are_found_by_their_names(void **state)
{
    (void)state;
    char own_pid[32];
    int saved[NAMED];
    (void)snprintf(own_pid, sizeof own_pid, "%d", (int)getpid());
    occupy(saved);
    static const struct {
        const char *count, *names;
        int a, b; // what the names a and b stand for
    } rows[] = {
        {"2", "a:b", 3, 4},       {"3", "x:b:a", 5, 4},  {"1", "a:b", 3, -1},
        {"2", "a", 3, -1},        {"2", ":a", 4, -1},    {"2", "a:a", 3, -1},
        {"2", "ab:ba", -1, -1},   {"0", "a:b", -1, -1},  {"2", "", -1, -1},
        {"2x", "a:b", -1, -1},    {"-1", "a:b", -1, -1}, {"", "a:b", -1, -1},
        {NULL, "a:b", -1, -1},    {"2", NULL, -1, -1},   {"99999999999999999999", "a:b", -1, -1},
        {"1000000", "a:b", 3, 4},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        set_environment(i % 2 == 0 ? own_pid : NULL, rows[i].count, rows[i].names);
        inherited_init();
        assert_null(getenv("LISTEN_PID"));
        assert_null(getenv("LISTEN_FDS"));
        assert_null(getenv("LISTEN_FDNAMES"));
        if (find_name("a") != rows[i].a || find_name("b") != rows[i].b)
            fail_msg("row %zu", i);
    }
    static const char *const others[] = {"1", "x", "", "99999999999999999999"};
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++) {
        set_environment(others[i], "2", "a:b");
        inherited_init();
        assert_int_equal(find_name("a"), -1);
        assert_null(getenv("LISTEN_FDNAMES"));
    }
    assert_int_equal(fcntl(3, F_GETFD), FD_CLOEXEC);
    give_back(saved);
}

static void test_what_is_no_inherited_stream_socket_is_refused(void **state)
{
    (void)state;
    int datagram = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), file = open("/dev/null", O_RDONLY | O_CLOEXEC),
        fd = -7;
    inherited_init();
    int later = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); // our own, not handed over
    const int wrong[] = {datagram, file, later, 99999};
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        struct address address = number(wrong[i]);
        struct error error = ERROR_INIT;
        assert_false(inherited_find(&address, &fd, &error));
        assert_error(&error, ERROR_INVALID, "was not inherited, or is not a stream socket");
        assert_false(inherited_lend(&address, &fd, NULL));
        assert_int_equal(fd, -7);
    }
    (void)close(datagram);
    (void)close(file);
    (void)close(later);
}

static void test_a_stream_is_lent_to_one_at_a_time(void **state)
{
    (void)state;
    int pair[2], fd = -1;
    struct error error = ERROR_INIT;
    rig_unix_pair(pair);
    socket_set_blocking(pair[0], false);
    inherited_init();
    struct address address = number(pair[0]);
    assert_true(inherited_find(&address, &fd, &error));
    assert_int_equal(fd, pair[0]);
    assert_true(inherited_lend(&address, &fd, &error));
    assert_int_equal(fd, pair[0]);
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    assert_false(inherited_lend(&address, &fd, &error));
    assert_error(&error, ERROR_REFUSED, "in use");
    error = ERROR_INIT;
    assert_true(inherited_find(&address, &fd, &error)); // it is there, all the same

    inherited_return(fd, false);
    assert_true(inherited_lend(&address, &fd, &error));
    inherited_return(fd, true);
    char byte;
    assert_int_equal(read(pair[1], &byte, 1), 0); // closed

    // Whatever gets the number next is not what was handed over.
    int other[2];
    rig_unix_pair(other);
    assert_int_equal(other[0], pair[0]);
    assert_false(inherited_find(&address, &fd, &error));
    assert_error(&error, ERROR_REFUSED, "used up");
    error = ERROR_INIT;
    assert_false(inherited_lend(&address, &fd, &error));
    assert_error(&error, ERROR_REFUSED, "used up");
    (void)close(pair[1]);
    (void)close(other[0]);
    (void)close(other[1]);
}

static void test_a_number_and_a_name_share_one_loan(void **state)
{
    (void)state;
    int pair[2], saved[NAMED], fd = -1, same = -1;
    occupy(saved);
    rig_unix_pair(pair);
    assert_int_equal(dup3(pair[0], 4, O_CLOEXEC), 4);
    set_environment(NULL, "2", "other:db");
    inherited_init();
    struct address by_number = rig_address("fd://4", ADDRESS_TO_CONNECT),
                   by_name = rig_address("fd://db", ADDRESS_TO_CONNECT);
    struct error error = ERROR_INIT;
    assert_true(inherited_lend(&by_name, &fd, &error));
    assert_int_equal(fd, 4);
    assert_false(inherited_lend(&by_number, &same, &error));
    assert_error(&error, ERROR_REFUSED, "in use");
    inherited_return(fd, false);
    assert_true(inherited_lend(&by_number, &same, NULL));
    assert_false(inherited_lend(&by_name, &fd, NULL));
    inherited_return(same, false);
    give_back(saved);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void test_a_stream_that_is_over_is_not_lent(void **state)
{
    (void)state;
    int ended[2], reset[2], pending[2], fd = -1;
    rig_pair(ended);
    rig_pair(reset);
    rig_pair(pending);
    inherited_init();
    (void)close(ended[1]);
    rig_await(ended[0], POLLIN);
    socket_reset(reset[1]);
    rig_await(reset[0], POLLIN);
    rig_write(pending[1], "a greeting");
    (void)close(pending[1]); // its data comes before its end
    rig_await(pending[0], POLLRDHUP);

    const int over[] = {ended[0], reset[0]};
    for (size_t i = 0; i < ARRAY_LENGTH(over); i++) {
        struct address address = number(over[i]);
        struct error error = ERROR_INIT;
        assert_false(inherited_lend(&address, &fd, &error));
        assert_error(&error, ERROR_REFUSED, "its peer has ended the connection");
        assert_int_equal(fcntl(over[i], F_GETFD), -1);
        error = ERROR_INIT;
        assert_false(inherited_lend(&address, &fd, &error));
        assert_error(&error, ERROR_REFUSED, "used up");
    }
    struct address address = number(pending[0]);
    assert_true(inherited_lend(&address, &fd, NULL));
    inherited_return(fd, true);
}

static void test_listening_and_unconnected_sockets_are_not_lent(void **state)
{
    (void)state;
    struct endpoint bound;
    int listening = rig_listen("127.0.0.1:0", &bound), unconnected = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
        fd = -1;
    inherited_init();
    assert_true(inherited_is_listening(listening));
    assert_false(inherited_is_listening(unconnected));
    struct address address = number(listening);
    struct error error = ERROR_INIT;
    assert_false(inherited_lend(&address, &fd, &error));
    assert_error(&error, ERROR_INVALID, "is a listening socket, not a connection");
    address = number(unconnected);
    error = ERROR_INIT;
    assert_false(inherited_lend(&address, &fd, &error));
    assert_int_equal(error.code, ERROR_REFUSED);
    (void)close(listening);
    (void)close(unconnected);
}

static void test_a_listening_socket_is_taken_once(void **state)
{
    (void)state;
    struct endpoint bound;
    int listening = rig_listen("127.0.0.1:0", &bound), fd = -1;
    inherited_init();
    struct address address = number(listening);
    struct error error = ERROR_INIT;
    assert_true(inherited_take(&address, &fd, &error));
    assert_int_equal(fd, listening);
    assert_false(inherited_take(&address, &fd, &error));
    assert_error(&error, ERROR_REFUSED, "in use");
    inherited_return(fd, false);
    assert_true(inherited_take(&address, &fd, NULL));
    inherited_return(fd, true);
    assert_false(inherited_take(&address, &fd, NULL));
    assert_int_equal(fcntl(listening, F_GETFD), -1);
    inherited_return(98765, true); // not known, and not closed
}

static void test_the_first_error_stays(void **state)
{
    (void)state;
    struct address address = number(99999);
    struct error error = failure(ERROR_TIMEOUT, "first");
    int fd;
    inherited_init();
    assert_false(inherited_find(&address, &fd, &error));
    assert_error(&error, ERROR_TIMEOUT, "first");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptors_are_found_by_their_names),
        cmocka_unit_test(test_what_is_no_inherited_stream_socket_is_refused),
        cmocka_unit_test(test_a_stream_is_lent_to_one_at_a_time),
        cmocka_unit_test(test_a_number_and_a_name_share_one_loan),
        cmocka_unit_test(test_a_stream_that_is_over_is_not_lent),
        cmocka_unit_test(test_listening_and_unconnected_sockets_are_not_lent),
        cmocka_unit_test(test_a_listening_socket_is_taken_once),
        cmocka_unit_test(test_the_first_error_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
