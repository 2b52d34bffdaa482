// A line of JSON that is written from its first byte to its last: no tree stands behind it, and up to JSON_LINE_SIZE
// bytes nothing is allocated. ASCII alone, so that it passes everywhere: other characters are escaped (RFC 8259, 7).
// Half a record is none: where memory is short, the line has no text. One thread at a time.

#ifndef BITFLOW_TELEMETRY_JSON_LINE_H
#define BITFLOW_TELEMETRY_JSON_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Holds all but the records of certificates with long names, which go to the heap.
#define JSON_LINE_SIZE 4096

struct json_line {
    char *text; // a newline, the object, a newline; NULL: no memory was left for it
    size_t length;
    size_t size;
    bool has_members; // of the object at hand
    char buffer[JSON_LINE_SIZE];
};

// Opens the line's object.
void json_line_begin(struct json_line *line);
// Closes it. A line that was begun is to be released.
void json_line_end(struct json_line *line);
void json_line_release(struct json_line *line);

// Members of the object at hand. A key is a constant without anything to escape.
void json_line_begin_object(struct json_line *line, const char *key);
void json_line_end_object(struct json_line *line);
void json_line_null(struct json_line *line, const char *key);
void json_line_boolean(struct json_line *line, const char *key, bool value);
void json_line_integer(struct json_line *line, const char *key, int64_t value);
// What is not UTF-8 has a question mark in place of each byte above ASCII. NULL: null.
void json_line_text(struct json_line *line, const char *key, const char *text);
// RFC 3339; `wall` as clock_wall() says it.
void json_line_time(struct json_line *line, const char *key, int64_t wall);
// A duration in ns, as milliseconds exact to a microsecond; a negative one is 0.
void json_line_milliseconds(struct json_line *line, const char *key, int64_t ns);

#endif
