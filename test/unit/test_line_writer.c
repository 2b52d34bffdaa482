// The writer of lines: what is written as it comes, what is gathered, in which order it arrives, and when it must.

#include <fcntl.h>
#include <limits.h>
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
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/crash.h"
#include "bitflow/base/log.h"
#include "bitflow/telemetry/connection_log.h"
#include "telemetry/line_writer.h"

#define CONTENT_SIZE ((size_t)1 << 20)
#define WAIT_TIME (10 * NS_PER_S)

static struct line_writer *writer;
static int file; // a memory file, which the writer has, too
static char content[CONTENT_SIZE];

static int new_file(void)
{
    int fd = memfd_create("lines", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_APPEND), 0);
    return fd;
}

static void open_writer(int fd)
{
    writer = calloc(1, sizeof *writer);
    assert_non_null(writer);
    struct output output;
    output_init_own(&output, fd);
    line_writer_init(writer, "the log", &output);
}

static void close_writer(void)
{
    line_writer_release(writer);
    free(writer);
}

static int setup(void **state)
{
    (void)state;
    file = new_file();
    open_writer(file);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close_writer();
    return close(file);
}

// "NUMBER\n", filled up to `length` with dots before the newline.
static void write_long(int number, size_t length)
{
    static _Thread_local char line[2 * LINE_WRITER_ROOM];
    int digits = snprintf(line, sizeof line, "\n%d", number);
    size_t end = (size_t)digits;
    while (end < length)
        line[end++] = '.';
    line[end++] = '\n';
    line_writer_write(writer, line + 1, end - 1);
}

static void write_lines(int from, int to)
{
    for (int number = from; number <= to; number++)
        write_long(number, 1);
}

static size_t size_of(int fd)
{
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    return (size_t)status.st_size;
}

static const char *content_of(int fd)
{
    size_t size = size_of(fd);
    assert_true(size < sizeof content);
    assert_int_equal(pread(fd, content, size, 0), size);
    content[size] = '\0';
    return content;
}

// That the text is the lines of these numbers; returns what follows.
static const char *expect_lines(const char *text, int from, int to)
{
    for (int number = from; number <= to; number++) {
        char *end;
        if (strtol(text, &end, 10) != number)
            fail_msg("line %d wanted, not: %.40s", number, text);
        end += strspn(end, ".");
        assert_int_equal(*end, '\n');
        text = end + 1;
    }
    return text;
}

static void assert_lines(int fd, int from, int to)
{
    assert_string_equal(expect_lines(content_of(fd), from, to), "");
}

static bool is_burst(void)
{
    mutex_lock(&writer->lock);
    bool is = writer->is_burst;
    mutex_unlock(&writer->lock);
    return is;
}

static uint64_t lost(void)
{
    mutex_lock(&writer->lock);
    uint64_t count = writer->lost;
    mutex_unlock(&writer->lock);
    return count;
}

#define RARE (LINE_WRITER_BURST - 1)

static void test_rare_lines_are_written_as_they_come(void **state)
{
    (void)state;
    for (int number = 1; number <= RARE; number++) {
        write_lines(number, number);
        assert_lines(file, 1, number);
    }
    assert_false(is_burst());
}

// Nothing comes after them.
static void test_the_lines_of_a_burst_are_written_without_another(void **state)
{
    (void)state;
    write_lines(1, 200);
    int64_t deadline = clock_now() + WAIT_TIME;
    while (strstr(content_of(file), "\n200\n") == NULL && deadline_left(deadline) > 0)
        (void)poll(NULL, 0, 1);
    assert_lines(file, 1, 200);
}

static int compare_times(const void *a, const void *b)
{
    const int64_t *first = a, *second = b;
    return *first < *second ? -1 : *first > *second;
}

// Half of them on any machine that gives the flusher a processor now and then.
static void test_lines_wait_a_tenth_of_a_second_at_most(void **state)
{
    (void)state;
    enum { BURSTS = 9 };
    int64_t times[BURSTS];
    for (int i = 0; i < BURSTS; i++) {
        size_t before = size_of(file);
        write_lines(1, 50);
        int64_t since = clock_now(), deadline = since + WAIT_TIME;
        while (size_of(file) < before + 141 && deadline_left(deadline) > 0) // 9 lines of 2 bytes, 41 of 3
            (void)poll(NULL, 0, 1);
        times[i] = clock_now() - since;
    }
    qsort(times, BURSTS, sizeof *times, compare_times);
    assert_true(times[BURSTS / 2] <= 100 * NS_PER_MS);
}

static void test_after_a_burst_a_rare_line_is_written_as_it_comes(void **state)
{
    (void)state;
    write_lines(1, 50);
    assert_true(is_burst());
    int64_t deadline = clock_now() + WAIT_TIME;
    while (is_burst() && deadline_left(deadline) > 0)
        (void)poll(NULL, 0, 1);
    assert_lines(file, 1, 50);
    write_lines(51, 51);
    assert_lines(file, 1, 51);
}

