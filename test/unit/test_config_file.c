// Where a configuration's bytes come from: files, pipes whose writers are early, late, slow or never there, and what is
// neither.

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bitflow/base/clock.h"
#include "config/config_file.h"
#include "fake_time.h"

static char directory[] = "/tmp/bitflow-config-XXXXXX";
static char path[sizeof directory + sizeof "/pipe"];

static int make_pipe_file(void **state)
{
    (void)state;
    memcpy(directory + sizeof directory - sizeof "XXXXXX", "XXXXXX", sizeof "XXXXXX");
    if (mkdtemp(directory) == NULL)
        return -1;
    (void)snprintf(path, sizeof path, "%s/pipe", directory);
    return mkfifo(path, 0600);
}

static int remove_pipe_file(void **state)
{
    (void)state;
    return unlink(path) == 0 ? rmdir(directory) : -1;
}

static void assert_reads(const char *from, const char *expected)
{
    char buffer[64];
    size_t length = 0;
    struct error error = ERROR_INIT;
    if (!config_file_read(from, buffer, sizeof buffer, &length, &error))
        fail_msg("%s", error.text);
    assert_int_equal(length, strlen(expected));
    assert_memory_equal(buffer, expected, length);
}

static void assert_fails(const char *from, enum error_code code, const char *text)
{
    char buffer[64];
    size_t length = 77;
    struct error error = ERROR_INIT;
    assert_false(config_file_read(from, buffer, sizeof buffer, &length, &error));
    assert_int_equal(error.code, code);
    assert_string_equal(error.text, text);
    assert_int_equal(length, 77);
}

// The path of a descriptor, as a shell's <(command) passes it.
static const char *path_of(int fd, char out[32])
{
    (void)snprintf(out, 32, "/dev/fd/%d", fd);
    return out;
}

static void test_a_pipe_is_read_to_its_end(void **state)
{
    (void)state;
    int ends[2];
    char at[32];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(write(ends[1], "text", 4), 4);
    (void)close(ends[1]);
    assert_reads(path_of(ends[0], at), "text");
    assert_reads(at, ""); // as after SIGHUP: it has all been read
    (void)close(ends[0]);
}

static void *write_slowly(void *argument)
{
    (void)argument;
    int fd = open(path, O_WRONLY | O_CLOEXEC); // waits for the reader
    for (int i = 0; i < 5; i++) {
        struct timespec pause = {.tv_nsec = 2000000};
        (void)nanosleep(&pause, NULL);
        if (write(fd, "piece ", 6) != 6)
            abort(); // on a thread no test can be failed
    }
    (void)close(fd);
    return NULL;
}

static void test_a_slow_writer_of_a_named_pipe_is_waited_for(void **state)
{
    (void)state;
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, write_slowly, NULL), 0);
    assert_reads(path, "piece piece piece piece piece ");
    assert_int_equal(pthread_join(writer, NULL), 0);
}

static void test_what_a_writer_left_in_a_named_pipe_is_read(void **state)
{
    (void)state;
    int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int writer = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(reader >= 0 && writer >= 0);
    assert_int_equal(write(writer, "text", 4), 4);
    (void)close(writer);
    assert_reads(path, "text");
    (void)close(reader);
}

static void test_a_silent_pipe_is_given_up_after_five_seconds(void **state)
{
    (void)state;
    static const char nothing[] = "cannot read: nothing more came within 5 s";
    int ends[2];
    char at[32];
    int64_t start = clock_now();
    atomic_store(&fake_time_flies, true);
    assert_fails(path, ERROR_TIMEOUT, nothing); // nobody writes
    assert_true(clock_now() - start >= 5 * NS_PER_S);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(write(ends[1], "half a te", 9), 9);
    assert_fails(path_of(ends[0], at), ERROR_TIMEOUT, nothing); // its writer hangs
    atomic_store(&fake_time_flies, false);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void test_no_more_is_read_than_fits(void **state)
{
    (void)state;
    int ends[2];
    char at[32], buffer[3];
    size_t length;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(write(ends[1], "text", 4), 4);
    assert_true(config_file_read(path_of(ends[0], at), buffer, sizeof buffer, &length, NULL)); // and is not waited for
    assert_int_equal(length, 3);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void test_what_is_neither_file_nor_pipe_is_refused(void **state)
{
    (void)state;
    assert_fails("/dev/zero", ERROR_INVALID, "cannot read: it is a device, not a file or a pipe");
    assert_fails(directory, ERROR_SYSTEM, "cannot read: Is a directory");
    assert_fails("/nowhere/at/all", ERROR_SYSTEM, "cannot read: No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_pipe_is_read_to_its_end),
        cmocka_unit_test_setup_teardown(test_a_slow_writer_of_a_named_pipe_is_waited_for, make_pipe_file,
                                        remove_pipe_file),
        cmocka_unit_test_setup_teardown(test_what_a_writer_left_in_a_named_pipe_is_read, make_pipe_file,
                                        remove_pipe_file),
        cmocka_unit_test_setup_teardown(test_a_silent_pipe_is_given_up_after_five_seconds, make_pipe_file,
                                        remove_pipe_file),
        cmocka_unit_test(test_no_more_is_read_than_fits),
        cmocka_unit_test_setup_teardown(test_what_is_neither_file_nor_pipe_is_refused, make_pipe_file,
                                        remove_pipe_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
