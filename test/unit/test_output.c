// Writing to what others gave us: never waiting, and never changing it for them.

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/output.h"

static char line[PIPE_BUF];

// Writes lines until one is refused; returns how many were taken.
static int fill(const struct output *output, size_t length)
{
    int taken = 0;
    while (output_write(output, line, length) == (ssize_t)length)
        taken++;
    assert_int_equal(errno, EAGAIN);
    return taken;
}

static void assert_waits(int fd)
{
    assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
}

static void test_a_pipe_of_our_own_is_opened_once_more(void **state)
{
    (void)state;
    int ends[2];
    struct output output;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    output_init(&output, ends[1]);
    assert_true(output.is_own && !output.may_wait && output.fd != ends[1]);
    assert_true(fill(&output, sizeof line) > 0);
    assert_false(output_is_ready(&output));
    assert_waits(ends[1]);
    output_release(&output);
    assert_int_equal(output.fd, -1);
    assert_true(fcntl(ends[1], F_GETFD) >= 0);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

// As the pipe of a container's engine, which belongs to root: this is what output_init() makes of it.
static void test_a_pipe_that_cannot_be_opened_is_not_waited_for_either(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    const struct output output = {.fd = ends[1], .may_wait = true};
    int taken = fill(&output, sizeof line);
    assert_true(taken > 0);
    assert_false(output_is_ready(&output));
    assert_waits(ends[1]);
    assert_int_equal(read(ends[0], line, sizeof line), sizeof line);
    assert_int_equal(fill(&output, sizeof line), 1);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void test_a_socket_takes_what_it_can(void **state)
{
    (void)state;
    int ends[2];
    struct output output;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    output_init(&output, ends[1]);
    assert_true(output.is_socket && !output.is_own && output.fd == ends[1]);
    assert_true(fill(&output, 100) > 0);
    assert_waits(ends[1]);
    (void)close(ends[0]);
    assert_int_equal(output_write(&output, line, 100), -1); // no SIGPIPE
    assert_int_equal(errno, EPIPE);
    (void)close(ends[1]);
}

// Its place in the file is the parent's, too.
static void test_a_regular_file_is_used_as_it_is(void **state)
{
    (void)state;
    struct output output;
    int file = memfd_create("file", MFD_CLOEXEC);
    assert_int_equal(write(file, "before ", 7), 7);
    output_init(&output, file);
    assert_true(output.fd == file && !output.may_wait);
    assert_int_equal(output_write(&output, "after", 5), 5);
    char text[16] = "";
    assert_int_equal(pread(file, text, sizeof text, 0), 12);
    assert_memory_equal(text, "before after", 12);
    output_release(&output);
    assert_true(fcntl(file, F_GETFD) >= 0);
    (void)close(file);
}

static void test_two_words_are_descriptors(void **state)
{
    (void)state;
    static const char *const others[] = {"", "stdin", "STDOUT", "stdout ", "./stdout", "/dev/stdout", "stderr.json"};
    assert_int_equal(output_standard("stdout"), STDOUT_FILENO);
    assert_int_equal(output_standard("stderr"), STDERR_FILENO);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        assert_int_equal(output_standard(others[i]), -1);
}

int main(void)
{
    memset(line, '.', sizeof line);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_pipe_of_our_own_is_opened_once_more),
        cmocka_unit_test(test_a_pipe_that_cannot_be_opened_is_not_waited_for_either),
        cmocka_unit_test(test_a_socket_takes_what_it_can),
        cmocka_unit_test(test_a_regular_file_is_used_as_it_is),
        cmocka_unit_test(test_two_words_are_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
