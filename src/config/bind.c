#include "bind.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "duration.h"
#include "schema.h"
#include "suggest.h"
#include "value_hints.h"

struct binder {
    struct arena *arena;
    struct diagnostics *diagnostics;
};

// Fields are written through their offsets, which the schema has checked to be of the right type.
_Static_assert(offsetof(struct tls_config, mark) == 0 && offsetof(struct control_config, mark) == 0,
               "an optional object begins with its key's mark");

static void store(void *base, size_t offset, const void *value, size_t size)
{
    memcpy((char *)base + offset, value, size);
}

static void store_list(const struct schema_row *row, void *base, const void *items, size_t count)
{
    store(base, row->offset, &items, sizeof items);
    store(base, row->count_offset, &count, sizeof count);
}

static void bind_object(struct binder *binder, const struct schema_object *object, const struct config_path *path,
                        void *base);

static void set_default(const struct schema_row *row, void *base)
{
    bool flag = row->fallback != 0;
    unsigned word = (unsigned)row->fallback;
    switch (row->type) {
    case SCHEMA_BOOL:
        store(base, row->offset, &flag, sizeof flag);
        break;
    case SCHEMA_ENUM:
    case SCHEMA_WORDS:
        store(base, row->offset, &word, sizeof word);
        break;
    case SCHEMA_INTEGER:
    case SCHEMA_DURATION:
    case SCHEMA_DURATION_OR_OFF:
        store(base, row->offset, &row->fallback, sizeof row->fallback);
        break;
    case SCHEMA_OBJECT:
        for (size_t i = 0; i < row->object->row_count; i++)
            set_default(&row->object->rows[i], (char *)base + row->offset);
        break;
    default: // the memory is zeroed: NULL, or an empty list
        break;
    }
}

// The scalar's text, or NULL after a report that `row` wants `what` here.
static const char *scalar_text(struct binder *binder, const struct schema_row *row, const struct config_path *path,
                               const char *what)
{
    const struct yaml_node *node = path->node;
    char quoted[QUOTED_TEXT_SIZE];
    if (node->kind != YAML_SCALAR)
        report_error_at_value(binder->diagnostics, path, "must be %s, not a %s", what,
                              node->kind == YAML_SEQUENCE ? "list" : "mapping");
    else if (yaml_is_null(node))
        report_error_at_value(binder->diagnostics, path, "must be %s, but has no value", what);
    else if (strlen(node->text) != node->length)
        report_error_at_value(binder->diagnostics, path, "must be %s, without zero bytes%s%s", what,
                              row->is_secret ? "" : ": ",
                              row->is_secret ? "" : quote_text(node->text, node->length, quoted));
    else
        return node->text;
    return NULL;
}

// The text of a number or a bool, which must stand without quotes.
static const char *plain_text(struct binder *binder, const struct schema_row *row, const struct config_path *path,
                              const char *what)
{
    const char *text = scalar_text(binder, row, path, what);
    if (text != NULL && !path->node->is_plain) {
        report_error_at_value(binder->diagnostics, path, "must be %s, not a quoted string", what);
        return NULL;
    }
    return text;
}

static const char *quoted_value(const struct config_path *path, char out[QUOTED_TEXT_SIZE])
{
    return quote_text(path->node->text, path->node->length, out);
}

static const char *checked_string(struct binder *binder, const struct schema_row *row, const struct config_path *path)
{
    const char *text = scalar_text(binder, row, path,
                                   row->type == SCHEMA_STRING || row->type == SCHEMA_STRINGS ? "a string" : "a path");
    if (text == NULL)
        return NULL;
    struct error error = ERROR_INIT;
    char quoted[QUOTED_TEXT_SIZE];
    if (row->check != NULL && !row->check(text, &error)) {
        if (row->is_secret || *text == '\0')
            report_error_at_value(binder->diagnostics, path, "%s", error.text);
        else
            report_error_at_value(binder->diagnostics, path, "%s %s", quoted_value(path, quoted), error.text);
        return NULL;
    }
    return arena_copy_text(binder->arena, text, strlen(text));
}

