// The documents against the schema: docs/configuration.md has each key's line as the schema gives it,
// config.example.yaml has every mapping and works, the README has the first keys, the fuzzer's corpus has them all.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/config/config.h"
#include "config/duration.h"
#include "config/schema.h"
#include "config/suggest.h"
#include "config/yaml_tree.h"

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        fail_msg("cannot open %s", path);
    const size_t size = (size_t)1024 * 1024;
    char *text = calloc(1, size);
    assert_non_null(text);
    size_t length = fread(text, 1, size, file);
    assert_true(length > 0 && length < size);
    assert_int_equal(fclose(file), 0);
    return text;
}

static void append(char *out, size_t size, const char *format, ...) PRINTF_LIKE(3, 4);
static void append(char *out, size_t size, const char *format, ...)
{
    size_t used = strlen(out);
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(out + used, size - used, format, arguments);
    va_end(arguments);
    assert_true(more >= 0 && (size_t)more < size - used);
}

static void describe_type(const struct schema_row *row, char *out, size_t size)
{
    static const char *const names[] = {
        [SCHEMA_OBJECT] = "mapping",
        [SCHEMA_OPTIONAL_OBJECT] = "mapping",
        [SCHEMA_OBJECTS] = "list of mappings",
        [SCHEMA_STRING] = "string",
        [SCHEMA_PATH] = "path",
        [SCHEMA_NAMED_FILE] = "path",
        [SCHEMA_STRINGS] = "list of strings",
        [SCHEMA_BOOL] = "`true` or `false`",
        [SCHEMA_INTEGER] = "integer",
        [SCHEMA_DURATION] = "duration",
        [SCHEMA_DURATION_OR_OFF] = "duration or -1",
        [SCHEMA_LISTEN_ADDRESS] = "address",
        [SCHEMA_TARGET_ADDRESS] = "address",
        [SCHEMA_CIDRS] = "list of address blocks",
        [SCHEMA_PEERS] = "list of users and groups",
        [SCHEMA_ENUM] = "",
        [SCHEMA_WORDS] = "list of ",
    };
    append(out, size, "%s", row->syntax != NULL ? row->syntax : names[row->type]);
    for (const struct schema_word *word = row->words; word != NULL && word->word != NULL; word++)
        append(out, size, "%s`%s`", word == row->words ? "" : " ", word->word);
    if (row->type == SCHEMA_INTEGER && row->max != 0)
        append(out, size, " from %lld to %lld", (long long)row->min, (long long)row->max);
    else if (row->type == SCHEMA_INTEGER)
        append(out, size, " from %lld", (long long)row->min);
    if (row->unit != NULL)
        append(out, size, " (%s)", row->unit);
    if (row->type == SCHEMA_DURATION_OR_OFF) {
        char limit[DURATION_TEXT_SIZE];
        duration_format(row->max, limit);
        append(out, size, " up to %s", limit);
    }
}

static void describe_default(const struct schema_row *row, char *out, size_t size)
{
    char text[DURATION_TEXT_SIZE] = "";
    if (row->is_required || row->type == SCHEMA_OBJECT)
        return;
    if (row->fallback_text != NULL) {
        append(out, size, ", %s", row->fallback_text);
    } else if (row->type == SCHEMA_DURATION) {
        duration_format(row->fallback, text);
        append(out, size, ", %s", row->fallback == 0 ? "none" : text);
    } else if (row->type == SCHEMA_INTEGER) {
        append(out, size, ", %lld", (long long)row->fallback);
    } else if (row->type == SCHEMA_BOOL) {
        append(out, size, ", %s", row->fallback != 0 ? "true" : "false");
    } else {
        assert_int_equal(row->type, SCHEMA_ENUM);
        const struct schema_word *word = row->words;
        while (word->word != NULL && (int64_t)word->value != row->fallback)
            word++;
        assert_non_null(word->word);
        append(out, size, ", %s", word->word);
    }
}

struct reading {
    const char *text;
    unsigned missing;
};

// The line of each key, once, and what the key means behind it, which only the reference says.
static void check_table_line(void *context, const char *path, const struct schema_row *row)
{
    struct reading *reading = context;
    char begin[1024] = "";
    append(begin, sizeof begin, "\n| `%s` | %s | ", path, row->is_required ? "yes" : "");
    describe_type(row, begin, sizeof begin);
    describe_default(row, begin, sizeof begin);
    append(begin, sizeof begin, " | ");
    const char *line = strstr(reading->text, begin);
    const char *meaning = line == NULL ? "\n" : line + strlen(begin);
    const char *end = strchr(meaning, '\n');
    bool is_whole = end != NULL && end - meaning > 10 && strncmp(end - 3, ". |", 3) == 0;
    if (!is_whole || strstr(meaning, begin) != NULL) {
        reading->missing++;
        (void)printf("%sWhat it means. |", begin);
    }
}

