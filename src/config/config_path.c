#include "config_path.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "bitflow/base/text.h"

struct config_path path_root(const struct yaml_node *node)
{
    return (struct config_path){.node = node};
}

struct config_path path_key(const struct config_path *parent, const char *key)
{
    struct config_path path = {.parent = parent, .key = key};
    const struct yaml_entry *entry = yaml_find(parent->node, key);
    if (entry != NULL && !yaml_is_null(entry->value)) {
        path.node = entry->value;
        path.key_mark = entry->key->mark;
    }
    return path;
}

struct config_path path_item(const struct config_path *parent, size_t index)
{
    struct config_path path = {.parent = parent, .index = index};
    const struct yaml_node *list = parent->node;
    if (list != NULL && list->kind == YAML_SEQUENCE && index < list->count)
        path.node = list->entries[index].value;
    return path;
}

// A key from the file may be anything: long, or full of control characters.
static size_t print_key(char *out, size_t size, const char *key)
{
    size_t length = strlen(key);
    size_t used = 0;
    for (; used < length && used + 1 < size && used < 64; used++)
        out[used] = text_is_control(key, used, length) ? '?' : key[used];
    out[used] = '\0';
    return used;
}

static size_t print_path(const struct config_path *path, char *out, size_t size)
{
    out[0] = '\0';
    if (path->parent == NULL)
        return 0;
    size_t used = print_path(path->parent, out, size);
    if (path->key == NULL) {
        int more = snprintf(out + used, size - used, "[%zu]", path->index);
        return more > 0 && (size_t)more < size - used ? used + (size_t)more : size - 1;
    }
    if (used > 0 && used + 1 < size)
        out[used++] = '.';
    return used + print_key(out + used, size - used, path->key);
}

void path_format(const struct config_path *path, char out[PATH_TEXT_SIZE])
{
    (void)print_path(path, out, PATH_TEXT_SIZE);
}

#define TEXT_SIZE 512

static void add(struct diagnostics *diagnostics, enum diagnostic_severity severity, struct yaml_mark mark,
                const struct config_path *path, const char *format, va_list arguments) PRINTF_LIKE(5, 0);
static void add(struct diagnostics *diagnostics, enum diagnostic_severity severity, struct yaml_mark mark,
                const struct config_path *path, const char *format, va_list arguments)
{
    char path_text[PATH_TEXT_SIZE];
    char text[TEXT_SIZE];
    path_format(path, path_text);
    (void)vsnprintf(text, sizeof text, format, arguments);
    diagnostics_add(diagnostics,
                    &(struct diagnostic){.severity = severity, .mark = mark, .path = path_text, .text = text});
}

static struct yaml_mark mark_of_value(const struct config_path *path)
{
    while (path->node == NULL && path->parent != NULL)
        path = path->parent;
    return path->node != NULL ? path->node->mark : (struct yaml_mark){0};
}

void report_error_at_value(struct diagnostics *diagnostics, const struct config_path *path, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add(diagnostics, DIAGNOSTIC_ERROR, mark_of_value(path), path, format, arguments);
    va_end(arguments);
}

void report_error_at_key(struct diagnostics *diagnostics, const struct config_path *path, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add(diagnostics, DIAGNOSTIC_ERROR, path->key_mark, path, format, arguments);
    va_end(arguments);
}

void report_warning_at_value(struct diagnostics *diagnostics, const struct config_path *path, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add(diagnostics, DIAGNOSTIC_WARNING, mark_of_value(path), path, format, arguments);
    va_end(arguments);
}

void report_warning_at_key(struct diagnostics *diagnostics, const struct config_path *path, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add(diagnostics, DIAGNOSTIC_WARNING, path->key_mark, path, format, arguments);
    va_end(arguments);
}

bool path_is_refused(const struct config_path *path, const struct diagnostics *diagnostics)
{
    return path->node != NULL && diagnostics_has_error_at(diagnostics, path->node->mark);
}

const char *quote_text(const char *text, size_t length, char out[QUOTED_TEXT_SIZE])
{
    const size_t room = QUOTED_TEXT_SIZE - sizeof "\\x00...\"";
    size_t used = 0;
    out[used++] = '"';
    size_t i = 0;
    for (; i < length && used < room; i++) {
        if (text[i] == '"' || text_is_control(text, i, length))
            used += (size_t)snprintf(out + used, QUOTED_TEXT_SIZE - used, "\\x%02x", (unsigned char)text[i]);
        else
            out[used++] = text[i];
    }
    (void)snprintf(out + used, QUOTED_TEXT_SIZE - used, "%s\"", i < length ? "..." : "");
    return out;
}