static void bind_string(struct binder *binder, const struct schema_row *row, const struct config_path *path, void *base)
{
    const char *copy = checked_string(binder, row, path);
    const struct named_file file = {.path = copy, .mark = path->node->mark};
    if (copy != NULL && row->type == SCHEMA_NAMED_FILE)
        store(base, row->offset, &file, sizeof file);
    else if (copy != NULL)
        store(base, row->offset, &copy, sizeof copy);
}

static void bind_bool(struct binder *binder, const struct schema_row *row, const struct config_path *path, void *base)
{
    static const char *const true_words[] = {"true", "True", "TRUE", "yes", "on", "y"};
    static const char *const false_words[] = {"false", "False", "FALSE", "no", "off", "n"};
    const size_t accepted = 3; // YAML 1.2's; the rest are what YAML 1.1 took, too

    const char *text = plain_text(binder, row, path, "true or false");
    if (text == NULL)
        return;
    for (size_t i = 0; i < ARRAY_LENGTH(true_words); i++) {
        bool is_true = strcasecmp(text, true_words[i]) == 0;
        bool is_false = strcasecmp(text, false_words[i]) == 0;
        if (i < accepted && (strcmp(text, true_words[i]) == 0 || strcmp(text, false_words[i]) == 0)) {
            store(base, row->offset, &is_true, sizeof is_true);
            return;
        }
        if (i >= accepted && (is_true || is_false)) {
            report_error_at_value(binder->diagnostics, path, "must be true or false, not %s; did you mean %s?", text,
                                  is_true ? "true" : "false");
            return;
        }
    }
    char quoted[QUOTED_TEXT_SIZE];
    report_error_at_value(binder->diagnostics, path, "must be true or false, not %s", quoted_value(path, quoted));
}

// Decimal digits with an optional sign. False with `is_number` if there are too many of them.
static bool parse_integer(const char *text, int64_t *number, bool *is_number)
{
    bool is_negative = *text == '-';
    if (*text == '-' || *text == '+')
        text++;
    *is_number = *text != '\0' && text[strspn(text, "0123456789")] == '\0';
    int64_t value = 0;
    for (; *is_number && *text != '\0'; text++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_sub_overflow(value, *text - '0', &value))
            return false; // counted downwards, where there is room for one more
    if (!*is_number || (!is_negative && value == INT64_MIN))
        return false;
    *number = is_negative ? value : -value;
    return true;
}

static void bind_integer(struct binder *binder, const struct schema_row *row, const struct config_path *path,
                         void *base)
{
    const char *text = plain_text(binder, row, path, "an integer");
    if (text == NULL)
        return;
    int64_t number = 0;
    bool is_number;
    bool fits = parse_integer(text, &number, &is_number);
    char quoted[QUOTED_TEXT_SIZE];
    if (!is_number)
        report_error_at_value(binder->diagnostics, path, "must be an integer, not %s", quoted_value(path, quoted));
    else if (row->max != 0 && (!fits || number < row->min || number > row->max))
        report_error_at_value(binder->diagnostics, path, "must be from %" PRId64 " to %" PRId64 ", not %.32s", row->min,
                              row->max, text);
    else if (!fits || number < row->min)
        report_error_at_value(binder->diagnostics, path,
                              fits ? "must be at least %" PRId64 ", not %.32s"
                                   : "must be from %" PRId64 " to 9223372036854775807, not %.32s",
                              row->min, text);
    else
        store(base, row->offset, &number, sizeof number);
}