static void test_the_reference_has_each_keys_line(void **state)
{
    (void)state;
    char *text = read_text(BITFLOW_SOURCE_DIR "/docs/configuration.md");
    struct reading reading = {.text = text};
    schema_walk(check_table_line, &reading);
    if (reading.missing > 0)
        fail_msg("\ndocs/configuration.md lacks the %u lines above, or has them twice", reading.missing);
    free(text);
}

struct table_row {
    const char *path;
    size_t length;
    bool is_known;
};

static void compare_path(void *context, const char *path, const struct schema_row *row)
{
    (void)row;
    struct table_row *line = context;
    line->is_known = line->is_known || (strlen(path) == line->length && memcmp(path, line->path, line->length) == 0);
}

static void test_the_reference_has_no_line_of_a_key_that_there_is_not(void **state)
{
    (void)state;
    static const char header[] = "\n| key | required | type, default | meaning |\n|---|---|---|---|";
    char *text = read_text(BITFLOW_SOURCE_DIR "/docs/configuration.md");
    const char *table = strstr(text, header);
    assert_non_null(table);
    unsigned rows = 0, unknown = 0;
    for (const char *line = strchr(table + strlen(header), '\n'); line != NULL && strncmp(line, "\n| ", 3) == 0;
         line = strchr(line + 1, '\n')) {
        assert_int_equal(strncmp(line, "\n| `", 4), 0);
        struct table_row row = {.path = line + 4, .length = strcspn(line + 4, "`")};
        schema_walk(compare_path, &row);
        rows++;
        if (!row.is_known) {
            unknown++;
            (void)printf("%.*s\n", (int)row.length, row.path);
        }
    }
    assert_true(rows > 50);
    if (unknown > 0)
        fail_msg("\ndocs/configuration.md has the %u keys above, which the schema has not", unknown);
    free(text);
}

struct readme {
    const char *text;
    unsigned rows, known, lacking;
};

static void check_readme_row(void *context, const char *path, const struct schema_row *row)
{
    struct readme *readme = context;
    char beginning[SCHEMA_PATH_SIZE + 8];
    (void)snprintf(beginning, sizeof beginning, "\n| `%s` | ", path);
    const char *found = strstr(readme->text, beginning);
    readme->known += found != NULL;
    if (found == NULL && row->is_required && row->object == NULL) {
        readme->lacking++;
        (void)printf("%s\n", path);
    }
}

// It shows the first keys only: those without which nothing works, and some more.
static void test_the_readme_has_the_required_keys_and_none_that_there_are_not(void **state)
{
    (void)state;
    if (access(BITFLOW_SOURCE_DIR "/README.md", F_OK) != 0)
        skip();
    char *text = read_text(BITFLOW_SOURCE_DIR "/README.md");
    struct readme readme = {.text = text};
    for (const char *row = text; (row = strstr(row, "\n| `")) != NULL; row++)
        readme.rows++;
    schema_walk(check_readme_row, &readme);
    if (readme.lacking > 0)
        fail_msg("README.md lacks the %u keys above", readme.lacking);
    assert_in_range(readme.rows, 8, 12);
    assert_int_equal(readme.known, readme.rows);
    free(text);
}

static void test_the_example_works_as_it_stands(void **state)
{
    (void)state;
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, "example");
    const struct config *config = config_load(BITFLOW_SOURCE_DIR "/config.example.yaml", &diagnostics);
    if (config == NULL)
        fail_msg("%s", diagnostics.list[0].text);
    assert_int_equal(config->log_level, LOG_INFO);
    assert_int_equal(config->proxy_count, 1);
    char text[ADDRESS_TEXT_SIZE];
    address_format(&config->proxies[0].listener.address, text);
    assert_string_equal(text, "tcp://127.0.0.1:8080");
    assert_int_equal(config->proxies[0].target_count, 1);
    address_format(&config->proxies[0].targets[0].address, text);
    assert_string_equal(text, "tcp://127.0.0.1:8000");
    config_drop(&config);
    diagnostics_release(&diagnostics);
}

// Takes away the # of the example's "#key: value" and "#- item" lines; remarks have a space after theirs.
static void uncomment(char *text)
{
    char *to = text;
    bool is_indent = true;
    for (const char *from = text; *from != '\0'; from++) {
        bool is_marker = is_indent && from[0] == '#' && from[1] != ' ' && from[1] != '\n';
        if (!is_marker)
            *to++ = *from;
        is_indent = *from == '\n' || (is_indent && *from == ' ');
    }
    *to = '\0';
}

// Whether the document has a value at the path, in any item of the lists on the way.
static bool has_value(const struct yaml_node *node, const char *path)
{
    if (strncmp(path, "[]", 2) == 0) {
        for (size_t i = 0; node->kind == YAML_SEQUENCE && i < node->count; i++)
            if (has_value(node->entries[i].value, path + 2))
                return true;
        return false;
    }
    if (*path == '\0')
        return !yaml_is_null(node);
    if (*path == '.')
        path++;
    char key[SCHEMA_PATH_SIZE] = "";
    size_t length = strcspn(path, ".[");
    memcpy(key, path, length);
    const struct yaml_entry *entry = yaml_find(node, key);
    return entry != NULL && has_value(entry->value, path + length);
}

