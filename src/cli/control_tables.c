#include "control_tables.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/compiler.h"
#include "bitflow/base/invariant.h"
#include "bitflow/base/text.h"

#define CELL_MAX 80
#define COLUMNS_MAX 10

struct table {
    const char *const *headings;
    size_t columns;
    char (*cells)[CELL_MAX]; // row by row
    size_t count, size;
    bool has_failed;
};

static void add_cell(struct table *table, const char *text)
{
    if (table->count == table->size) {
        size_t size = 2 * table->size + 64;
        char(*cells)[CELL_MAX] = reallocarray(table->cells, size, sizeof *cells);
        if (cells == NULL) {
            table->has_failed = true;
            return;
        }
        table->cells = cells;
        table->size = size;
    }
    char *cell = table->cells[table->count++];
    (void)snprintf(cell, CELL_MAX, "%s", text == NULL || *text == '\0' ? "-" : text);
    for (size_t at = 0, length = strlen(cell); at < length; at++)
        if (text_is_control(cell, at, length))
            cell[at] = '?';
}

static void print_row(const char *const *cells, const size_t *widths, size_t columns)
{
    for (size_t i = 0; i + 1 < columns; i++)
        (void)printf("%-*s  ", (int)widths[i], cells[i]);
    (void)printf("%s\n", cells[columns - 1]);
}

static bool print_table(struct table *table)
{
    size_t widths[COLUMNS_MAX] = {0};
    INVARIANT(table->columns > 0 && table->columns <= COLUMNS_MAX);
    for (size_t i = 0; i < table->columns; i++)
        widths[i] = strlen(table->headings[i]);
    for (size_t i = 0, column = 0; i < table->count; i++) {
        size_t length = strlen(table->cells[i]);
        widths[column] = length > widths[column] ? length : widths[column];
        column = column + 1 == table->columns ? 0 : column + 1;
    }
    if (!table->has_failed)
        print_row(table->headings, widths, table->columns);
    for (size_t i = 0; !table->has_failed && i < table->count; i += table->columns) {
        const char *cells[COLUMNS_MAX];
        for (size_t k = 0; k < table->columns; k++)
            cells[k] = table->cells[i + k];
        print_row(cells, widths, table->columns);
    }
    free(table->cells);
    return !table->has_failed;
}

// NULL where it is no text.
static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static void add_integer(struct table *table, const json_t *value)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    add_cell(table, json_is_integer(value) ? text : NULL);
}

// As many as three digits and a unit.
static void add_bytes(struct table *table, const json_t *value)
{
    static const char units[] = " kMGTP";
    double number = (double)json_integer_value(value);
    char text[24];
    size_t unit = 0;
    for (; number >= 1000 && unit + 2 < sizeof units; unit++)
        number /= 1000;
    if (unit == 0)
        (void)snprintf(text, sizeof text, "%.0f", number);
    else
        (void)snprintf(text, sizeof text, "%.1f%c", number, units[unit]);
    add_cell(table, text);
}

static void add_milliseconds(struct table *table, const json_t *value)
{
    char text[32];
    long long seconds = (long long)(json_number_value(value) / 1000);
    if (seconds < 1)
        (void)snprintf(text, sizeof text, "%.0fms", json_number_value(value));
    else if (seconds < 60)
        (void)snprintf(text, sizeof text, "%llds", seconds);
    else if (seconds < 3600)
        (void)snprintf(text, sizeof text, "%lldm%llds", seconds / 60, seconds % 60);
    else
        (void)snprintf(text, sizeof text, "%lldh%lldm", seconds / 3600, seconds / 60 % 60);
    add_cell(table, text);
}

static void add_tls(struct table *table, const json_t *connection)
{
    char text[64];
    const char *client = text_of(json_object_get(connection, "client_tls"), "version");
    const char *target = text_of(json_object_get(connection, "target_tls"), "version");
    (void)snprintf(text, sizeof text, "%s / %s", client == NULL ? "plain" : client, target == NULL ? "plain" : target);
    add_cell(table, client == NULL && target == NULL ? NULL : text);
}

static void add_phase(struct table *table, const json_t *connection)
{
    char text[CELL_MAX];
    const char *phase = text_of(connection, "phase"), *step = text_of(connection, "step");
    const char *reason = text_of(connection, "reason");
    (void)snprintf(text, sizeof text, "%s%s%s%s%s", phase == NULL ? "-" : phase, step == NULL ? "" : ", ",
                   step == NULL ? "" : step, reason == NULL ? "" : ": ", reason == NULL ? "" : reason);
    add_cell(table, text);
}

