#include "bitflow/config/problem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/text.h"

// Stands for a line that there was no memory for; it is not freed.
static char out_of_memory_line[] = "out of memory";

void config_problems_init(struct config_problems *problems)
{
    *problems = (struct config_problems){.count = 0};
}

static void free_line(char *line)
{
    if (line != out_of_memory_line)
        free(line);
}

void config_problems_release(struct config_problems *problems)
{
    for (size_t i = 0; i < problems->kept; i++)
        free_line(problems->lines[i]);
    config_problems_init(problems);
}

struct place place_root(const struct yaml_node *node)
{
    return (struct place){.node = node};
}

struct place place_key(const struct place *parent, const char *key)
{
    struct place place = {.parent = parent, .key = key};
    const struct yaml_entry *entry = yaml_find(parent->node, key);
    if (entry != NULL && !yaml_is_null(entry->value)) {
        place.node = entry->value;
        place.key_mark = entry->key->mark;
    }
    return place;
}

struct place place_item(const struct place *parent, size_t index)
{
    struct place place = {.parent = parent, .index = index};
    const struct yaml_node *list = parent->node;
    if (list != NULL && list->kind == YAML_SEQUENCE && index < list->count)
        place.node = list->entries[index].value;
    return place;
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

static size_t print_place(const struct place *place, char *out, size_t size)
{
    out[0] = '\0';
    if (place->parent == NULL)
        return 0;
    size_t used = print_place(place->parent, out, size);
    if (place->key == NULL) {
        int more = snprintf(out + used, size - used, "[%zu]", place->index);
        return more > 0 && (size_t)more < size - used ? used + (size_t)more : size - 1;
    }
    if (used > 0 && used + 1 < size)
        out[used++] = '.';
    return used + print_key(out + used, size - used, place->key);
}

void place_format(const struct place *place, char out[PLACE_TEXT_SIZE])
{
    (void)print_place(place, out, PLACE_TEXT_SIZE);
}

void problem_list_init(struct problem_list *list, const char *file, struct config_problems *out)
{
    *list = (struct problem_list){.file = file, .out = out};
}

// Keeps the lines in the file's order; when there are too many, those nearest to its beginning.
static void insert_line(struct problem_list *list, struct yaml_mark mark, char *line)
{
    struct config_problems *out = list->out;
    out->count++;
    size_t at = out->kept;
    while (at > 0 && (list->marks[at - 1].line > mark.line ||
                      (list->marks[at - 1].line == mark.line && list->marks[at - 1].column > mark.column)))
        at--;
    if (at == CONFIG_PROBLEMS_MAX) {
        free_line(line);
        return;
    }
    if (out->kept == CONFIG_PROBLEMS_MAX)
        free_line(out->lines[--out->kept]);
    memmove(&out->lines[at + 1], &out->lines[at], (out->kept - at) * sizeof out->lines[0]);
    memmove(&list->marks[at + 1], &list->marks[at], (out->kept - at) * sizeof list->marks[0]);
    out->lines[at] = line;
    list->marks[at] = mark;
    out->kept++;
}

static void add(struct problem_list *list, struct yaml_mark mark, const struct place *place, const char *text)
{
    char where[64] = "";
    if (mark.line > 0)
        (void)snprintf(where, sizeof where, ":%zu:%zu", mark.line, mark.column);
    char path[PLACE_TEXT_SIZE] = "";
    if (place != NULL)
        place_format(place, path);

    static const char format[] = "%s%s: %s%s%s";
    const char *colon = path[0] != '\0' ? ": " : "";
    int length = snprintf(NULL, 0, format, list->file, where, path, colon, text);
    char *line = length >= 0 ? malloc((size_t)length + 1) : NULL;
    if (line != NULL)
        (void)snprintf(line, (size_t)length + 1, format, list->file, where, path, colon, text);
    insert_line(list, mark, line != NULL ? line : out_of_memory_line);
}

#define PROBLEM_TEXT_SIZE 512

void problem_at_value(struct problem_list *list, const struct place *place, const char *format, ...)
{
    char text[PROBLEM_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const struct place *present = place;
    while (present->node == NULL && present->parent != NULL)
        present = present->parent;
    add(list, present->node != NULL ? present->node->mark : (struct yaml_mark){0}, place, text);
}

void problem_at_key(struct problem_list *list, const struct place *place, const char *format, ...)
{
    char text[PROBLEM_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    add(list, place->key_mark, place, text);
}

void problem_at_mark(struct problem_list *list, struct yaml_mark mark, const char *format, ...)
{
    char text[PROBLEM_TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    add(list, mark, NULL, text);
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
