#include "bitflow/base/json_writer.h"

#include <string.h>

#include "bitflow/base/clock.h"

void json_writer_init(struct json_writer *writer, char *buffer, size_t size)
{
    *writer = (struct json_writer){.size = size, .is_first = true};
    writer->buffer = buffer;
}

static void put(struct json_writer *writer, const char *text, size_t length)
{
    if (writer->length <= writer->size && length <= writer->size - writer->length)
        memcpy(writer->buffer + writer->length, text, length);
    writer->length += length;
}

#define PUT(writer, literal) put(writer, literal, sizeof(literal) - 1)

static void put_key(struct json_writer *writer, const char *key)
{
    if (!writer->is_first)
        PUT(writer, ",");
    writer->is_first = false;
    if (key == NULL)
        return;
    PUT(writer, "\"");
    put(writer, key, strlen(key));
    PUT(writer, "\":");
}

void json_put_begin(struct json_writer *writer, const char *key)
{
    put_key(writer, key);
    PUT(writer, "{");
    writer->is_first = true;
}

void json_put_end(struct json_writer *writer)
{
    PUT(writer, "}");
    writer->is_first = false;
}

void json_put_null(struct json_writer *writer, const char *key)
{
    put_key(writer, key);
    PUT(writer, "null");
}

void json_put_bool(struct json_writer *writer, const char *key, bool value)
{
    put_key(writer, key);
    if (value)
        PUT(writer, "true");
    else
        PUT(writer, "false");
}

static void put_number(struct json_writer *writer, uint64_t value)
{
    char digits[sizeof "18446744073709551615"];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    put(writer, digits + at, sizeof digits - at);
}

void json_put_count(struct json_writer *writer, const char *key, uint64_t value)
{
    put_key(writer, key);
    put_number(writer, value);
}

void json_put_milliseconds(struct json_writer *writer, const char *key, int64_t ns)
{
    uint64_t us = ns < 0 ? 0 : (uint64_t)(ns / NS_PER_US);
    unsigned rest = (unsigned)(us % 1000);
    const char fraction[] = {'.', (char)('0' + rest / 100), (char)('0' + rest / 10 % 10), (char)('0' + rest % 10)};
    put_key(writer, key);
    put_number(writer, us / 1000);
    put(writer, fraction, sizeof fraction);
}

// The code point that begins at `*text`, which is moved behind it; UINT32_MAX: it is not UTF-8 (RFC 3629).
static uint32_t take_code_point(const unsigned char **text)
{
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    const unsigned char *at = *text;
    unsigned more = *at < 0x80 ? 0 : *at >= 0xf0 ? 3 : *at >= 0xe0 ? 2 : 1;
    if ((*at >= 0x80 && *at < 0xc0) || *at >= 0xf8)
        return UINT32_MAX;
    uint32_t point = more == 0 ? *at : *at & (0x3fU >> more);
    for (unsigned i = 0; i < more; i++) {
        at++;
        if ((*at & 0xc0) != 0x80) // also where the text ends
            return UINT32_MAX;
        point = point << 6 | (*at & 0x3fU);
    }
    if (point < least[more] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
        return UINT32_MAX;
    *text = at + 1;
    return point;
}

static void put_unit(struct json_writer *writer, uint32_t unit)
{
    static const char digits[] = "0123456789abcdef";
    const char escape[] = {
        '\\', 'u', digits[unit >> 12 & 15], digits[unit >> 8 & 15], digits[unit >> 4 & 15], digits[unit & 15]};
    put(writer, escape, sizeof escape);
}

// RFC 8259, 7.
static void put_escaped(struct json_writer *writer, uint32_t point)
{
    const char simple[] = {'\\', (char)point};
    if (point == '"' || point == '\\') {
        put(writer, simple, sizeof simple);
    } else if (point < 0x10000) {
        put_unit(writer, point);
    } else {
        put_unit(writer, 0xd800 + ((point - 0x10000) >> 10));
        put_unit(writer, 0xdc00 + ((point - 0x10000) & 0x3ff));
    }
}

static bool is_plain(unsigned char byte)
{
    return byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\';
}

// False: it is not UTF-8.
static bool put_text(struct json_writer *writer, const char *value)
{
    const unsigned char *at = (const unsigned char *)value;
    for (;;) {
        const unsigned char *begin = at;
        while (is_plain(*at))
            at++;
        put(writer, (const char *)begin, (size_t)(at - begin));
        if (*at == '\0')
            return true;
        uint32_t point = take_code_point(&at);
        if (point == UINT32_MAX)
            return false;
        put_escaped(writer, point);
    }
}

void json_put_text(struct json_writer *writer, const char *key, const char *value)
{
    if (value == NULL) {
        json_put_null(writer, key);
        return;
    }
    put_key(writer, key);
    PUT(writer, "\"");
    size_t before = writer->length;
    if (!put_text(writer, value)) {
        writer->length = before;
        PUT(writer, "(not UTF-8)");
    }
    PUT(writer, "\"");
}
