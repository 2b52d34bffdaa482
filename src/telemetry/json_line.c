#include "bitflow/telemetry/json_line.h"

#include <stdlib.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"
#include "bitflow/base/text.h"

// Makes room for `more` bytes. False: the line is lost.
static bool make_room(struct json_line *line, size_t more)
{
    if (line->text == NULL)
        return false;
    if (more <= line->size - line->length)
        return true;
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

static void put(struct json_line *line, const char *bytes, size_t count)
{
    if (!make_room(line, count))
        return;
    memcpy(line->text + line->length, bytes, count);
    line->length += count;
}

static void put_text(struct json_line *line, const char *text)
{
    put(line, text, strlen(text));
}

void json_line_begin(struct json_line *line)
{
    line->text = line->buffer;
    line->length = 0;
    line->size = sizeof line->buffer;
    line->has_members = false;
    put_text(line, "\n{");
}

void json_line_end(struct json_line *line)
{
    put_text(line, "}\n");
}

void json_line_release(struct json_line *line)
{
    if (line->text != line->buffer)
        free(line->text);
    line->text = NULL;
}

static void put_key(struct json_line *line, const char *key)
{
    put_text(line, line->has_members ? ",\"" : "\"");
    put_text(line, key);
    put_text(line, "\":");
    line->has_members = true;
}

void json_line_begin_object(struct json_line *line, const char *key)
{
    put_key(line, key);
    put_text(line, "{");
    line->has_members = false;
}

void json_line_end_object(struct json_line *line)
{
    put_text(line, "}");
    line->has_members = true;
}

void json_line_null(struct json_line *line, const char *key)
{
    put_key(line, key);
    put_text(line, "null");
}

void json_line_boolean(struct json_line *line, const char *key, bool value)
{
    put_key(line, key);
    put_text(line, value ? "true" : "false");
}

// At least `digits` of them.
static void put_digits(struct json_line *line, uint64_t value, unsigned digits)
{
    char text[sizeof "18446744073709551615"];
    char *at = text + sizeof text;
    INVARIANT(digits < sizeof text);
    for (; value > 0 || digits > 0; value /= 10, digits -= digits > 0)
        *--at = (char)('0' + value % 10);
    put(line, at, (size_t)(text + sizeof text - at));
}

void json_line_integer(struct json_line *line, const char *key, int64_t value)
{
    put_key(line, key);
    if (value < 0)
        put_text(line, "-");
    put_digits(line, value < 0 ? -(uint64_t)value : (uint64_t)value, 1);
}

void json_line_milliseconds(struct json_line *line, const char *key, int64_t ns)
{
    uint64_t us = ns < 0 ? 0 : (uint64_t)(ns / NS_PER_US);
    unsigned part = (unsigned)(us % 1000), digits = 3;
    put_key(line, key);
    put_digits(line, us / 1000, 1);
    put_text(line, ".");
    for (; digits > 1 && part % 10 == 0; digits--)
        part /= 10;
    put_digits(line, part, digits);
}

void json_line_time(struct json_line *line, const char *key, int64_t wall)
{
    char text[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(wall, text);
    json_line_text(line, key, text);
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

static bool is_plain(char byte)
{
    return (unsigned char)byte >= ' ' && (unsigned char)byte < 0x80 && byte != '"' && byte != '\\';
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

void json_line_text(struct json_line *line, const char *key, const char *text)
{
    if (text == NULL) {
        json_line_null(line, key);
        return;
    }
    bool has_characters = is_utf8(text);
    put_key(line, key);
    put_text(line, "\"");
    for (const char *at = text; *at != '\0';) {
        size_t plain = 0;
        while (is_plain(at[plain]))
            plain++;
        put(line, at, plain);
        at += plain;
        if (*at == '\0')
            break;
        size_t length = has_characters ? text_character_length(at) : 1;
        if (length > 1)
            put_wide(line, at, length);
        else if ((unsigned char)*at >= 0x80)
            put_text(line, "?");
        else
            put_special(line, *at);
        at += length;
    }
    put_text(line, "\"");
}