static void bind_duration(struct binder *binder, const struct schema_row *row, const struct config_path *path,
                          void *base)
{
    const char *text = scalar_text(binder, row, path, "a duration");
    if (text == NULL)
        return;
    int64_t duration;
    int64_t max = row->max != 0 ? row->max : SCHEMA_DURATION_MAX;
    struct error error = ERROR_INIT;
    char quoted[QUOTED_TEXT_SIZE];
    char limit[DURATION_TEXT_SIZE];
    if (row->type == SCHEMA_DURATION_OR_OFF && strcmp(text, "-1") == 0) {
        duration = KEEPALIVE_OFF;
    } else if (row->type == SCHEMA_DURATION_OR_OFF && *text == '-') {
        report_error_at_value(binder->diagnostics, path, "%s is negative; only -1 is allowed, which turns it off",
                              quoted_value(path, quoted));
        return;
    } else if (!duration_parse(text, &duration, &error)) {
        report_error_at_value(binder->diagnostics, path, "%s %s", quoted_value(path, quoted), error.text);
        return;
    } else if (duration < row->min || duration > max) {
        duration_format(max, limit);
        report_error_at_value(binder->diagnostics, path, "is too long: at most %s", limit);
        return;
    }
    store(base, row->offset, &duration, sizeof duration);
}

static void bind_address(struct binder *binder, const struct schema_row *row, const struct config_path *path,
                         void *base)
{
    if (path->node->kind == YAML_SEQUENCE) {
        report_error_at_value(binder->diagnostics, path,
                              "must be an address, not a list; one that begins with [ needs quotes, as in '[::1]:80'");
        return;
    }
    const char *text = scalar_text(binder, row, path, "an address");
    struct address address;
    struct error error = ERROR_INIT;
    char quoted[QUOTED_TEXT_SIZE];
    if (text == NULL)
        return;
    enum address_use use = row->type == SCHEMA_LISTEN_ADDRESS ? ADDRESS_TO_LISTEN : ADDRESS_TO_CONNECT;
    if (address_parse(text, use, &address, &error))
        store(base, row->offset, &address, sizeof address);
    else
        report_error_at_value(binder->diagnostics, path, "%s: %s", quoted_value(path, quoted), error.text);
}

// NULL after a report that it is none of the row's.
static const struct schema_word *find_word(struct binder *binder, const struct schema_row *row,
                                           const struct config_path *path)
{
    char what[128] = "one of";
    size_t used = strlen(what);
    for (const struct schema_word *word = row->words; word->word != NULL; word++) {
        int more = snprintf(what + used, sizeof what - used, "%s%s", word == row->words ? " " : ", ", word->word);
        used += more > 0 && (size_t)more < sizeof what - used ? (size_t)more : 0;
    }
    const char *text = scalar_text(binder, row, path, what);
    if (text == NULL)
        return NULL;
    for (const struct schema_word *word = row->words; word->word != NULL; word++)
        if (strcmp(text, word->word) == 0)
            return word;
    char quoted[QUOTED_TEXT_SIZE];
    const char *near = suggest_word(text, row->words);
    report_error_at_value(binder->diagnostics, path, "must be %s, not %s%s%s%s", what, quoted_value(path, quoted),
                          near != NULL ? "; did you mean " : "", near != NULL ? near : "", near != NULL ? "?" : "");
    return NULL;
}

static void bind_enum(struct binder *binder, const struct schema_row *row, const struct config_path *path, void *base)
{
    const struct schema_word *word = find_word(binder, row, path);
    if (word != NULL)
        store(base, row->offset, &word->value, sizeof word->value);
}

// Whether it is a list with enough items.
static bool is_list(struct binder *binder, const struct schema_row *row, const struct config_path *path)
{
    const struct yaml_node *node = path->node;
    if (node->kind != YAML_SEQUENCE) {
        report_error_at_value(binder->diagnostics, path, "must be a list, not a %s",
                              node->kind == YAML_MAPPING ? "mapping" : "single value");
        return false;
    }
    if (node->count < (size_t)row->min) {
        report_error_at_value(binder->diagnostics, path, "must have at least one item%s",
                              row->needs_value ? "; leave the key out for no restriction" : "");
        return false;
    }
    return true;
}

static void bind_strings(struct binder *binder, const struct schema_row *row, const struct config_path *path,
                         void *base)
{
    if (!is_list(binder, row, path))
        return;
    const char **items = arena_take_array(binder->arena, path->node->count, sizeof *items);
    for (size_t i = 0; items != NULL && i < path->node->count; i++) {
        struct config_path item = path_item(path, i);
        items[i] = checked_string(binder, row, &item);
    }
    if (items != NULL)
        store_list(row, base, items, path->node->count);
}