static void test_a_full_buffer_is_written_by_who_has_the_next_line(void **state)
{
    (void)state;
    size_t written = 0;
    for (int number = 1; number <= 300; number++) {
        write_long(number, 1000);
        written += 1000;
        assert_true(size_of(file) + LINE_WRITER_ROOM >= written);
    }
    line_writer_flush(writer);
    assert_lines(file, 1, 300);
}

static void test_a_line_longer_than_the_buffer_keeps_its_place(void **state)
{
    (void)state;
    write_lines(1, 20);
    write_long(21, LINE_WRITER_ROOM + 1);
    assert_lines(file, 1, 21);
    write_long(22, LINE_WRITER_ROOM); // fits
    write_lines(23, 40);
    line_writer_flush(writer);
    assert_lines(file, 1, 40);
}

static void test_a_flush_and_writing_through_leave_nothing_in_memory(void **state)
{
    (void)state;
    write_lines(1, 20);
    line_writer_flush(writer);
    assert_lines(file, 1, 20);
    write_lines(21, 40);
    line_writer_write_through(writer);
    assert_lines(file, 1, 40);
    for (int number = 41; number <= 80; number++) {
        write_lines(number, number);
        assert_lines(file, 1, number);
    }
}

static void test_the_end_writes_what_is_left(void **state)
{
    (void)state;
    int own = new_file();
    struct line_writer *outer = writer;
    open_writer(own);
    write_lines(1, 60);
    close_writer();
    writer = outer;
    assert_lines(own, 1, 60);
    (void)close(own);
}

static void test_what_was_gathered_goes_to_the_file_of_before(void **state)
{
    (void)state;
    int next = new_file(), before = dup(file);
    write_lines(1, 30);
    line_writer_replace(writer, next);
    assert_lines(before, 1, 30);
    write_lines(31, 60);
    line_writer_flush(writer);
    assert_lines(before, 1, 30);
    assert_lines(next, 31, 60);
    (void)close(next);
    (void)close(before);
}