struct document {
    const struct yaml_node *root;
    unsigned missing;
};

static void check_document_has(void *context, const char *path, const struct schema_row *row)
{
    (void)row;
    struct document *document = context;
    if (!has_value(document->root, path)) {
        document->missing++;
        (void)printf("%s\n", path);
    }
}

// The reference alone has to have every key; the example shows where they go.
static void check_example_has(void *context, const char *path, const struct schema_row *row)
{
    if (row->object != NULL || row->is_required)
        check_document_has(context, path, row);
}

// Every row that `check` counts must have a value in the YAML, and all of its values must be right.
static void check_document(const char *name, const char *text,
                           void (*check)(void *context, const char *path, const struct schema_row *row))
{
    struct arena arena;
    arena_init(&arena);
    struct document document = {.root = NULL};
    struct yaml_mark mark;
    struct error error = ERROR_INIT;
    if (!yaml_tree_parse(text, strlen(text), &arena, &document.root, &mark, &error))
        fail_msg("%s:%zu:%zu: %s", name, mark.line, mark.column, error.text);
    schema_walk(check, &document);
    if (document.missing > 0)
        fail_msg("%s lacks the %u keys above", name, document.missing);
    arena_release(&arena);

    // Not all of it has an effect at once: there may be warnings.
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, name);
    const struct config *config = config_load_text(text, strlen(text), &diagnostics);
    for (size_t i = 0; i < diagnostics.kept; i++)
        if (diagnostics.list[i].severity == DIAGNOSTIC_ERROR)
            fail_msg("%s: %s", diagnostics.list[i].path, diagnostics.list[i].text);
    config_drop(&config);
    diagnostics_release(&diagnostics);
}

static void test_the_example_shows_every_mapping_and_all_that_it_shows_is_right(void **state)
{
    (void)state;
    char *text = read_text(BITFLOW_SOURCE_DIR "/config.example.yaml");
    uncomment(text);
    check_document("config.example.yaml, uncommented,", text, check_example_has);
    free(text);
}

static void test_the_fuzzer_begins_with_every_key(void **state)
{
    (void)state;
    char *text = read_text(BITFLOW_SOURCE_DIR "/test/fuzz/corpus/fuzz_config/every_key.yaml");
    check_document("every_key.yaml", text, check_document_has);
    free(text);
}

static void check_row(void *context, const char *path, const struct schema_row *row)
{
    (void)context;
    bool is_object = row->type == SCHEMA_OBJECT || row->type == SCHEMA_OPTIONAL_OBJECT || row->type == SCHEMA_OBJECTS;
    bool is_list = row->type == SCHEMA_OBJECTS || row->type == SCHEMA_STRINGS || row->type == SCHEMA_CIDRS ||
                   row->type == SCHEMA_PEERS;
    bool has_words = row->type == SCHEMA_ENUM || row->type == SCHEMA_WORDS;
    if ((row->object != NULL) != is_object || (row->words != NULL) != has_words ||
        (row->max != 0 && row->min > row->max) || (!is_list && row->count_offset != 0) ||
        (is_list && row->count_offset == row->offset))
        fail_msg("%s: the row contradicts itself", path);
    // What is secret must be known by its check, never by its text.
    if (row->is_secret && row->check == NULL)
        fail_msg("%s: a secret without a check", path);
}

static void test_the_rows_make_sense(void **state)
{
    (void)state;
    schema_walk(check_row, NULL);
}

static void test_the_distance_of_two_words_counts_their_edits(void **state)
{
    (void)state;
    static const struct {
        const char *a;
        const char *b;
        size_t distance;
    } cases[] = {
        {"", "", 0},
        {"a", "", 1},
        {"", "abc", 3},
        {"name", "name", 0},
        {"nmae", "name", 1},
        {"nam", "name", 1},
        {"names", "name", 1},
        {"nane", "name", 1},
        {"adress", "address", 1},
        {"ca", "abc", 3},
        {"kitten", "sitting", 3},
        {"abcdefgh", "ijklmnop", 5},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        assert_int_equal(suggest_distance(cases[i].a, cases[i].b, 5), cases[i].distance);
        assert_int_equal(suggest_distance(cases[i].b, cases[i].a, 5), cases[i].distance);
    }
    assert_int_equal(suggest_distance("0123456789012345678901234567890123456789", "0", 5), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_reference_has_each_keys_line),
        cmocka_unit_test(test_the_reference_has_no_line_of_a_key_that_there_is_not),
        cmocka_unit_test(test_the_readme_has_the_required_keys_and_none_that_there_are_not),
        cmocka_unit_test(test_the_example_works_as_it_stands),
        cmocka_unit_test(test_the_example_shows_every_mapping_and_all_that_it_shows_is_right),
        cmocka_unit_test(test_the_fuzzer_begins_with_every_key),
        cmocka_unit_test(test_the_rows_make_sense),
        cmocka_unit_test(test_the_distance_of_two_words_counts_their_edits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