static void bind_words(struct binder *binder, const struct schema_row *row, const struct config_path *path, void *base)
{
    unsigned bits = 0;
    if (!is_list(binder, row, path))
        return;
    for (size_t i = 0; i < path->node->count; i++) {
        struct config_path item = path_item(path, i);
        const struct schema_word *word = find_word(binder, row, &item);
        bits |= word != NULL ? word->value : 0;
    }
    store(base, row->offset, &bits, sizeof bits);
}

static bool parse_item(const struct schema_row *row, const char *text, void *items, size_t index, struct error *error)
{
    return row->type == SCHEMA_CIDRS ? cidr_parse(text, (struct cidr *)items + index, error)
                                     : unix_peer_parse(text, (struct unix_peer *)items + index, error);
}

// A list whose items are read each by itself.
static void bind_parsed(struct binder *binder, const struct schema_row *row, const struct config_path *path, void *base)
{
    bool are_cidrs = row->type == SCHEMA_CIDRS;
    if (!is_list(binder, row, path))
        return;
    void *items =
        arena_take_array(binder->arena, path->node->count, are_cidrs ? sizeof(struct cidr) : sizeof(struct unix_peer));
    for (size_t i = 0; items != NULL && i < path->node->count; i++) {
        struct config_path item = path_item(path, i);
        struct error error = ERROR_INIT;
        char quoted[QUOTED_TEXT_SIZE];
        const char *what = are_cidrs ? "an address block such as 10.0.0.0/8" : "a user or group such as uid:1000";
        const char *text = scalar_text(binder, row, &item, what);
        if (text != NULL && !parse_item(row, text, items, i, &error))
            report_error_at_value(binder->diagnostics, &item, "%s%s %s", quoted_value(&item, quoted),
                                  are_cidrs ? ":" : "", error.text);
    }
    if (items != NULL)
        store_list(row, base, items, path->node->count);
}

static void bind_objects(struct binder *binder, const struct schema_row *row, const struct config_path *path,
                         void *base)
{
    if (!is_list(binder, row, path))
        return;
    char *items = arena_take_array(binder->arena, path->node->count, row->object->size);
    if (items == NULL)
        return;
    // Stored even when an item has diagnostics: the checks across keys go on with the others.
    store_list(row, base, items, path->node->count);
    for (size_t i = 0; i < path->node->count; i++) {
        struct config_path item = path_item(path, i);
        bind_object(binder, row->object, &item, items + i * row->object->size);
    }
}

static void bind_optional_object(struct binder *binder, const struct schema_row *row, const struct config_path *path,
                                 void *base)
{
    void *object = arena_take(binder->arena, row->object->size);
    if (object == NULL)
        return;
    store(base, row->offset, &object, sizeof object);
    store(object, 0, &path->key_mark, sizeof path->key_mark);
    bind_object(binder, row->object, path, object);
}

static void bind_value(struct binder *binder, const struct schema_row *row, const struct config_path *path, void *base)
{
    switch (row->type) {
    case SCHEMA_OBJECT:
        bind_object(binder, row->object, path, (char *)base + row->offset);
        break;
    case SCHEMA_OPTIONAL_OBJECT:
        bind_optional_object(binder, row, path, base);
        break;
    case SCHEMA_OBJECTS:
        bind_objects(binder, row, path, base);
        break;
    case SCHEMA_STRING:
    case SCHEMA_PATH:
    case SCHEMA_NAMED_FILE:
        bind_string(binder, row, path, base);
        break;
    case SCHEMA_STRINGS:
        bind_strings(binder, row, path, base);
        break;
    case SCHEMA_BOOL:
        bind_bool(binder, row, path, base);
        break;
    case SCHEMA_INTEGER:
        bind_integer(binder, row, path, base);
        break;
    case SCHEMA_DURATION:
    case SCHEMA_DURATION_OR_OFF:
        bind_duration(binder, row, path, base);
        break;
    case SCHEMA_LISTEN_ADDRESS:
    case SCHEMA_TARGET_ADDRESS:
        bind_address(binder, row, path, base);
        break;
    case SCHEMA_CIDRS:
    case SCHEMA_PEERS:
        bind_parsed(binder, row, path, base);
        break;
    case SCHEMA_ENUM:
        bind_enum(binder, row, path, base);
        break;
    case SCHEMA_WORDS:
        bind_words(binder, row, path, base);
        break;
    }
    hint_at_value(row, path, binder->diagnostics);
}

