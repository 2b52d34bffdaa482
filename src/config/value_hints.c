#include "value_hints.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "duration.h"

static bool begins_name(char c)
{
    return isalpha((unsigned char)c) || c == '_';
}

// ${NAME}, ${NAME:-default}, or a template's {{ name }}.
static bool has_braces(const char *text)
{
    for (const char *at = strstr(text, "${"); at != NULL; at = strstr(at + 1, "${"))
        if (begins_name(at[2]) && strchr(at, '}') != NULL)
            return true;
    const char *braces = strstr(text, "{{");
    return braces != NULL && strstr(braces, "}}") != NULL;
}

bool hint_has_variable(const char *place)
{
    for (const char *at = strchr(place, '$'); at != NULL; at = strchr(at + 1, '$'))
        if (at[1] == '_' || at[1] == '(' || isupper((unsigned char)at[1]))
            return true;
    bool is_home = place[0] == '~' && (place[1] == '/' || begins_name(place[1]));
    return is_home || has_braces(place);
}

static void hint_at_variable(const struct schema_row *row, const struct config_path *path, const char *text,
                             struct diagnostics *diagnostics)
{
    bool is_place = row->type == SCHEMA_PATH || row->type == SCHEMA_NAMED_FILE || row->type == SCHEMA_LISTEN_ADDRESS ||
                    row->type == SCHEMA_TARGET_ADDRESS;
    if (is_place ? !hint_has_variable(text) : !has_braces(text))
        return;
    report_warning_at_value(diagnostics, path,
                            *text == '~' ? "~ is taken as it is written: nothing in this file is expanded"
                                         : "a variable is taken as it is written: nothing in this file is expanded");
}

static void hint_at_white_space(const struct schema_row *row, const struct config_path *path, const char *text,
                                struct diagnostics *diagnostics)
{
    bool is_free_text = row->type == SCHEMA_STRING || row->type == SCHEMA_STRINGS || row->type == SCHEMA_PATH ||
                        row->type == SCHEMA_NAMED_FILE;
    size_t length = strlen(text);
    char quoted[QUOTED_TEXT_SIZE];
    if (!is_free_text || row->is_secret || length == 0 ||
        !(isspace((unsigned char)text[0]) || isspace((unsigned char)text[length - 1])))
        return;
    report_warning_at_value(diagnostics, path, "%s has white space at its %s, which is part of it",
                            quote_text(text, length, quoted), isspace((unsigned char)text[0]) ? "beginning" : "end");
}

// Round thousands are milliseconds in many other programs. 5, 10 and 20 hours are as round, and a likely wish; so are
// whole days, for which there is no unit, up to a year.
static void hint_at_milliseconds(const struct config_path *path, const char *text, struct diagnostics *diagnostics)
{
    const long hour = 3600, day = 24 * hour;
    size_t length = strlen(text);
    if (length < 4 || length > 9 || strspn(text, "0123456789") != length)
        return;
    long seconds = strtol(text, NULL, 10);
    bool is_likely = (seconds % hour == 0 && seconds <= 20 * hour) || (seconds % day == 0 && seconds <= 366 * day);
    if (seconds < 1000 || seconds % 500 != 0 || is_likely)
        return;
    char meant[DURATION_TEXT_SIZE];
    duration_format(seconds * NS_PER_S, meant);
    report_warning_at_value(diagnostics, path,
                            "a number without a unit is seconds: this is %s; milliseconds are written %sms", meant,
                            text);
}

static void hint_at_scalar(const struct schema_row *row, const struct config_path *path,
                           struct diagnostics *diagnostics)
{
    const struct yaml_node *node = path->node;
    if (node->kind != YAML_SCALAR || strlen(node->text) != node->length || yaml_is_null(node))
        return;
    hint_at_variable(row, path, node->text, diagnostics);
    hint_at_white_space(row, path, node->text, diagnostics);
    if (row->type == SCHEMA_DURATION || row->type == SCHEMA_DURATION_OR_OFF)
        hint_at_milliseconds(path, node->text, diagnostics);
}

void hint_at_value(const struct schema_row *row, const struct config_path *path, struct diagnostics *diagnostics)
{
    bool is_list = row->type == SCHEMA_STRINGS || row->type == SCHEMA_CIDRS || row->type == SCHEMA_PEERS;
    if (row->object != NULL)
        return;
    if (!is_list) {
        hint_at_scalar(row, path, diagnostics);
        return;
    }
    for (size_t i = 0; path->node->kind == YAML_SEQUENCE && i < path->node->count; i++) {
        struct config_path item = path_item(path, i);
        hint_at_scalar(row, &item, diagnostics);
    }
}
