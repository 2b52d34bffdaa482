// The application log: its format, that nothing a peer sent forges a line or a field, its observer, and a reader that
// doesn't read.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/log.h"
#include "log_rig.h"

static void test_a_line_has_level_message_context_and_pairs(void **state)
{
    (void)state;
    struct log_context context = {.proxy = "web", .connection = 42}, only_proxy = {.proxy = "web"};
    char number[LOG_NUMBER_SIZE];
    log_info(NULL, "started", NULL);
    assert_logged("level=info msg=started\n");
    log_warn(&context, "cannot connect", "target", "db", "error", "timed out", NULL);
    assert_logged("level=warn msg=\"cannot connect\" proxy=web conn=42 target=db error=\"timed out\"\n");
    log_error(&only_proxy, "x", "left_out", (const char *)NULL, "n", log_number(number, INT64_MIN), NULL);
    assert_logged("level=error msg=x proxy=web n=-9223372036854775808\n");
    log_debug(NULL, "x", "empty", "", NULL);
    assert_logged("level=debug msg=x empty=\"\"\n");
}

static void test_lines_below_the_level_are_not_written(void **state)
{
    (void)state;
    static const char *const names[] = {"debug", "info", "warn", "error", "off"};
    for (int level = LOG_DEBUG; level <= LOG_OFF; level++) {
        log_set_level((enum log_level)level);
        for (int at = LOG_DEBUG; at < LOG_OFF; at++)
            assert_int_equal(log_enabled((enum log_level)at), at >= level);
        assert_string_equal(log_level_name((enum log_level)level), names[level]);
    }
    log_error(NULL, "not while off", NULL);
    assert_string_equal(logged(), "");
}

