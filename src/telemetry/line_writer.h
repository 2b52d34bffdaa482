// A file of whole lines that many threads append to, in the order in which they come. Lines that are rare are written
// as they come. Of lines that come densely, a burst, many go into one write(): they are gathered in memory until the
// buffer is full, which the thread with the next line writes, or until a thread of the writer's own, its flusher,
// does, LINE_WRITER_PERIOD after a line at the latest. The flusher begins with the first burst, is woken once when a
// burst begins, and wakes up once a period while it lasts.
//
// One write() has whole lines, to a descriptor opened with O_APPEND, so that the lines of others who append to the file
// do not mix with them; to a pipe no more than PIPE_BUF. Nothing waits for a file that takes nothing: its lines are
// lost and counted, and as long as that lasts each line is tried by itself. The lock is held across a write(), as the
// kernel's of the file is.

#ifndef BITFLOW_SRC_TELEMETRY_LINE_WRITER_H
#define BITFLOW_SRC_TELEMETRY_LINE_WRITER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/output.h"

#define LINE_WRITER_PERIOD (50 * NS_PER_MS)
#define LINE_WRITER_BURST 8 // lines in a period; fewer are rare
#define LINE_WRITER_ROOM ((size_t)32 * 1024)

struct line_writer {
    const char *path; // for the application log; the caller's
    // The descriptor's number never changes; what is behind it may be replaced.
    struct output output;
    struct mutex lock;
    struct condition changed; // a burst has begun, or `is_stopping`
    // Guarded by the lock:
    size_t room GUARDED; // for lines that are gathered
    // The last write was cut short (a full disk): the next line begins with a newline.
    bool is_torn GUARDED;
    bool is_write_through GUARDED; // nothing is gathered any more
    uint64_t lost GUARDED;         // lines since the last one that was written
    int64_t period_end GUARDED;
    unsigned count GUARDED; // of the lines in this period
    bool is_burst GUARDED;  // lines are gathered, and the flusher looks after them
    bool has_flusher GUARDED;
    bool is_stopping GUARDED;
    size_t length GUARDED; // of the lines that are gathered, behind one newline
    char buffer[1 + LINE_WRITER_ROOM] GUARDED;
    pthread_t flusher; // written once, before has_flusher
};

// Of an own output its close() stays the caller's. The rest of the writer is zeros.
void line_writer_init(struct line_writer *writer, const char *path, const struct output *output);

// Ends the flusher and writes what is gathered; nobody may write any more.
void line_writer_release(struct line_writer *writer);

// A whole line with its newline; there is a newline in memory before it, too. Any thread.
void line_writer_write(struct line_writer *writer, const char *line, size_t length);

// A line that could not be made; `os_errno` says why.
void line_writer_lose(struct line_writer *writer, int os_errno);

// Writes what is gathered. Any thread.
void line_writer_flush(struct line_writer *writer);

// Flushes; from here on each line is written as it comes.
void line_writer_write_through(struct line_writer *writer);

// The same in a crashed process: async-signal-safe, and silent. Not done where the lock cannot be had by the deadline.
void line_writer_write_through_crashed(struct line_writer *writer, int64_t deadline);

// What is gathered goes to the old file, all that follows to that of `fd`, which stays the caller's. Of
// an own output only. Any thread.
void line_writer_replace(struct line_writer *writer, int fd);

// How many lines no writer's file has taken since the start of the process. Any thread.
uint64_t line_writers_lost(void);

#endif
