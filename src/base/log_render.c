// One line of the log as text, logfmt or JSON. Values come from anywhere: whatever bytes they hold, the line stays one
// line, its fields stay the fields that were given, and JSON stays valid, also where a value had to be cut.

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/text.h"
#include "log_internal.h"

// Kept back at the end of a line: a closing quote, JSON's closing brace, the newline.
#define LINE_ROOM (LOG_LINE_MAX - 3)

static _Atomic(enum log_format) format_in_force = LOG_LOGFMT;

void log_set_format(enum log_format format)
{
    atomic_store_explicit(&format_in_force, format, memory_order_relaxed);
}

// False: it does not fit. Whole or not at all, so that no escape sequence or character is cut in half.
static bool put(struct log_line *line, const char *bytes, size_t count)
{
    if (line->length + count > LINE_ROOM)
        return false;
    memcpy(line->text + line->length, bytes, count);
    line->length += count;
    return true;
}

static bool put_text(struct log_line *line, const char *text)
{
    return put(line, text, strlen(text));
}

static void put_reserved(struct log_line *line, char byte)
{
    line->text[line->length++] = byte; // the room for it was kept back
}

// What a terminal might act on, or a reader might take for the end of a line: the control characters of ASCII and of
// Latin-1, and Unicode's separators of lines and paragraphs.
static bool is_control(const char *at, size_t length)
{
    return text_is_control(at, 0, length) || (length == 3 && memcmp(at, "\xe2\x80\xa8", 3) == 0) ||
           (length == 3 && memcmp(at, "\xe2\x80\xa9", 3) == 0);
}

static bool put_hex_bytes(struct log_line *line, const char *at, size_t length)
{
    char escape[3 * sizeof "\\xff"];
    size_t used = 0;
    for (size_t i = 0; i < length; i++)
        used += (size_t)snprintf(escape + used, sizeof escape - used, "\\x%02x", (unsigned char)at[i]);
    return put(line, escape, used);
}

// Within quotes, logfmt. `length`: text_character_length().
static bool put_logfmt_character(struct log_line *line, const char *at, size_t length)
{
    switch (*at) {
    case '"':
        return put_text(line, "\\\"");
    case '\\':
        return put_text(line, "\\\\");
    case '\n':
        return put_text(line, "\\n");
    default:
        if (length == 0)
            return put_hex_bytes(line, at, 1);
        return is_control(at, length) ? put_hex_bytes(line, at, length) : put(line, at, length);
    }
}

// Within quotes, JSON (RFC 8259, 7). What is not UTF-8 becomes U+FFFD, byte by byte.
static bool put_json_character(struct log_line *line, const char *at, size_t length)
{
    char escape[sizeof "\\uffff"];
    switch (*at) {
    case '"':
        return put_text(line, "\\\"");
    case '\\':
        return put_text(line, "\\\\");
    case '\n':
        return put_text(line, "\\n");
    case '\r':
        return put_text(line, "\\r");
    case '\t':
        return put_text(line, "\\t");
    default:
        if (length == 0)
            return put_text(line, "\xef\xbf\xbd");
        if (!is_control(at, length))
            return put(line, at, length);
        (void)snprintf(escape, sizeof escape, "\\u%04x", text_code_point(at, length));
        return put_text(line, escape);
    }
}

// A value too long for the line is cut at a whole character.
static void put_quoted(struct log_line *line, const char *value,
                       bool (*put_character)(struct log_line *, const char *, size_t))
{
    const char *at = value;
    put_text(line, "\"");
    while (*at != '\0') {
        size_t length = text_character_length(at);
        if (!put_character(line, at, length))
            break; // what doesn't fit is the end: nothing is left out in the middle
        at += length == 0 ? 1 : length;
    }
    put_reserved(line, '"');
}

// A bare word stays bare; anything else is quoted (logfmt).
static bool is_bare(const char *value)
{
    const char *at = value;
    while (*at != '\0') {
        size_t length = text_character_length(at);
        if (length == 0 || is_control(at, length) || *at == ' ' || *at == '"' || *at == '=' || *at == '\\')
            return false;
        at += length;
    }
    return *value != '\0';
}

// A field whose value would not even begin is left out.
static bool has_room_for(const struct log_line *line, const char *key)
{
    return line->length + strlen(key) + sizeof ",\"\":\"\\u0000\"" <= LINE_ROOM;
}

static void put_logfmt(struct log_line *line, const char *key, const char *value)
{
    if (!has_room_for(line, key))
        return;
    if (line->length > 0)
        put_text(line, " ");
    put_text(line, key);
    put_text(line, "=");
    if (!is_bare(value) || !put_text(line, value))
        put_quoted(line, value, put_logfmt_character);
}

static void put_json(struct log_line *line, const char *key, const char *value)
{
    if (!has_room_for(line, key))
        return;
    put_text(line, line->length == 0 ? "{\"" : ",\"");
    put_text(line, key);
    put_text(line, "\":");
    put_quoted(line, value, put_json_character);
}

// A number in JSON too, as in the connection log. It is never the first.
static void put_connection(struct log_line *line, uint64_t connection, bool is_json)
{
    char pair[sizeof ",\"conn\":18446744073709551615"];
    if (is_json)
        (void)snprintf(pair, sizeof pair, ",\"conn\":%" PRIu64, connection);
    else
        (void)snprintf(pair, sizeof pair, " conn=%" PRIu64, connection);
    put_text(line, pair);
}

void log_render(struct log_line *line, const struct log_event *event)
{
    bool is_json = atomic_load_explicit(&format_in_force, memory_order_relaxed) == LOG_JSON;
    void (*put_field)(struct log_line *, const char *, const char *) = is_json ? put_json : put_logfmt;
    char time[CLOCK_RFC3339_SIZE];
    line->length = 0;
    clock_format_rfc3339(event->wall, time);
    put_field(line, "ts", time);
    put_field(line, "level", log_level_name(event->level));
    put_field(line, "msg", event->message);
    if (event->proxy != NULL)
        put_field(line, "proxy", event->proxy);
    if (event->connection != 0)
        put_connection(line, event->connection, is_json);
    for (size_t i = 0; i < event->field_count; i++)
        put_field(line, event->fields[i].key, event->fields[i].value);
    if (is_json)
        put_reserved(line, '}');
    put_reserved(line, '\n');
}
