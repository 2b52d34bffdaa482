// The application log into a pipe, and what came out of it.

#ifndef BITFLOW_TEST_LOG_RIG_H
#define BITFLOW_TEST_LOG_RIG_H

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/log.h"

static int reader, writer;

static inline int open_log(void **state)
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

static inline int close_log(void **state)
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

// What has been logged, which is in the pipe by now.
static inline const char *logged(void)
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

// Checks the timestamp and returns what follows it.
static inline const char *after_timestamp(const char *line)
{
    static const char pattern[] = "ts=####-##-##T##:##:##.###Z ";
    for (size_t i = 0; i < sizeof pattern - 1; i++)
        if (pattern[i] == '#' ? line[i] < '0' || line[i] > '9' : line[i] != pattern[i])
            fail_msg("%s", line);
    return line + sizeof pattern - 1;
}

static inline void assert_logged(const char *expected)
{
    assert_string_equal(after_timestamp(logged()), expected);
}

static inline unsigned count_lines(const char *text, const char *fragment)
{
    unsigned count = 0;
    for (const char *at = text; (at = strstr(at, fragment)) != NULL; at++)
        count++;
    return count;
}

#endif
