#include "log_rig.h"

int reader, writer;

int open_log(void **state)
{
    (void)state;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return -1;
    reader = ends[0];
    writer = ends[1];
    log_set_descriptor(writer);
    log_set_level(LOG_DEBUG);
    return 0;
}

int close_log(void **state)
{
    (void)state;
    (void)log_flush_repeats(true);
    log_set_level(LOG_OFF);
    log_set_format(LOG_LOGFMT);
    log_set_descriptor(STDERR_FILENO);
    (void)close(reader);
    (void)close(writer);
    return 0;
}

const char *logged(void)
{
    static char text[64 * LOG_LINE_MAX];
    size_t length = 0;
    struct pollfd poller = {.fd = reader, .events = POLLIN};
    while (length < sizeof text - 1 && poll(&poller, 1, 0) == 1 && (poller.revents & POLLIN) != 0) {
        ssize_t got = read(reader, text + length, sizeof text - 1 - length);
        assert_true(got > 0);
        length += (size_t)got;
    }
    text[length] = '\0';
    return text;
}

const char *after_timestamp(const char *line)
{
    static const char pattern[] = "ts=####-##-##T##:##:##.###Z ";
    for (size_t i = 0; i < sizeof pattern - 1; i++)
        if (pattern[i] == '#' ? line[i] < '0' || line[i] > '9' : line[i] != pattern[i])
            fail_msg("%s", line);
    return line + sizeof pattern - 1;
}

void assert_logged(const char *expected)
{
    assert_string_equal(after_timestamp(logged()), expected);
}

unsigned count_lines(const char *text, const char *fragment)
{
    unsigned count = 0;
    for (const char *at = text; (at = strstr(at, fragment)) != NULL; at++)
        count++;
    return count;
}