// A pipe that keeps each write() apart.
static void test_a_pipe_gets_whole_lines_and_no_more_than_it_takes_at_once(void **state)
{
    (void)state;
    int ends[2];
    struct line_writer *outer = writer;
    assert_int_equal(pipe2(ends, O_CLOEXEC | O_DIRECT | O_NONBLOCK), 0);
    assert_true(fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) >= 0);
    open_writer(ends[1]);
    for (int number = 1; number <= 40; number++)
        write_long(number, 1000);
    close_writer();
    writer = outer;
    int writes = 0, next = 1;
    ssize_t got;
    while ((got = read(ends[0], content, PIPE_BUF)) > 0) {
        assert_true(got % 1000 == 0);
        content[got] = '\0';
        assert_string_equal(expect_lines(content, next, next + (int)(got / 1000) - 1), "");
        next += (int)(got / 1000);
        writes++;
    }
    assert_int_equal(next, 41);
    assert_true(writes >= RARE + 9 && writes < 40); // four lines each, more often where the flusher comes between
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void test_lines_that_a_full_pipe_does_not_take_are_counted(void **state)
{
    (void)state;
    int ends[2];
    struct line_writer *outer = writer;
    uint64_t before = line_writers_lost();
    assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    open_writer(ends[1]);
    write_lines(1, RARE);
    while (write(ends[1], content, 1) == 1)
        continue;
    write_lines(RARE + 1, 30);
    line_writer_flush(writer);
    assert_int_equal(lost(), 30 - RARE);
    write_lines(31, 40); // each is tried by itself
    assert_int_equal(lost(), 40 - RARE);
    assert_int_equal(line_writers_lost() - before, 40 - RARE);
    while (read(ends[0], content, sizeof content) > 0)
        continue;
    write_lines(41, 41); // and so the first that finds room is written
    assert_int_equal(lost(), 0);
    assert_int_equal(read(ends[0], content, sizeof content), 3);
    close_writer();
    writer = outer;
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void limit_files(size_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes == SIZE_MAX ? limit.rlim_max : bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

// As on a disk that is full: lines 1 to 10 fit, and a hundred bytes of the eleventh.
static void test_a_burst_that_is_cut_short_loses_what_did_not_fit(void **state)
{
    (void)state;
    for (int number = 1; number <= 15; number++)
        write_long(number, 1000);
    assert_true(is_burst());
    size_t there = size_of(file); // at least the lines before the burst
    limit_files(there <= 10100 ? 10100 : there);
    line_writer_flush(writer);
    limit_files(SIZE_MAX);
    if (there > 10100) // the flusher was first
        return;
    assert_int_equal(lost(), 5);
    for (int number = 16; number <= 30; number++)
        write_long(number, 1000);
    line_writer_flush(writer);
    const char *rest = expect_lines(content_of(file), 1, 10);
    assert_memory_equal(rest, "11...", 5);
    assert_int_equal(rest[100], '\n'); // and is ended before the next
    assert_string_equal(expect_lines(rest + 101, 16, 30), "");
    assert_int_equal(lost(), 0);
}

#define WRITERS 4
#define LINES_EACH 3000

static void *write_own_lines(void *argument)
{
    const int *number = argument;
    write_lines(*number * LINES_EACH, *number * LINES_EACH + LINES_EACH - 1);
    return NULL;
}

static void test_each_threads_lines_keep_their_order(void **state)
{
    (void)state;
    pthread_t threads[WRITERS];
    int numbers[WRITERS], next[WRITERS], count = 0;
    for (int i = 0; i < WRITERS; i++) {
        numbers[i] = i;
        next[i] = i * LINES_EACH;
        assert_int_equal(pthread_create(&threads[i], NULL, write_own_lines, &numbers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    line_writer_flush(writer);
    (void)content_of(file);
    char *rest = content;
    for (char *end; *rest != '\0'; rest = end + 1, count++) {
        int number = (int)strtol(rest, &end, 10);
        assert_int_equal(*end, '\n');
        assert_true(number >= 0 && number < WRITERS * LINES_EACH);
        assert_int_equal(next[number / LINES_EACH]++, number);
    }
    assert_int_equal(count, WRITERS * LINES_EACH);
}

// Apart from the test, where the analysis knows that the lock is held.
NO_THREAD_SAFETY_ANALYSIS static bool is_had_by(struct mutex *lock, int64_t deadline)
{
    return mutex_lock_by(lock, deadline);
}

static void test_a_lock_that_is_held_is_not_had_by_the_deadline(void **state)
{
    (void)state;
    if (IS_SANITIZED) // gcc 12's ThreadSanitizer does not know pthread_mutex_clocklock()
        skip();
    struct mutex lock = MUTEX_INIT;
    if (!mutex_lock_by(&lock, clock_now())) {
        fail_msg("a free lock was not had");
        return;
    }
    int64_t deadline = clock_now() + 20 * NS_PER_MS;
    assert_false(is_had_by(&lock, deadline));
    assert_true(clock_now() >= deadline);
    mutex_unlock(&lock);
}

// Runs `body` in a process of its own that is to end by SIGABRT.
static void run_aborting(void (*body)(void))
{
    if (IS_SANITIZED)
        skip();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit none = {.rlim_cur = 0};
        (void)setrlimit(RLIMIT_CORE, &none);
        (void)dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
        crash_install();
        body();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static char log_path[64];

static void crash_in_a_burst(void)
{
    struct error error = ERROR_INIT;
    struct connection_log *log = connection_log_open(log_path, &error);
    for (int number = 1; log != NULL && number <= 500; number++) {
        struct json_line line;
        json_line_begin(&line);
        json_line_integer(&line, "id", number);
        json_line_end(&line);
        connection_log_write(log, &line);
        json_line_release(&line);
    }
    abort();
}

static void test_a_crash_writes_what_was_gathered(void **state)
{
    (void)state;
    (void)snprintf(log_path, sizeof log_path, "/proc/self/fd/%d", file);
    run_aborting(crash_in_a_burst);
    const char *text = content_of(file);
    for (int number = 1; number <= 500; number++) {
        char line[32];
        int length = snprintf(line, sizeof line, "{\"id\":%d}\n", number);
        assert_memory_equal(text, line, (size_t)length);
        text += length;
    }
    assert_string_equal(text, "");
}

static void write_through_crashed(void)
{
    line_writer_write_through_crashed(writer, clock_now() + 50 * NS_PER_MS);
}

static void crash_with_the_lock(void)
{
    open_writer(file); // the flusher of the test's own process is not here
    crash_set_last_act(write_through_crashed);
    mutex_lock(&writer->lock);
    abort();
}

static void test_a_crash_with_the_lock_held_ends_all_the_same(void **state)
{
    (void)state;
    run_aborting(crash_with_the_lock);
}

int main(void)
{
    (void)signal(SIGXFSZ, SIG_IGN);
    log_set_level(LOG_OFF);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_rare_lines_are_written_as_they_come),
        TEST(test_the_lines_of_a_burst_are_written_without_another),
        TEST(test_lines_wait_a_tenth_of_a_second_at_most),
        TEST(test_after_a_burst_a_rare_line_is_written_as_it_comes),
        TEST(test_a_full_buffer_is_written_by_who_has_the_next_line),
        TEST(test_a_line_longer_than_the_buffer_keeps_its_place),
        TEST(test_a_flush_and_writing_through_leave_nothing_in_memory),
        TEST(test_the_end_writes_what_is_left),
        TEST(test_what_was_gathered_goes_to_the_file_of_before),
        TEST(test_a_pipe_gets_whole_lines_and_no_more_than_it_takes_at_once),
        TEST(test_lines_that_a_full_pipe_does_not_take_are_counted),
        TEST(test_a_burst_that_is_cut_short_loses_what_did_not_fit),
        TEST(test_each_threads_lines_keep_their_order),
        TEST(test_a_lock_that_is_held_is_not_had_by_the_deadline),
        TEST(test_a_crash_writes_what_was_gathered),
        TEST(test_a_crash_with_the_lock_held_ends_all_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