static void report_unknown_key(struct binder *binder, const struct schema_object *object,
                               const struct config_path *path)
{
    char suggestion[SUGGESTION_SIZE] = "";
    if (strcmp(path->key, "<<") == 0) {
        report_error_at_key(binder->diagnostics, path, "merge keys are not supported; write the keys out");
        return;
    }
    // Suggestions that nobody will read are not worth their time.
    if (binder->diagnostics->errors < DIAGNOSTICS_MAX)
        suggest_key(path->key, object, suggestion);
    report_error_at_key(binder->diagnostics, path, "unknown key%s%s", suggestion[0] != '\0' ? "; " : "", suggestion);
}

// Finds the row of each key that is there: `found` is indexed as the object's rows.
static void match_keys(struct binder *binder, const struct schema_object *object, const struct config_path *path,
                       struct config_path found[SCHEMA_ROWS_MAX])
{
    for (size_t i = 0; i < path->node->count; i++) {
        const struct yaml_entry *entry = &path->node->entries[i];
        struct config_path at = {
            .parent = path, .key = entry->key->text, .node = entry->value, .key_mark = entry->key->mark};
        const struct schema_row *row = strlen(at.key) == entry->key->length ? schema_find(object, at.key) : NULL;
        if (row == NULL)
            report_unknown_key(binder, object, &at);
        else if (found[row - object->rows].node != NULL)
            report_error_at_key(binder->diagnostics, &at, "duplicate key; it is already on line %zu",
                                found[row - object->rows].key_mark.line);
        else
            found[row - object->rows] = at;
    }
}

static void bind_row(struct binder *binder, const struct schema_row *row, const struct config_path *path, void *base)
{
    set_default(row, base);
    if (path->node == NULL) {
        if (row->is_required) {
            struct config_path missing = {.parent = path->parent, .key = row->key};
            report_error_at_value(binder->diagnostics, &missing, "this key is required, but missing");
        }
    } else if (!yaml_is_null(path->node)) {
        bind_value(binder, row, path, base);
    } else if (row->is_required) {
        report_error_at_key(binder->diagnostics, path, "this key is required, but has no value");
    } else if (row->needs_value) {
        report_error_at_key(binder->diagnostics, path, "has no value; give it one, or leave the key out%s",
                            row->object != NULL ? " for no TLS" : " for no restriction");
    }
}

static void bind_object(struct binder *binder, const struct schema_object *object, const struct config_path *path,
                        void *base)
{
    struct config_path found[SCHEMA_ROWS_MAX] = {{.parent = NULL}};
    if (path->node->kind != YAML_MAPPING)
        report_error_at_value(binder->diagnostics, path, "must be a mapping of keys to values, not a %s",
                              path->node->kind == YAML_SEQUENCE ? "list" : "single value");
    else
        match_keys(binder, object, path, found);
    for (size_t i = 0; i < object->row_count; i++) {
        if (found[i].node == NULL)
            found[i].parent = path;
        if (path->node->kind == YAML_MAPPING || !object->rows[i].is_required)
            bind_row(binder, &object->rows[i], &found[i], base);
    }
}

void bind_config(const struct config_path *root, struct config *config, struct arena *arena,
                 struct diagnostics *diagnostics)
{
    struct binder binder = {.arena = arena, .diagnostics = diagnostics};
    bind_object(&binder, &schema_root, root, config);
}
