#include "line_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitflow/base/log.h"
#include "bitflow/base/thread.h"

#define FLUSHER_STACK_SIZE ((size_t)64 * 1024)
// After so much more than a period the thread with the next line does what the flusher had no processor for.
#define LATE (LINE_WRITER_PERIOD / 2)

static _Atomic uint64_t lost_ever;

// ---- lines that are lost

uint64_t line_writers_lost(void)
{
    return atomic_load_explicit(&lost_ever, memory_order_relaxed);
}

static void count_loss(struct line_writer *writer, uint64_t lines, int os_errno) REQUIRES(writer->lock)
{
    bool is_said = writer->lost > 0;
    atomic_fetch_add_explicit(&lost_ever, lines, memory_order_relaxed);
    writer->lost += lines;
    if (!is_said)
        log_error(NULL, "connection log records are being lost", "path", writer->path, "error",
                  strerrordesc_np(os_errno), NULL);
}

static void count_recovery(struct line_writer *writer) REQUIRES(writer->lock)
{
    char number[LOG_NUMBER_SIZE];
    if (writer->lost == 0)
        return;
    log_warn(NULL, "the connection log is written again", "path", writer->path, "lost",
             log_number(number, (int64_t)writer->lost), NULL);
    writer->lost = 0;
}

// ---- writing

static uint64_t count_lines(const char *text, size_t length)
{
    uint64_t lines = 0;
    for (const char *end = text + length; text < end; lines++)
        text = (const char *)memchr(text, '\n', (size_t)(end - text)) + 1;
    return lines;
}

// Of lines of which the file took only the first `taken` bytes. Returns how many bytes are done with: the lines that it
// took, and the one that was cut short, which is lost.
static size_t settle_part(struct line_writer *writer, const char *lines, size_t length, size_t taken)
    REQUIRES(writer->lock)
{
    const char *newline = memrchr(lines, '\n', taken);
    size_t whole = newline == NULL ? 0 : (size_t)(newline + 1 - lines);
    if (whole > 0)
        count_recovery(writer);
    writer->is_torn = taken > whole;
    if (!writer->is_torn)
        return whole;
    count_loss(writer, 1, ENOSPC);
    newline = memchr(lines + taken, '\n', length - taken);
    return (size_t)(newline + 1 - lines);
}

// One write(), of all. Returns how many bytes are done with, the rest is to be tried again.
static size_t write_once(struct line_writer *writer, const char *lines, size_t length) REQUIRES(writer->lock)
{
    size_t ahead = writer->is_torn ? 1 : 0; // the newline before the lines ends the torn one
    ssize_t written = output_write(&writer->output, lines - ahead, ahead + length);
    if (written <= 0) {
        count_loss(writer, count_lines(lines, length), errno);
        return length;
    }
    if ((size_t)written < ahead + length)
        return settle_part(writer, lines, length, (size_t)written - ahead);
    writer->is_torn = false;
    count_recovery(writer);
    return length;
}

static void write_lines(struct line_writer *writer, const char *lines, size_t length) REQUIRES(writer->lock)
{
    while (length > 0) {
        size_t done = write_once(writer, lines, length);
        lines += done;
        length -= done;
    }
}

static void flush(struct line_writer *writer) REQUIRES(writer->lock)
{
    size_t length = writer->length;
    writer->length = 0;
    write_lines(writer, writer->buffer + 1, length);
}

// ---- bursts

static void *run_flusher(void *argument)
{
    struct line_writer *writer = argument;
    thread_set_name("flusher");
    mutex_lock(&writer->lock);
    while (!writer->is_stopping) {
        if (!writer->is_burst || deadline_left(writer->period_end) > 0) {
            condition_wait(&writer->changed, &writer->lock, writer->is_burst ? writer->period_end : DEADLINE_NONE);
            continue;
        }
        flush(writer);
        writer->is_burst = writer->count >= LINE_WRITER_BURST;
        writer->count = 0;
        writer->period_end = clock_now() + LINE_WRITER_PERIOD;
    }
    mutex_unlock(&writer->lock);
    return NULL;
}