bool control_print_connections(const json_t *list)
{
    static const char *const headings[] = {"ID",  "PROXY",       "CLIENT",      "TARGET", "PHASE",
                                           "AGE", "FROM CLIENT", "FROM TARGET", "TLS"};
    struct table table = {.headings = headings, .columns = ARRAY_LENGTH(headings)};
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *connection = json_array_get(list, i);
        add_integer(&table, json_object_get(connection, "id"));
        add_cell(&table, text_of(connection, "proxy"));
        add_cell(&table, text_of(connection, "client"));
        add_cell(&table, text_of(json_object_get(connection, "target"), "name"));
        add_phase(&table, connection);
        add_milliseconds(&table, json_object_get(connection, "total_ms"));
        add_bytes(&table, json_object_get(connection, "bytes_from_client"));
        add_bytes(&table, json_object_get(connection, "bytes_from_target"));
        add_tls(&table, connection);
    }
    return print_table(&table);
}

static void add_proxy(struct table *table, const json_t *proxy)
{
    const json_t *listener = json_object_get(proxy, "listener"), *targets = json_object_get(proxy, "targets");
    for (size_t i = 0; i == 0 || i < json_array_size(targets); i++) {
        const json_t *target = json_array_get(targets, i);
        bool is_first = i == 0;
        add_cell(table, is_first ? text_of(proxy, "name") : " ");
        add_cell(table, is_first ? text_of(listener, "address") : " ");
        add_cell(table, is_first ? text_of(listener, "state") : " ");
        if (is_first)
            add_integer(table, json_object_get(proxy, "live"));
        else
            add_cell(table, " ");
        if (is_first)
            add_integer(table, json_object_get(proxy, "connection_limit"));
        else
            add_cell(table, " ");
        add_cell(table, text_of(target, "name"));
        add_cell(table, text_of(target, "address"));
        add_integer(table, json_object_get(target, "connections"));
        add_cell(table, text_of(target, "health"));
    }
}

bool control_print_proxies(const json_t *list)
{
    static const char *const headings[] = {"PROXY",  "LISTENS AT", "STATE",       "LIVE",  "LIMIT",
                                           "TARGET", "ADDRESS",    "CONNECTIONS", "HEALTH"};
    struct table table = {.headings = headings, .columns = ARRAY_LENGTH(headings)};
    for (size_t i = 0; i < json_array_size(list); i++)
        add_proxy(&table, json_array_get(list, i));
    return print_table(&table);
}

bool control_print_processes(const json_t *list)
{
    static const char *const headings[] = {"PID", "STATE", "SINCE", "CLOSES IN", "CONNECTIONS", "VERSION", "SOCKET"};
    struct table table = {.headings = headings, .columns = ARRAY_LENGTH(headings)};
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *process = json_array_get(list, i), *left = json_object_get(process, "drain_left_ms");
        add_integer(&table, json_object_get(process, "pid"));
        add_cell(&table, text_of(process, "state"));
        add_milliseconds(&table, json_object_get(process, "state_ms"));
        if (json_is_integer(left))
            add_milliseconds(&table, left);
        else
            add_cell(&table, NULL);
        add_integer(&table, json_object_get(process, "live"));
        add_cell(&table, text_of(process, "version"));
        add_cell(&table, text_of(process, "socket"));
    }
    return print_table(&table);
}

static bool print_value(const json_t *value, int indent);

static bool is_nested(const json_t *value)
{
    return (json_is_object(value) && json_object_size(value) > 0) ||
           (json_is_array(value) && json_array_size(value) > 0);
}

// What is behind a key or a dash.
static bool print_behind(const json_t *value, int indent)
{
    (void)printf(is_nested(value) ? "\n" : " ");
    return print_value(value, indent);
}

static bool print_value(const json_t *value, int indent)
{
    const char *key;
    json_t *member;
    bool is_good = true;
    if (!is_nested(value)) {
        // JSON's scalars, and its empty lists and mappings, are YAML's, too.
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(10));
        is_good = text != NULL && printf("%s\n", text) >= 0;
        free(text);
    } else if (json_is_object(value)) {
        json_object_foreach((json_t *)value, key, member)
        {
            (void)printf("%*s%s:", indent, "", key);
            is_good = print_behind(member, indent + 2) && is_good;
        }
    } else {
        for (size_t i = 0; i < json_array_size(value); i++) {
            (void)printf("%*s-", indent, "");
            is_good = print_behind(json_array_get(value, i), indent + 2) && is_good;
        }
    }
    return is_good;
}

bool control_print_yaml(const json_t *value)
{
    return print_value(value, 0);
}
