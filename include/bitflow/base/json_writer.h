// Writes JSON into a buffer: objects of keys that are constants, and values of a few kinds. What does not fit is only
// counted, as snprintf() does, so that a caller can come again with a buffer that is long enough. No allocation, no
// errors; one thread each. The text is ASCII: what is beyond is escaped, as are control characters.

#ifndef BITFLOW_BASE_JSON_WRITER_H
#define BITFLOW_BASE_JSON_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_writer {
    char *buffer;
    size_t size;
    size_t length; // of the text so far, without a terminating zero; above `size`: it did not fit
    bool is_first; // nothing has been written yet into the innermost object
};

void json_writer_init(struct json_writer *writer, char *buffer, size_t size);

static inline bool json_writer_fits(const struct json_writer *writer)
{
    return writer->length <= writer->size;
}

// An object, ended by json_put_end(); `key` NULL: the outermost. Keys must need no escaping.
void json_put_begin(struct json_writer *writer, const char *key);
void json_put_end(struct json_writer *writer);

void json_put_null(struct json_writer *writer, const char *key);
void json_put_bool(struct json_writer *writer, const char *key, bool value);
void json_put_count(struct json_writer *writer, const char *key, uint64_t value);

// NULL: null. A value that is not UTF-8, which JSON cannot hold, becomes "(not UTF-8)".
void json_put_text(struct json_writer *writer, const char *key, const char *value);

// A duration in ns as milliseconds, exact to a microsecond: 1.234. A negative one is 0.
void json_put_milliseconds(struct json_writer *writer, const char *key, int64_t ns);

#endif
