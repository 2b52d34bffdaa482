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

extern int reader, writer;

int open_log(void **state);

int close_log(void **state);

// What has been logged, which is in the pipe by now.
const char *logged(void);

// Checks the timestamp and returns what follows it.
const char *after_timestamp(const char *line);

void assert_logged(const char *expected);

unsigned count_lines(const char *text, const char *fragment);

#endif
