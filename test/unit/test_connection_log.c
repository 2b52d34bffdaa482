// The connection log: what becomes of records when the file is full, gone, moved, or a FIFO that nobody reads. What
// they look like: test_connection_record.c.

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/log.h"
#include "bitflow/telemetry/connection_log.h"
#include "proxy/connection/connection_internal.h"

#define PATH_SIZE 128

static char directory[PATH_SIZE];
static int application_log; // a memory file that the application log is sent to

static int setup(void **state)
{
    (void)state;
    (void)snprintf(directory, sizeof directory, "/tmp/bitflow-test-XXXXXX");
    if (mkdtemp(directory) == NULL)
        return -1;
    application_log = memfd_create("log", MFD_CLOEXEC);
    log_set_descriptor(application_log);
    log_set_level(LOG_WARN);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    log_set_level(LOG_OFF);
    log_set_descriptor(STDERR_FILENO);
    (void)close(application_log);
    char path[PATH_SIZE * 2];
    static const char *const names[] = {"log", "log.1", "fifo", "sub/log", "sub", "moved/log", "moved"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        (void)remove(path);
    }
    return rmdir(directory);
}

static const char *path_of(const char *name)
{
    static char path[PATH_SIZE * 2];
    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

// A whole file as a string; freed by the caller.
static char *content_of(int fd)
{
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    char *content = calloc(1, (size_t)status.st_size + 1);
    assert_non_null(content);
    assert_int_equal(pread(fd, content, (size_t)status.st_size, 0), status.st_size);
    return content;
}

static char *content(const char *name)
{
    int fd = open(path_of(name), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    char *text = content_of(fd);
    (void)close(fd);
    return text;
}

static void assert_content(const char *name, const char *expected)
{
    char *text = content(name);
    assert_string_equal(text, expected);
    free(text);
}

static int occurrences(const char *text, const char *part)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, part)) != NULL; at++)
        count++;
    return count;
}

static void assert_said(const char *part, int times)
{
    char *text = content_of(application_log);
    if (occurrences(text, part) != times)
        fail_msg("%s: %d times wanted in: %s", part, times, text);
    free(text);
}

static struct connection_log *open_log(const char *name)
{
    struct error error = ERROR_INIT;
    struct connection_log *log = connection_log_open(path_of(name), &error);
    if (log == NULL)
        fail_msg("%s", error.text);
    return log;
}

// Of a client that was rejected.
static void write_record(struct connection_log *log, uint64_t id)
{
    static struct proxy proxy = {.name = "web"};
    static struct generation generation = {.proxy = &proxy};
    struct connection connection = {.id = id, .generation = &generation};
    connection.failure.reason = CLOSE_CONNECTION_LIMIT;
    const struct connection_sockets sockets = {.client = "192.0.2.1:1", .local = "192.0.2.2:80"};
    struct json_line line;
    connection_record_render(&connection, CONNECTION_REJECTED, &sockets, 0, 0, &line);
    connection_log_write(log, &line);
    json_line_release(&line);
}

// test_connection_record.c shows that this is what a record looks like.
#define NO_TIMINGS                                                                                             \
    "\"timings\":{\"wait_ms\":null,\"admit_ms\":null,\"client_header_ms\":null,\"client_hello_ms\":null,"      \
    "\"client_handshake_ms\":null,\"dial_ms\":null,\"resolve_ms\":null,\"connect_ms\":null,\"socks_ms\":null," \
    "\"target_handshake_ms\":null,\"relay_ms\":null,\"first_byte_ms\":null}"
#define RECORD(id)                                                                                        \
    "{\"event\":\"rejected\",\"id\":" #id ",\"proxy\":\"web\",\"time\":\"1970-01-01T00:00:00.000Z\","     \
    "\"start\":\"1970-01-01T00:00:00.000Z\",\"end\":\"1970-01-01T00:00:00.000Z\","                        \
    "\"client\":\"192.0.2.1:1\",\"local\":\"192.0.2.2:80\",\"proxy_header\":null,\"sni\":null,"           \
    "\"client_tls\":null,\"client_identity\":null,\"target\":null,\"target_tls\":null,"                   \
    "\"target_identity\":null,\"attempts\":0,\"resolve_ms\":0.0,"                                         \
    "\"connect_ms\":0.0,\"total_ms\":0.0," NO_TIMINGS ",\"bytes_from_client\":0,\"bytes_from_target\":0," \
    "\"client_tcp\":null,\"target_tcp\":null,\"phase\":\"accepting\",\"step\":null,"                      \
    "\"reason\":\"connection_limit\",\"ended_by\":\"proxy\",\"error\":null}\n"

