// Writes bitflow.yaml(5): a template's page, and in place of its line "@KEYS@" each key of the schema, in the schema's
// order, with what the line of docs/configuration.md's table says of it. test_schema.c holds these lines to the schema;
// a key without one ends the build.
//
//   keys TEMPLATE CONFIGURATION.MD >PAGE

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/compiler.h"
#include "bitflow/version.h"
#include "config/schema.h"

#define TEXT_SIZE ((size_t)1024 * 1024)
#define CELL_SIZE ((size_t)4096)

static char table[TEXT_SIZE];

static void fail(const char *format, ...) PRINTF_LIKE(1, 2) __attribute__((noreturn));
static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)fputs("keys: ", stderr);
    (void)vfprintf(stderr, format, arguments);
    (void)fputc('\n', stderr);
    va_end(arguments);
    exit(EXIT_FAILURE);
}

static void read_text(const char *path, char *text)
{
    FILE *file = fopen(path, "re");
    size_t length = file == NULL ? 0 : fread(text, 1, TEXT_SIZE - 1, file);
    if (length == 0 || length == TEXT_SIZE - 1 || ferror(file) || fclose(file) != 0)
        fail("cannot read %s", path);
    text[length] = '\0';
}

// ---- Markdown's inline marks in roff's way: code is bold, a link is its text.

static void put_character(char character)
{
    if (character == '\\')
        (void)fputs("\\e", stdout);
    else if (character == '-')
        (void)fputs("\\-", stdout);
    else if (character == '\'')
        (void)fputs("\\(aq", stdout);
    else
        (void)putchar(character);
}

static void put_text(const char *text, const char *font)
{
    bool is_code = false;
    for (const char *at = text; *at != '\0'; at++) {
        const char *link = *at == ']' && at[1] == '(' ? strchr(at, ')') : NULL;
        if (*at == '`') {
            is_code = !is_code;
            (void)printf("\\f%s", is_code ? "B" : font);
        } else if (link != NULL && !is_code) {
            at = link;
        } else if (*at == '[' && !is_code && strstr(at, "](") != NULL) {
            continue;
        } else {
            put_character(*at);
        }
    }
    (void)putchar('\n');
}

// ---- the table's lines

// Copies the cell that begins at `*at`, without the spaces around it, and moves behind its "|".
static void take_cell(const char **at, char *cell, const char *path)
{
    const char *end = strstr(*at, " |");
    const char *line_end = strchr(*at, '\n');
    if (end == NULL || line_end == NULL || end > line_end || (size_t)(end - *at) >= CELL_SIZE)
        fail("%s: its line has too few cells", path);
    const char *begin = *at + (**at == ' ');
    size_t length = end > begin ? (size_t)(end - begin) : 0;
    memcpy(cell, begin, length);
    cell[length] = '\0';
    *at = end + sizeof " |" - 1;
}

static void put_key(void *context, const char *path, const struct schema_row *row)
{
    (void)context;
    char begin[SCHEMA_PATH_SIZE + 8], required[CELL_SIZE], type[CELL_SIZE], meaning[CELL_SIZE];
    (void)snprintf(begin, sizeof begin, "\n| `%s` |", path);
    const char *at = strstr(table, begin);
    if (at == NULL)
        fail("the configuration's table has no line of %s", path);
    at += strlen(begin);
    take_cell(&at, required, path);
    take_cell(&at, type, path);
    take_cell(&at, meaning, path);
    if ((strcmp(required, "yes") == 0) != row->is_required)
        fail("%s: the table and the schema differ in whether it is required", path);
    (void)printf(".TP\n\\fB");
    for (const char *name = path; *name != '\0'; name++)
        put_character(*name);
    (void)printf("\\fR%s\n\\fI", row->is_required ? " (required)" : "");
    put_text(type, "I");
    (void)printf("\\fR\n.br\n");
    put_text(meaning, "R");
}

int main(int argc, char **argv)
{
    static char template[TEXT_SIZE];
    static const char keys[] = "\n@KEYS@\n", version[] = "@VERSION@";
    if (argc != 3)
        fail("usage: keys TEMPLATE CONFIGURATION.MD");
    read_text(argv[1], template);
    read_text(argv[2], table);
    char *place = strstr(template, keys), *number = strstr(template, version);
    if (place == NULL || number == NULL || number > place)
        fail("%s has no line @KEYS@, or no @VERSION@ before it", argv[1]);
    *place = *number = '\0';
    (void)printf("%s" BITFLOW_VERSION "%s\n", template, number + sizeof version - 1);
    schema_walk(put_key, NULL);
    (void)fputs(place + sizeof keys - 1, stdout);
    return fflush(stdout) == 0 && !ferror(stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
}
