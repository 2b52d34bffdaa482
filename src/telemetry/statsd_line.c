#include "statsd_line.h"

#include <stdio.h>
#include <string.h>

#include "bitflow/base/text.h"

struct text {
    char *out;
    size_t length; // beyond STATSD_LINE_MAX: it does not fit
};

static void put(struct text *text, char byte)
{
    if (text->length < STATSD_LINE_MAX)
        text->out[text->length] = byte;
    text->length++;
}

static void put_all(struct text *text, const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        put(text, bytes[i]);
}

static void put_string(struct text *text, const char *string)
{
    put_all(text, string, strlen(string));
}

static bool is_plain(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
           byte == '_' || byte == '-';
}

// A name's component has no dot of its own, a tag's value may. A character of several bytes is one '_'.
static void put_value(struct text *text, const char *value, bool takes_dots)
{
    for (; *value != '\0'; value++) {
        if (is_plain(*value) || (takes_dots && *value == '.'))
            put(text, *value);
        else if (!text_is_continuation(*value))
            put(text, '_');
    }
}

static const struct metric_label *find_label(const struct metric_name *name, const char *key, size_t length)
{
    for (size_t i = 0; i < name->label_count; i++)
        if (strlen(name->labels[i].key) == length && memcmp(name->labels[i].key, key, length) == 0)
            return &name->labels[i];
    return NULL;
}

// The pattern with its labels in place, or without those components.
static void put_name(struct text *text, const struct statsd_line *line)
{
    bool has_labels = line->format == STATSD_PLAIN;
    const char *at = line->name->pattern;
    bool is_first = true;
    while (*at != '\0') {
        size_t length = strcspn(at, ".");
        bool is_label = *at == '{';
        if (!is_label || has_labels) {
            if (!is_first)
                put(text, '.');
            is_first = false;
        }
        if (!is_label)
            put_all(text, at, length);
        else if (has_labels)
            put_value(text, find_label(line->name, at + 1, length - 2)->value, false);
        at += length;
        if (*at == '.')
            at++;
    }
}

static void put_tags(struct text *text, const struct statsd_line *line)
{
    bool is_influxdb = line->format == STATSD_INFLUXDB;
    for (size_t i = 0; i < line->name->label_count; i++) {
        const struct metric_label *label = &line->name->labels[i];
        if (is_influxdb || i > 0)
            put(text, ',');
        else
            put_string(text, "|#");
        put_string(text, label->key);
        put(text, is_influxdb ? '=' : ':');
        put_value(text, label->value, true);
    }
}

// Without an exponent, which not every receiver reads.
static void put_rate(struct text *text, double rate)
{
    char number[32];
    int length = snprintf(number, sizeof number, "%.12f", rate);
    while (length > 0 && number[length - 1] == '0')
        length--;
    put_string(text, "|@");
    put_all(text, number, (size_t)length);
}

size_t statsd_render(const struct statsd_line *line, char out[STATSD_LINE_MAX])
{
    struct text text = {.out = out};
    put_string(&text, line->prefix);
    if (*line->prefix != '\0' && line->prefix[strlen(line->prefix) - 1] != '.')
        put(&text, '.');
    put_name(&text, line);
    if (line->format == STATSD_INFLUXDB)
        put_tags(&text, line);
    put(&text, ':');
    put_string(&text, line->value);
    put(&text, '|');
    put_string(&text, line->type);
    if (line->rate < 1)
        put_rate(&text, line->rate);
    if (line->format == STATSD_DOGSTATSD)
        put_tags(&text, line);
    return text.length <= STATSD_LINE_MAX ? text.length : 0;
}
