// The inside of the application log: log.c takes lines in, shows them to the observer and writes them, log_repeats.c
// leaves out what says the same too often, log_render.c makes text of a line.

#ifndef BITFLOW_SRC_BASE_LOG_INTERNAL_H
#define BITFLOW_SRC_BASE_LOG_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/log.h"

struct log_line {
    size_t length;
    char text[LOG_LINE_MAX];
};

// The log's own level allows it.
bool log_is_written(enum log_level level);

// A whole line in the format in force, with its newline.
void log_render(struct log_line *line, const struct log_event *event);

// One write; never blocks. What is not taken is counted.
void log_output(const struct log_event *event);

// Whether the line is to be written. If not, it is counted; the next line of its kind or log_flush_repeats() tells of
// it, by a line of its own.
bool log_repeats_admit(const struct log_event *event);

#endif