static void test_values_are_quoted_and_escaped(void **state)
{
    (void)state;
    static const struct {
        const char *value, *expected;
    } rows[] = {
        {"plain", "plain"},
        {"192.0.2.1:80", "192.0.2.1:80"},
        {"two words", "\"two words\""},
        {"a=b", "\"a=b\""},
        {"say \"hi\"", "\"say \\\"hi\\\"\""},
        {"\"", "\"\\\"\""},
        {"back\\slash", "\"back\\\\slash\""},
        {"x\nts=2026 level=error msg=forged", "\"x\\nts=2026 level=error msg=forged\""},
        {"\r\t\x1b[31m\x7f", "\"\\x0d\\x09\\x1b[31m\\x7f\""},
        {"m\xc3\xbcnchen", "m\xc3\xbcnchen"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        char expected[256];
        log_info(NULL, "x", "k", rows[i].value, "z", "1", NULL);
        (void)snprintf(expected, sizeof expected, "level=info msg=x k=%s z=1\n", rows[i].expected);
        assert_logged(expected);
    }
}

// One value of every length around the line's limit: one line, whole to its end, never longer than the limit.
static void check_long(char byte, size_t length)
{
    static char value[2 * LOG_LINE_MAX];
    memset(value, byte, length);
    value[length] = '\0';
    log_info(NULL, "x", "k", value, "last", "1", NULL);
    const char *line = logged();
    size_t total = strlen(line);
    assert_in_range(total, 1, LOG_LINE_MAX);
    assert_ptr_equal(strchr(line, '\n'), line + total - 1);
    line = strstr(line, " k=");
    if (line == NULL || byte == 'x')
        return;
    // Quoted, closed, and no escape sequence cut in half.
    line += 3;
    assert_int_equal(*line++, '"');
    const char *unit = byte == '"' ? "\\\"" : "\\x01";
    while (strncmp(line, unit, strlen(unit)) == 0)
        line += strlen(unit);
    assert_true(strcmp(line, "\"\n") == 0 || strcmp(line, "\" last=1\n") == 0);
}

static void test_long_values_are_cut(void **state)
{
    (void)state;
    for (size_t length = LOG_LINE_MAX - 100; length < LOG_LINE_MAX + 10; length++)
        check_long('x', length);
    for (size_t length = LOG_LINE_MAX / 2 - 60; length < LOG_LINE_MAX / 2 + 10; length++)
        check_long('"', length);
    for (size_t length = LOG_LINE_MAX / 4 - 30; length < LOG_LINE_MAX / 4 + 10; length++)
        check_long('\x01', length);
    // An escape that doesn't fit is the end, not a gap.
    static char value[LOG_LINE_MAX + 8];
    for (size_t length = LOG_LINE_MAX - 80; length < LOG_LINE_MAX; length++) {
        memset(value, 'x', length);
        memcpy(value + length, "\x01zz", sizeof "\x01zz");
        log_info(NULL, "x", "k", value, NULL);
        const char *z = strchr(logged(), 'z');
        if (z != NULL && strncmp(z - 4, "\\x01", 4) != 0)
            fail_msg("a gap at %zu", length);
    }
    check_long('x', 2 * LOG_LINE_MAX - 1);
    check_long('"', 2 * LOG_LINE_MAX - 1);
    // Fields beyond the end are left out whole.
    memset(value, 'x', LOG_LINE_MAX - 1);
    value[LOG_LINE_MAX - 1] = '\0';
    log_info(NULL, "x", "k", value, "a", "1", "b", value, NULL);
    const char *line = logged();
    assert_null(strstr(line, " a="));
    assert_null(strstr(line, " b="));
}

// What the observer saw, as text of its own: an event is borrowed for the call.
static char seen[1024];
static void observe(const struct log_event *event)
{
    size_t length = strlen(seen);
    length += (size_t)snprintf(seen + length, sizeof seen - length, "%s %s %s %d:", log_level_name(event->level),
                               event->message, event->proxy == NULL ? "-" : event->proxy, (int)event->connection);
    for (size_t i = 0; i < event->field_count; i++)
        length += (size_t)snprintf(seen + length, sizeof seen - length, " %s=%s", event->fields[i].key,
                                   event->fields[i].value);
    (void)snprintf(seen + length, sizeof seen - length, "\n");
    assert_in_range(event->wall, clock_wall() - 60 * NS_PER_S, clock_wall());
}

static void test_the_observer_has_a_level_of_its_own(void **state)
{
    (void)state;
    struct log_context context = {.proxy = "web", .connection = 42};
    log_set_level(LOG_WARN);
    log_set_observer(LOG_INFO, observe);
    assert_false(log_enabled(LOG_DEBUG));
    assert_true(log_enabled(LOG_INFO));
    *seen = '\0';
    log_debug(NULL, "neither", NULL);
    log_info(&context, "observed only", "k", "a b\n", "left_out", (const char *)NULL, "z", "", NULL);
    log_error(NULL, "both", NULL);
    assert_string_equal(seen, "info observed only web 42: k=a b\n z=\nerror both - 0:\n");
    assert_logged("level=error msg=both\n");

    log_set_level(LOG_DEBUG); // the log's own level does not widen what is observed
    log_set_observer(LOG_ERROR, observe);
    *seen = '\0';
    log_warn(NULL, "written only", NULL);
    assert_string_equal(seen, "");
    assert_logged("level=warn msg=\"written only\"\n");

    log_set_level(LOG_OFF);
    log_error(NULL, "observed while off", NULL);
    assert_string_equal(seen, "error observed while off - 0:\n");
    assert_string_equal(logged(), "");

    log_set_observer(LOG_DEBUG, NULL);
    *seen = '\0';
    assert_false(log_enabled(LOG_ERROR));
    log_error(NULL, "nobody", NULL);
    assert_string_equal(seen, "");
    log_set_level(LOG_DEBUG);
    log_error(NULL, "written again", NULL);
    assert_string_equal(seen, "");
    assert_logged("level=error msg=\"written again\"\n");
}

static void test_pairs_beyond_the_limit_are_left_out(void **state)
{
    (void)state;
    _Static_assert(LOG_FIELDS_MAX == 24, "as many as below, but for the last");
    log_set_observer(LOG_INFO, observe);
    *seen = '\0';
#define FOUR(digit) "k" digit "0", "v", "k" digit "1", "v", "k" digit "2", "v", "k" digit "3", "v"
    log_info(NULL, "x", "none", (const char *)NULL, FOUR("0"), FOUR("1"), FOUR("2"), FOUR("3"), FOUR("4"), FOUR("5"),
             "beyond", "v", NULL);
    log_set_observer(LOG_INFO, NULL);
    const char *line = logged();
    assert_non_null(strstr(seen, " k53=v\n"));
    assert_non_null(strstr(line, " k53=v\n"));
    assert_null(strstr(line, "none"));
}

static void test_a_reader_that_does_not_read_loses_lines_and_is_not_waited_for(void **state)
{
    (void)state;
    static char value[1000];
    memset(value, 'x', sizeof value - 1);
    assert_true(fcntl(writer, F_SETPIPE_SZ, 4096) >= 4096);
    int64_t start = clock_now();
    const unsigned total = 50;
    for (unsigned i = 0; i < total; i++)
        log_info(NULL, "flood", "k", value, NULL); // returns at once, though the pipe is soon full
    assert_true(clock_now() - start < 5 * NS_PER_S);
    unsigned kept = count_lines(logged(), "msg=flood");
    assert_in_range(kept, 1, total - 1);

    char expected[64];
    (void)snprintf(expected, sizeof expected, "level=warn msg=\"log lines dropped\" count=%u\n", total - kept);
    log_info(NULL, "again", NULL);
    const char *text = logged();
    assert_memory_equal(after_timestamp(text), expected, strlen(expected));
    text = strchr(text, '\n') + 1;
    assert_string_equal(after_timestamp(text), "level=info msg=again\n");
    log_info(NULL, "once", NULL); // said once
    assert_logged("level=info msg=once\n");
}

static void test_lines_lost_to_a_gone_reader_are_counted(void **state)
{
    (void)state;
    (void)close(reader);
    for (int i = 0; i < 3; i++)
        log_info(NULL, "lost", NULL);
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    (void)close(writer);
    reader = ends[0];
    writer = ends[1];
    log_set_descriptor(writer);
    log_info(NULL, "back", NULL);
    const char *text = logged();
    assert_non_null(strstr(text, "count=3\n"));
    assert_int_equal(count_lines(text, "\n"), 2);
}

// A terminal whose reader does not read: poll() calls it writable as long as there is room for anything, and a line
// that does not fit whole must not be waited for.
static void test_a_terminal_that_nobody_reads_is_not_waited_for(void **state)
{
    (void)state;
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    char name[64];
    assert_int_equal(ptsname_r(master, name, sizeof name), 0);
    int terminal = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(terminal >= 0);
    struct termios raw;
    assert_int_equal(tcgetattr(terminal, &raw), 0);
    cfmakeraw(&raw);
    assert_int_equal(tcsetattr(terminal, TCSANOW, &raw), 0);
    log_set_descriptor(terminal);
    for (int i = 0; i < 2000; i++) // 100 KB; a pseudo-terminal holds 4-64 KB
        log_info(NULL, "line", "number", "1234567890", NULL);

    char text[128 * 1024];
    size_t length = 0;
    assert_int_equal(fcntl(master, F_SETFL, O_NONBLOCK), 0);
    for (ssize_t got; (got = read(master, text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)got;
    log_info(NULL, "again", NULL);
    for (ssize_t got; (got = read(master, text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)got;
    text[length] = '\0';
    assert_true(count_lines(text, "msg=line number=1234567890\n") > 10);
    assert_true(count_lines(text, "\n") < 2000);
    assert_non_null(strstr(text, "log lines dropped"));
    assert_non_null(strstr(text, "level=info msg=again\n"));
    log_set_descriptor(writer);
    (void)close(terminal);
    (void)close(master);
}

#define WRITERS 4
#define LINES 200
static void *write_lines(void *argument)
{
    struct log_context context = {.proxy = "web", .connection = (uint64_t)(uintptr_t)argument};
    for (int i = 0; i < LINES; i++)
        log_info(&context, "line", "k", "v w", NULL);
    return NULL;
}

static void *read_lines(void *argument)
{
    char *text = argument;
    size_t length = 0;
    for (ssize_t got; (got = read(reader, text + length, 4096)) > 0;)
        length += (size_t)got;
    text[length] = '\0';
    return NULL;
}

static void test_lines_stay_whole(void **state)
{
    (void)state;
    pthread_t writers[WRITERS], gatherer;
    char *text = calloc(WRITERS * LINES, 256);
    assert_non_null(text);
    assert_true(fcntl(writer, F_SETPIPE_SZ, 1 << 20) >= WRITERS * LINES * 256); // so that none is dropped
    assert_int_equal(pthread_create(&gatherer, NULL, read_lines, text), 0);
    for (size_t i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&writers[i], NULL, write_lines, (void *)(i + 1)), 0);
    for (size_t i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_join(writers[i], NULL), 0);
    log_set_descriptor(STDERR_FILENO); // the log has the pipe open, too
    (void)close(writer);
    assert_int_equal(pthread_join(gatherer, NULL), 0);
    writer = open("/dev/null", O_WRONLY | O_CLOEXEC);
    unsigned count = 0;
    for (char *line = text; *line != '\0'; count++) {
        char *end = strchr(line, '\n');
        assert_non_null(end);
        *end = '\0';
        const char *rest = after_timestamp(line);
        if (strncmp(rest, "level=info msg=line proxy=web conn=", 35) != 0 || strcmp(rest + 36, " k=\"v w\"") != 0)
            fail_msg("%s", line);
        line = end + 1;
    }
    assert_int_equal(count, WRITERS * LINES);
    free(text);
}

int main(void)
{
    // As the server does: a reader of stderr that went away is an error, not the end.
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    if (sigaction(SIGPIPE, &ignore, NULL) != 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_line_has_level_message_context_and_pairs, open_log, close_log),
        cmocka_unit_test_setup_teardown(test_lines_below_the_level_are_not_written, open_log, close_log),
        cmocka_unit_test_setup_teardown(test_values_are_quoted_and_escaped, open_log, close_log),
        cmocka_unit_test_setup_teardown(test_long_values_are_cut, open_log, close_log),
        cmocka_unit_test_setup_teardown(test_the_observer_has_a_level_of_its_own, open_log, close_log),
        cmocka_unit_test_setup_teardown(test_pairs_beyond_the_limit_are_left_out, open_log, close_log),
        cmocka_unit_test_setup_teardown(test_a_reader_that_does_not_read_loses_lines_and_is_not_waited_for, open_log,
                                        close_log),
        cmocka_unit_test_setup_teardown(test_lines_lost_to_a_gone_reader_are_counted, open_log, close_log),
        cmocka_unit_test_setup_teardown(test_a_terminal_that_nobody_reads_is_not_waited_for, open_log, close_log),
        cmocka_unit_test_setup_teardown(test_lines_stay_whole, open_log, close_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