static void test_the_same_path_is_one_log(void **state)
{
    (void)state;
    struct connection_log *first = open_log("log");
    struct connection_log *second = open_log("log");
    struct connection_log *other = open_log("log.1");
    struct connection_log *third = open_log("log");
    assert_ptr_equal(first, second);
    assert_ptr_equal(first, third);
    assert_ptr_not_equal(first, other);
    connection_log_close(&first);
    connection_log_close(&third);
    write_record(second, 1);
    connection_log_close(&second);
    write_record(other, 2);
    connection_log_close(&other);
    assert_content("log", RECORD(1));
    assert_content("log.1", RECORD(2));
    // Opened again, it is appended to.
    first = open_log("log");
    write_record(first, 3);
    connection_log_close(&first);
    assert_content("log", RECORD(1) RECORD(3));
}

static void test_a_rotated_log_is_written_anew(void **state)
{
    (void)state;
    char rotated[PATH_SIZE * 2];
    (void)snprintf(rotated, sizeof rotated, "%s", path_of("log.1"));
    struct connection_log *log = open_log("log");
    write_record(log, 1);
    assert_int_equal(rename(path_of("log"), rotated), 0);
    write_record(log, 2); // still to the old one
    assert_true(connection_log_reopen_all());
    write_record(log, 3);
    connection_log_close(&log);
    assert_content("log.1", RECORD(1) RECORD(2));
    assert_content("log", RECORD(3));
    assert_said("level=", 0);
}

static void test_a_vanished_directory_keeps_the_old_file(void **state)
{
    (void)state;
    char moved[PATH_SIZE * 2];
    (void)snprintf(moved, sizeof moved, "%s", path_of("moved"));
    assert_int_equal(mkdir(path_of("sub"), 0700), 0);
    struct connection_log *log = open_log("sub/log");
    struct connection_log *healthy = open_log("log");
    assert_int_equal(rename(path_of("sub"), moved), 0);
    assert_int_equal(unlink(path_of("log")), 0);
    assert_false(connection_log_reopen_all());
    write_record(log, 1);
    write_record(healthy, 2); // the other one was re-opened all the same
    assert_content("moved/log", RECORD(1));
    assert_content("log", RECORD(2));
    assert_said("the old connection log stays in use", 1);
    assert_said("No such file or directory", 1);
    connection_log_close(&log);
    connection_log_close(&healthy);
}

static void test_what_cannot_be_opened_is_an_error(void **state)
{
    (void)state;
    struct error error = ERROR_INIT;
    assert_null(connection_log_open(path_of("sub/log"), &error));
    assert_int_equal(error.os_errno, ENOENT);
    assert_non_null(strstr(error.text, "sub/log"));
    error = ERROR_INIT;
    assert_null(connection_log_open(directory, &error));
    assert_int_equal(error.os_errno, EISDIR);
}

static void test_a_fifo_without_a_reader_is_an_error(void **state)
{
    (void)state;
    struct error error = ERROR_INIT;
    assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
    assert_null(connection_log_open(path_of("fifo"), &error));
    assert_int_equal(error.os_errno, ENXIO);
}

