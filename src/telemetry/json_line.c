#include "bitflow/telemetry/json_line.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"
#include "bitflow/base/text.h"

// False: the line is lost.
static bool grow(struct json_line *line, size_t more)
{
    if (line->text == NULL)
        return false;
    size_t size = 2 * (line->size + more);
    bool is_first = line->text == line->buffer;
    char *text = realloc(is_first ? NULL : line->text, size);
    if (text == NULL) {
        json_line_release(line);
        return false;
    }
    if (is_first)
        memcpy(text, line->buffer, line->length);
    line->text = text;
    line->size = size;
    return true;
}

// Makes room for `more` bytes. False: the line is lost.
static inline bool make_room(struct json_line *line, size_t more)
{
    return (more <= line->size - line->length && line->text != NULL) || grow(line, more);
}

static inline void put(struct json_line *line, const char *bytes, size_t count)
{
    if (!make_room(line, count))
        return;
    memcpy(line->text + line->length, bytes, count);
    line->length += count;
}

#define PUT_CONSTANT(line, text) put(line, text, sizeof(text) - 1)

void json_line_begin(struct json_line *line)
{
    line->text = line->buffer;
    line->length = 0;
    line->size = sizeof line->buffer;
    line->has_members = false;
    PUT_CONSTANT(line, "\n{");
}

void json_line_end(struct json_line *line)
{
    PUT_CONSTANT(line, "}\n");
}

void json_line_release(struct json_line *line)
{
    if (line->text != line->buffer)
        free(line->text);
    line->text = NULL;
    line->length = 0;
    line->size = 0;
}

static void put_key(struct json_line *line, struct json_key key)
{
    if (!make_room(line, key.length + sizeof ",\"\":" - 1))
        return;
    char *at = line->text + line->length;
    if (line->has_members)
        *at++ = ',';
    *at++ = '"';
    at = mempcpy(at, key.text, key.length);
    *at++ = '"';
    *at++ = ':';
    line->length = (size_t)(at - line->text);
    line->has_members = true;
}

void json_line_put_object(struct json_line *line, struct json_key key)
{
    put_key(line, key);
    PUT_CONSTANT(line, "{");
    line->has_members = false;
}

void json_line_end_object(struct json_line *line)
{
    PUT_CONSTANT(line, "}");
    line->has_members = true;
}

void json_line_put_null(struct json_line *line, struct json_key key)
{
    put_key(line, key);
    PUT_CONSTANT(line, "null");
}

void json_line_put_boolean(struct json_line *line, struct json_key key, bool value)
{
    put_key(line, key);
    if (value)
        PUT_CONSTANT(line, "true");
    else
        PUT_CONSTANT(line, "false");
}

#define NUMBER_MAX (TEXT_DECIMAL_MAX + sizeof ".000" - 1)

// Byte by byte: they are few.
static void put_digits(struct json_line *line, const char *at, const char *end)
{
    if (!make_room(line, NUMBER_MAX))
        return;
    char *to = line->text + line->length;
    while (at < end)
        *to++ = *at++;
    line->length = (size_t)(to - line->text);
}

void json_line_put_integer(struct json_line *line, struct json_key key, int64_t value)
{
    char text[NUMBER_MAX], *end = text + sizeof text;
    char *begin = text_decimal(end, value < 0 ? -(uint64_t)value : (uint64_t)value, 1);
    if (value < 0)
        *--begin = '-';
    put_key(line, key);
    put_digits(line, begin, end);
}

void json_line_put_milliseconds(struct json_line *line, struct json_key key, int64_t ns)
{
    uint64_t us = ns < 0 ? 0 : (uint64_t)(ns / NS_PER_US);
    unsigned part = (unsigned)(us % 1000), digits = 3;
    char text[NUMBER_MAX], *end = text + sizeof text;
    for (; digits > 1 && part % 10 == 0; digits--)
        part /= 10;
    char *begin = text_decimal(end, part, digits);
    *--begin = '.';
    begin = text_decimal(begin, us / 1000, 1);
    put_key(line, key);
    put_digits(line, begin, end);
}

// What needs no escape.
static void put_quoted(struct json_line *line, const char *text, size_t length)
{
    if (!make_room(line, length + 2))
        return;
    char *at = line->text + line->length;
    *at++ = '"';
    at = mempcpy(at, text, length);
    *at++ = '"';
    line->length = (size_t)(at - line->text);
}

void json_line_put_time(struct json_line *line, struct json_key key, int64_t wall)
{
    char text[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(wall, text);
    put_key(line, key);
    put_quoted(line, text, sizeof text - 1);
}

static void put_unit(struct json_line *line, unsigned unit)
{
    static const char digits[] = "0123456789ABCDEF";
    const char escape[] = {
        '\\', 'u', digits[unit >> 12 & 15], digits[unit >> 8 & 15], digits[unit >> 4 & 15], digits[unit & 15]};
    put(line, escape, sizeof escape);
}

// A character beyond ASCII, in UTF-16.
static void put_wide(struct json_line *line, const char *at, size_t length)
{
    unsigned point = text_code_point(at, length);
    if (point < 0x10000) {
        put_unit(line, point);
        return;
    }
    put_unit(line, 0xd800 + ((point - 0x10000) >> 10));
    put_unit(line, 0xdc00 + ((point - 0x10000) & 0x3ff));
}

static void put_special(struct json_line *line, char byte)
{
    static const char names[] = "\"\"\\\\\bb\ff\nn\rr\tt"; // the byte and what it is called behind a backslash
    for (const char *at = names; *at != '\0'; at += 2)
        if (*at == byte) {
            const char escape[] = {'\\', at[1]};
            put(line, escape, sizeof escape);
            return;
        }
    put_unit(line, (unsigned char)byte);
}

// Of what needs no escape.
static size_t plain_length(const char *text)
{
    static const bool is_plain[UCHAR_MAX + 1] = {
        [' ' ... '"' - 1] = true, ['"' + 1 ... '\\' - 1] = true, ['\\' + 1 ... 0x7f] = true};
    const char *at = text;
    while (is_plain[(unsigned char)*at])
        at++;
    return (size_t)(at - text);
}

static bool is_utf8(const char *text)
{
    for (size_t length; *text != '\0'; text += length) {
        length = text_character_length(text);
        if (length == 0)
            return false;
    }
    return true;
}

static void put_characters(struct json_line *line, const char *text)
{
    bool has_characters = is_utf8(text);
    for (const char *at = text; *at != '\0';) {
        size_t plain = plain_length(at);
        put(line, at, plain);
        at += plain;
        if (*at == '\0')
            break;
        size_t length = has_characters ? text_character_length(at) : 1;
        if (length > 1)
            put_wide(line, at, length);
        else if ((unsigned char)*at >= 0x80)
            PUT_CONSTANT(line, "?");
        else
            put_special(line, *at);
        at += length;
    }
}

void json_line_put_text(struct json_line *line, struct json_key key, const char *text)
{
    if (text == NULL) {
        json_line_put_null(line, key);
        return;
    }
    size_t plain = plain_length(text);
    put_key(line, key);
    if (text[plain] == '\0') {
        put_quoted(line, text, plain);
        return;
    }
    PUT_CONSTANT(line, "\"");
    put_characters(line, text);
    PUT_CONSTANT(line, "\"");
}
