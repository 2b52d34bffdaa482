#include "line.h"

#include <string.h>

#include "bitflow/base/text.h"

// False: it was cut, or there is no room for any of it.
static bool put(struct sentry_line *line, char *room, size_t size, const char *string)
{
    size_t length = strlen(string);
    size_t left = size - line->length;
    if (left < 2)
        return false;
    bool fits = length < left;
    if (!fits)
        length = text_cut(string, left - 1);
    memcpy(room + line->length, string, length);
    room[line->length + length] = '\0';
    line->length += (uint32_t)length + 1;
    return fits;
}

void sentry_line_pack(const struct log_event *event, struct sentry_line *line, char *room, size_t size)
{
    *line = (struct sentry_line){.wall = event->wall, .connection = event->connection, .level = event->level};
    if (!put(line, room, size, event->message) || !put(line, room, size, event->proxy == NULL ? "" : event->proxy))
        return;
    for (size_t i = 0; i < event->field_count; i++) {
        uint32_t before = line->length;
        if (!put(line, room, size, event->fields[i].key)) {
            line->length = before;
            return;
        }
        if (!put(line, room, size, event->fields[i].value)) {
            if (line->length == before + strlen(event->fields[i].key) + 1)
                line->length = before; // no key without a value
            return;
        }
    }
}

const char *sentry_line_next(const char **at, const char *end)
{
    const char *string = *at;
    size_t left = (size_t)(end - string);
    size_t length = strnlen(string, left);
    if (length == left)
        return NULL;
    *at = string + length + 1;
    return string;
}

const char *sentry_line_message(const struct sentry_line *line, const char *text)
{
    const char *at = text;
    const char *message = sentry_line_next(&at, text + line->length);
    return message == NULL ? "" : message;
}

const char *sentry_line_proxy(const struct sentry_line *line, const char *text)
{
    const char *at = text;
    if (sentry_line_next(&at, text + line->length) == NULL)
        return NULL;
    const char *proxy = sentry_line_next(&at, text + line->length);
    return proxy == NULL || *proxy == '\0' ? NULL : proxy;
}

const char *sentry_line_fields(const struct sentry_line *line, const char *text)
{
    const char *at = text;
    (void)sentry_line_next(&at, text + line->length);
    (void)sentry_line_next(&at, text + line->length);
    return at;
}

bool sentry_line_next_field(const struct sentry_line *line, const char *text, const char **at, struct log_field *field)
{
    const char *key = sentry_line_next(at, text + line->length);
    const char *value = key == NULL ? NULL : sentry_line_next(at, text + line->length);
    if (value == NULL)
        return false;
    *field = (struct log_field){.key = key, .value = value};
    return true;
}

const char *sentry_line_field(const struct sentry_line *line, const char *text, const char *key)
{
    const char *at = sentry_line_fields(line, text);
    struct log_field field;
    while (sentry_line_next_field(line, text, &at, &field))
        if (strcmp(field.key, key) == 0)
            return field.value;
    return NULL;
}
