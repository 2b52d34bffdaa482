// A line of JSON that is written from its first byte to its last: no tree stands behind it, and up to JSON_LINE_SIZE
// bytes nothing is allocated. ASCII alone, so that it passes everywhere: other characters are escaped (RFC 8259, 7).
// Half a record is none: where memory is short, the line has no text. One thread at a time.

#ifndef BITFLOW_TELEMETRY_JSON_LINE_H
#define BITFLOW_TELEMETRY_JSON_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

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

// Members of the object at hand, whose keys are constants without anything to escape: the compiler counts their bytes.
struct json_key {
    const char *text;
    size_t length;
};

static inline struct json_key json_key(const char *text)
{
    return (struct json_key){.text = text, .length = strlen(text)};
}

void json_line_put_object(struct json_line *line, struct json_key key);
void json_line_put_null(struct json_line *line, struct json_key key);
void json_line_put_boolean(struct json_line *line, struct json_key key, bool value);
void json_line_put_integer(struct json_line *line, struct json_key key, int64_t value);
void json_line_put_text(struct json_line *line, struct json_key key, const char *text);
void json_line_put_time(struct json_line *line, struct json_key key, int64_t wall);
void json_line_put_milliseconds(struct json_line *line, struct json_key key, int64_t ns);

static inline void json_line_begin_object(struct json_line *line, const char *key)
{
    json_line_put_object(line, json_key(key));
}
void json_line_end_object(struct json_line *line);

static inline void json_line_null(struct json_line *line, const char *key)
{
    json_line_put_null(line, json_key(key));
}

static inline void json_line_boolean(struct json_line *line, const char *key, bool value)
{
    json_line_put_boolean(line, json_key(key), value);
}

static inline void json_line_integer(struct json_line *line, const char *key, int64_t value)
{
    json_line_put_integer(line, json_key(key), value);
}

// What is not UTF-8 has a question mark in place of each byte above ASCII. NULL: null.
static inline void json_line_text(struct json_line *line, const char *key, const char *text)
{
    json_line_put_text(line, json_key(key), text);
}

// RFC 3339; `wall` as clock_wall() says it.
static inline void json_line_time(struct json_line *line, const char *key, int64_t wall)
{
    json_line_put_time(line, json_key(key), wall);
}

// A duration in ns, as milliseconds exact to a microsecond; a negative one is 0.
static inline void json_line_milliseconds(struct json_line *line, const char *key, int64_t ns)
{
    json_line_put_milliseconds(line, json_key(key), ns);
}

#endif
