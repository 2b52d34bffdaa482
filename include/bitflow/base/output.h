// A descriptor that others gave to this process and share with it (standard output and error), written to without ever
// waiting. O_NONBLOCK on it would change it for them, too, so a pipe or a terminal is opened once more where that can
// be done; a pipe that belongs to another user, and a socket, cannot be, and are asked not to wait with each write.
// Not thread-safe: the owner's lock guards it.

#ifndef BITFLOW_BASE_OUTPUT_H
#define BITFLOW_BASE_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct output {
    int fd;
    bool is_own; // closed by output_release()
    bool is_socket;
    bool may_wait; // a plain write() to it might: it is shared with others, and no regular file
};

// `fd` stays the caller's, and is used as long as the output is.
void output_init(struct output *output, int fd);

// A descriptor of the process's own, with O_NONBLOCK or of a regular file; it becomes the output's.
void output_init_own(struct output *output, int fd);

void output_release(struct output *output);

// Whether it takes something at present; without waiting.
bool output_is_ready(const struct output *output);

// As write(), but never waits: EAGAIN where it takes nothing at present. Never interrupted, no SIGPIPE for a socket.
// Async-signal-safe.
ssize_t output_write(const struct output *output, const char *bytes, size_t count);

// The descriptor that a configuration's word means: `stdout` or `stderr`; -1: it is neither.
int output_standard(const char *word);

#endif