// A reader that is slow, then goes on, then leaves.
static void test_a_full_fifo_loses_records_and_waits_for_nobody(void **state)
{
    (void)state;
    static char bytes[1 << 20];
    assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
    int reader = open(path_of("fifo"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(reader >= 0);
    assert_true(fcntl(reader, F_SETPIPE_SZ, 4096) >= 0);
    struct connection_log *log = open_log("fifo");
    for (uint64_t id = 0; id < 100; id++)
        write_record(log, id);
    assert_said("connection log records are being lost", 1);
    ssize_t got = read(reader, bytes, sizeof bytes - 1);
    assert_true(got > 0 && got <= 4096);
    bytes[got] = '\0';
    assert_int_equal(bytes[got - 1], '\n'); // whole lines only
    int written = occurrences(bytes, "\n");
    write_record(log, 100);
    char lost[32];
    (void)snprintf(lost, sizeof lost, "lost=%d", 100 - written);
    assert_said("the connection log is written again", 1);
    assert_said(lost, 1);
    (void)close(reader);
    write_record(log, 101); // EPIPE, not SIGPIPE's death
    assert_said("connection log records are being lost", 2);
    connection_log_close(&log);
}

// Standard output is `fd` from now on. Returns what it was.
static int replace_standard_output(int fd)
{
    (void)fflush(stdout);
    int before = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    assert_true(before >= 0 && dup2(fd, STDOUT_FILENO) == STDOUT_FILENO);
    return before;
}

static void restore_standard_output(int before)
{
    (void)fflush(stdout);
    assert_int_equal(dup2(before, STDOUT_FILENO), STDOUT_FILENO);
    (void)close(before);
}

// A socket cannot be opened anew, neither at the start nor by a rotation.
static void test_standard_output_is_written_as_it_is(void **state)
{
    (void)state;
    int ends[2];
    char text[8192];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    int before = replace_standard_output(ends[1]);
    struct error error = ERROR_INIT;
    struct connection_log *log = connection_log_open("stdout", &error);
    struct connection_log *same = connection_log_open("stdout", &error);
    bool is_reopened = log != NULL && connection_log_reopen_all();
    if (log != NULL)
        write_record(log, 1);
    connection_log_close(&same);
    connection_log_close(&log);
    bool is_open = fcntl(STDOUT_FILENO, F_GETFD) >= 0;
    restore_standard_output(before);
    assert_true(is_reopened && is_open);
    ssize_t got = recv(ends[0], text, sizeof text - 1, MSG_DONTWAIT);
    assert_true(got > 0);
    text[got] = '\0';
    assert_string_equal(text, RECORD(1));
    assert_int_equal(access("stdout", F_OK), -1); // no file of that name
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void test_standard_output_that_cannot_be_written_is_an_error(void **state)
{
    (void)state;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    int before = replace_standard_output(fd);
    struct error error = ERROR_INIT;
    struct connection_log *log = connection_log_open("stdout", &error);
    restore_standard_output(before);
    assert_null(log);
    assert_int_equal(error.os_errno, EBADF);
    assert_non_null(strstr(error.text, "stdout"));
    (void)close(fd);
}

static void test_a_full_device_is_told_of_once(void **state)
{
    (void)state;
    struct error error = ERROR_INIT;
    struct connection_log *log = connection_log_open("/dev/full", &error);
    assert_non_null(log);
    for (uint64_t id = 0; id < 5; id++)
        write_record(log, id);
    assert_said("connection log records are being lost", 1); // once, not for each
    assert_said("No space left on device", 1);
    connection_log_close(&log);
}

// Room for `bytes` in any file from now on; SIZE_MAX: as before.
static void limit_files(size_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes == SIZE_MAX ? limit.rlim_max : bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

// A file that may not grow any more is cut short in the middle of a record, as a full disk does it. The application
// log's memory file is limited too, so what it says is looked at through a pipe.
static void write_torn_records(struct connection_log *log, int pipe_end)
{
    log_set_descriptor(pipe_end);
    limit_files(sizeof RECORD(1) - 1 + 10);
    write_record(log, 1);
    write_record(log, 2); // ten bytes of it fit
    write_record(log, 3); // nothing does
    limit_files(SIZE_MAX);
    log_set_descriptor(application_log);
}

static void read_pipe(int fd, char *text, size_t size)
{
    ssize_t got = read(fd, text, size - 1);
    assert_true(got >= 0);
    text[got] = '\0';
}

static void test_a_torn_line_is_ended_before_the_next(void **state)
{
    (void)state;
    int ends[2];
    char said[LOG_LINE_MAX];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    struct connection_log *log = open_log("log");
    write_torn_records(log, ends[1]);
    read_pipe(ends[0], said, sizeof said);
    assert_int_equal(occurrences(said, "connection log records are being lost"), 1);
    assert_content("log", RECORD(1) "{\"event\":\"");
    write_record(log, 4);
    write_record(log, 5);
    assert_content("log", RECORD(1) "{\"event\":\"\n" RECORD(4) RECORD(5));
    assert_said("the connection log is written again", 1);
    assert_said("lost=2", 1);
    connection_log_close(&log);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

// Re-opening a path that still leads to the same file does not mend the torn line; another file has none.
static void test_reopening_mends_a_torn_line_of_the_same_file(void **state)
{
    (void)state;
    int ends[2];
    char rotated[PATH_SIZE * 2];
    (void)snprintf(rotated, sizeof rotated, "%s", path_of("log.1"));
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    struct connection_log *log = open_log("log");
    write_torn_records(log, ends[1]);
    assert_true(connection_log_reopen_all());
    write_record(log, 4);
    assert_content("log", RECORD(1) "{\"event\":\"\n" RECORD(4));
    connection_log_close(&log);
    assert_int_equal(unlink(path_of("log")), 0);

    log = open_log("log");
    write_torn_records(log, ends[1]);
    assert_int_equal(rename(path_of("log"), rotated), 0);
    assert_true(connection_log_reopen_all());
    write_record(log, 4);
    assert_content("log", RECORD(4));
    connection_log_close(&log);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

#define WRITERS 8
#define RECORDS_EACH 400

struct writer {
    struct connection_log *log;
    uint64_t first_id;
    pthread_t thread;
};

static void *write_records(void *argument)
{
    struct writer *writer = argument;
    for (uint64_t i = 0; i < RECORDS_EACH; i++)
        write_record(writer->log, writer->first_id + i);
    return NULL;
}

// Counts each id of the file's records; every line must be one.
static void count_ids(const char *name, unsigned char *seen)
{
    char *text = content(name);
    char *rest = text;
    for (char *end; (end = strchr(rest, '\n')) != NULL; rest = end + 1) {
        json_error_t error;
        *end = '\0';
        json_t *object = json_loads(rest, JSON_REJECT_DUPLICATES, &error);
        if (object == NULL)
            fail_msg("%s: %s", error.text, rest);
        json_int_t id = json_integer_value(json_object_get(object, "id"));
        assert_true(id >= 0 && id < WRITERS * RECORDS_EACH);
        seen[id]++;
        json_decref(object);
    }
    assert_int_equal(*rest, '\0');
    free(text);
}

// Threads write through the same log while its file is rotated away from under them.
static void test_lines_never_mix_nor_get_lost(void **state)
{
    (void)state;
    static unsigned char seen[WRITERS * RECORDS_EACH];
    struct writer writers[WRITERS];
    char rotated[PATH_SIZE * 2];
    (void)snprintf(rotated, sizeof rotated, "%s", path_of("log.1"));
    memset(seen, 0, sizeof seen);
    for (size_t i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.log = open_log("log"), .first_id = i * RECORDS_EACH};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_records, &writers[i]), 0);
    }
    assert_int_equal(rename(path_of("log"), rotated), 0);
    assert_true(connection_log_reopen_all());
    for (size_t i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
        connection_log_close(&writers[i].log);
    }
    count_ids("log", seen);
    count_ids("log.1", seen);
    for (size_t i = 0; i < sizeof seen; i++)
        assert_int_equal(seen[i], 1);
}

int main(void)
{
    (void)signal(SIGXFSZ, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_same_path_is_one_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_rotated_log_is_written_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_vanished_directory_keeps_the_old_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_opened_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(test_standard_output_is_written_as_it_is, setup, teardown),
        cmocka_unit_test_setup_teardown(test_standard_output_that_cannot_be_written_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_fifo_without_a_reader_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_full_fifo_loses_records_and_waits_for_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_full_device_is_told_of_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_torn_line_is_ended_before_the_next, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reopening_mends_a_torn_line_of_the_same_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lines_never_mix_nor_get_lost, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
