#include "yaml_hints.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#include "bitflow/base/text.h"

struct line {
    const char *at;
    const char *end;
    const char *marked; // the character at the mark, or the end
};

static struct line find_line(const char *bytes, size_t length, struct yaml_mark mark)
{
    const char *end = bytes + length;
    struct line line = {.at = bytes};
    for (size_t i = 1; i < mark.line; i++) {
        const char *next = memchr(line.at, '\n', (size_t)(end - line.at));
        line.at = next != NULL ? next + 1 : end;
    }
    const char *newline = line.at < end ? memchr(line.at, '\n', (size_t)(end - line.at)) : NULL;
    line.end = newline != NULL ? newline : end;
    line.marked = line.at;
    for (size_t column = 1; column < mark.column && line.marked < line.end; column++)
        do
            line.marked++;
        while (line.marked < line.end && text_is_continuation(*line.marked));
    return line;
}

// Where the value that the mark is in begins with `first`: behind white space or what encloses or separates values.
static const char *find_beginning(const struct line *line, char first)
{
    for (const char *at = line->marked < line->end ? line->marked : line->end - 1; at > line->at; at--)
        if (*at == first && strchr(" \t,[{", at[-1]) != NULL)
            return at;
    return NULL;
}

// Whether the mark is where the name of an alias ends, which begins at `star`.
static bool is_alias_to(const struct line *line, const char *star)
{
    const char *at = star + 1;
    while (at < line->marked && (isalnum((unsigned char)*at) || *at == '-' || *at == '_'))
        at++;
    return at >= line->marked;
}

// [::1]:80 and such.
static bool is_ipv6(const char *bracket, const char *end)
{
    unsigned colons = 0;
    const char *at = bracket + 1;
    for (; at < end && (isxdigit((unsigned char)*at) || *at == ':' || *at == '.'); at++)
        colons += *at == ':';
    return colons >= 2 && at < end && (*at == ']' || *at == '%');
}

const char *yaml_hint(const char *bytes, size_t length, struct yaml_mark mark)
{
    if (mark.line == 0)
        return "";
    struct line line = find_line(bytes, length, mark);
    if (line.at >= line.end)
        return "";
    const char *indented = line.at;
    while (indented < line.end && *indented == ' ')
        indented++;
    if (indented < line.end && *indented == '\t')
        return "; there is a tab in the indentation, where YAML takes only spaces";
    char marked = line.marked < line.end ? *line.marked : '\0';
    if (marked == '@' || marked == '`' || marked == '%')
        return "; a text that begins with @, ` or % needs quotes";
    const char *star = find_beginning(&line, '*');
    if (star != NULL && is_alias_to(&line, star))
        return "; a text that begins with * needs quotes, as in '*.example.com'";
    const char *bracket = find_beginning(&line, '[');
    if (bracket != NULL && is_ipv6(bracket, line.end))
        return "; an address that begins with [ needs quotes, as in '[::1]:80'";
    return "";
}