// Without a thread there is no burst: each line is written as it comes.
static bool begin_burst(struct line_writer *writer, int64_t now) REQUIRES(writer->lock)
{
    struct error error = ERROR_INIT;
    if (!writer->has_flusher)
        writer->has_flusher = thread_start(&writer->flusher, FLUSHER_STACK_SIZE, run_flusher, writer, &error);
    writer->is_burst = writer->has_flusher;
    writer->period_end = now + LINE_WRITER_PERIOD;
    condition_signal(&writer->changed);
    return writer->is_burst;
}

// Whether the next line is one of a burst.
static bool is_gathered(struct line_writer *writer, int64_t now) REQUIRES(writer->lock)
{
    if (writer->is_write_through || writer->lost > 0)
        return false;
    if (!writer->is_burst && now >= writer->period_end) {
        writer->period_end = now + LINE_WRITER_PERIOD;
        writer->count = 0;
    }
    writer->count++;
    return writer->is_burst || (writer->count == LINE_WRITER_BURST && begin_burst(writer, now));
}

static void gather(struct line_writer *writer, const char *line, size_t length, int64_t now) REQUIRES(writer->lock)
{
    if (now >= writer->period_end + LATE) {
        flush(writer);
        writer->period_end = now + LINE_WRITER_PERIOD;
    } else if (length > writer->room - writer->length) {
        flush(writer);
    }
    memcpy(writer->buffer + 1 + writer->length, line, length);
    writer->length += length;
}

void line_writer_write(struct line_writer *writer, const char *line, size_t length)
{
    int64_t now = clock_now_coarse();
    mutex_lock(&writer->lock);
    if (is_gathered(writer, now) && length <= writer->room) {
        gather(writer, line, length, now);
    } else {
        flush(writer);
        write_lines(writer, line, length);
    }
    mutex_unlock(&writer->lock);
}

void line_writer_lose(struct line_writer *writer, int os_errno)
{
    mutex_lock(&writer->lock);
    count_loss(writer, 1, os_errno);
    mutex_unlock(&writer->lock);
}

// ---- begin and end

// A pipe takes up to PIPE_BUF whole or not at all.
static size_t room_for(int fd)
{
    struct stat file;
    return fstat(fd, &file) == 0 && S_ISREG(file.st_mode) ? LINE_WRITER_ROOM : PIPE_BUF;
}

void line_writer_init(struct line_writer *writer, const char *path, const struct output *output)
{
    writer->path = path;
    writer->output = *output;
    mutex_init(&writer->lock);
    condition_init(&writer->changed);
    mutex_lock(&writer->lock);
    writer->room = room_for(output->fd);
    *writer->buffer = '\n';
    mutex_unlock(&writer->lock);
}

void line_writer_release(struct line_writer *writer)
{
    mutex_lock(&writer->lock);
    writer->is_stopping = true;
    bool has_flusher = writer->has_flusher;
    condition_signal(&writer->changed);
    mutex_unlock(&writer->lock);
    if (has_flusher)
        (void)pthread_join(writer->flusher, NULL);
    line_writer_flush(writer);
    condition_release(&writer->changed);
    mutex_release(&writer->lock);
}

void line_writer_flush(struct line_writer *writer)
{
    mutex_lock(&writer->lock);
    flush(writer);
    mutex_unlock(&writer->lock);
}

void line_writer_write_through(struct line_writer *writer)
{
    mutex_lock(&writer->lock);
    writer->is_write_through = true;
    flush(writer);
    mutex_unlock(&writer->lock);
}

void line_writer_write_through_crashed(struct line_writer *writer, int64_t deadline)
{
    if (!mutex_lock_by(&writer->lock, deadline))
        return;
    writer->is_write_through = true;
    size_t ahead = writer->is_torn ? 1 : 0;
    if (writer->length > 0)
        (void)output_write(&writer->output, writer->buffer + 1 - ahead, ahead + writer->length);
    writer->length = 0;
    mutex_unlock(&writer->lock);
}

static bool is_same_file(int a, int b)
{
    struct stat first, second;
    return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

void line_writer_replace(struct line_writer *writer, int fd)
{
    mutex_lock(&writer->lock);
    flush(writer);
    if (!is_same_file(fd, writer->output.fd))
        writer->is_torn = false;
    writer->room = room_for(fd);
    (void)dup3(fd, writer->output.fd, O_CLOEXEC); // both are open, so it cannot fail
    mutex_unlock(&writer->lock);
}
