#include "bind.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "duration.h"
#include "schema.h"
#include "suggest.h"

struct binder {
    struct region *region;
    struct problem_list *problems;
};

// Fields are written through their offsets; memcpy keeps that free of assumptions about their exact types.
_Static_assert(sizeof(enum log_level) == sizeof(unsigned), "enumerations are read as unsigned");
_Static_assert(sizeof(enum log_format) == sizeof(unsigned), "enumerations are read as unsigned");
_Static_assert(sizeof(enum verify_mode) == sizeof(unsigned), "enumerations are read as unsigned");
_Static_assert(sizeof(enum tls_minimum) == sizeof(unsigned), "enumerations are read as unsigned");
_Static_assert(sizeof(enum proxy_header_version) == sizeof(unsigned), "enumerations are read as unsigned");
_Static_assert(sizeof(enum balancer_policy) == sizeof(unsigned), "enumerations are read as unsigned");

static void store(void *base, size_t offset, const void *value, size_t size)
{
    memcpy((char *)base + offset, value, size);
}

static void store_list(const struct schema_row *row, void *base, const void *items, size_t count)
{
    store(base, row->offset, &items, sizeof items);
    store(base, row->count_offset, &count, sizeof count);
}

static void store_key_mark(const struct schema_row *row, const struct place *place, void *base)
{
    if (row->has_mark)
        store(base, row->mark_offset, &place->key_mark, sizeof place->key_mark);
}

static void bind_object(struct binder *binder, const struct schema_object *object, const struct place *place,
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
static const char *scalar_text(struct binder *binder, const struct schema_row *row, const struct place *place,
                               const char *what)
{
    const struct yaml_node *node = place->node;
    char quoted[QUOTED_TEXT_SIZE];
    if (node->kind != YAML_SCALAR)
        problem_at_value(binder->problems, place, "must be %s, not a %s", what,
                         node->kind == YAML_SEQUENCE ? "list" : "mapping");
    else if (yaml_is_null(node))
        problem_at_value(binder->problems, place, "must be %s, but has no value", what);
    else if (strlen(node->text) != node->length)
        problem_at_value(binder->problems, place, "must be %s, without zero bytes%s%s", what,
                         row->is_secret ? "" : ": ",
                         row->is_secret ? "" : quote_text(node->text, node->length, quoted));
    else
        return node->text;
    return NULL;
}

// The text of a number or a bool, which must stand without quotes.
static const char *plain_text(struct binder *binder, const struct schema_row *row, const struct place *place,
                              const char *what)
{
    const char *text = scalar_text(binder, row, place, what);
    if (text != NULL && !place->node->is_plain) {
        problem_at_value(binder->problems, place, "must be %s, not a quoted string", what);
        return NULL;
    }
    return text;
}

static const char *quoted_value(const struct place *place, char out[QUOTED_TEXT_SIZE])
{
    return quote_text(place->node->text, place->node->length, out);
}

static const char *checked_string(struct binder *binder, const struct schema_row *row, const struct place *place)
{
    const char *text = scalar_text(binder, row, place, row->type == SCHEMA_PATH ? "a path" : "a string");
    if (text == NULL)
        return NULL;
    struct error error = ERROR_INIT;
    char quoted[QUOTED_TEXT_SIZE];
    if (row->check != NULL && !row->check(text, &error)) {
        if (row->is_secret || *text == '\0')
            problem_at_value(binder->problems, place, "%s", error.text);
        else
            problem_at_value(binder->problems, place, "%s %s", quoted_value(place, quoted), error.text);
        return NULL;
    }
    return region_copy_text(binder->region, text, strlen(text));
}

static void bind_string(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    const char *copy = checked_string(binder, row, place);
    if (copy != NULL)
        store(base, row->offset, &copy, sizeof copy);
    if (copy != NULL && row->has_mark)
        store(base, row->mark_offset, &place->node->mark, sizeof place->node->mark);
}

static void bind_bool(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    static const char *const true_words[] = {"true", "True", "TRUE", "yes", "on", "y"};
    static const char *const false_words[] = {"false", "False", "FALSE", "no", "off", "n"};
    const size_t accepted = 3; // YAML 1.2's; the rest are what YAML 1.1 took, too

    const char *text = plain_text(binder, row, place, "true or false");
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
            problem_at_value(binder->problems, place, "must be true or false, not %s; did you mean %s?", text,
                             is_true ? "true" : "false");
            return;
        }
    }
    char quoted[QUOTED_TEXT_SIZE];
    problem_at_value(binder->problems, place, "must be true or false, not %s", quoted_value(place, quoted));
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

static void store_number(const struct schema_row *row, const struct place *place, void *base, int64_t number)
{
    store(base, row->offset, &number, sizeof number);
    store_key_mark(row, place, base);
}

static void bind_integer(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    const char *text = plain_text(binder, row, place, "an integer");
    if (text == NULL)
        return;
    int64_t number = 0;
    bool is_number;
    bool fits = parse_integer(text, &number, &is_number);
    char quoted[QUOTED_TEXT_SIZE];
    if (!is_number)
        problem_at_value(binder->problems, place, "must be an integer, not %s", quoted_value(place, quoted));
    else if (row->max != 0 && (!fits || number < row->min || number > row->max))
        problem_at_value(binder->problems, place, "must be from %" PRId64 " to %" PRId64 ", not %.32s", row->min,
                         row->max, text);
    else if (!fits || number < row->min)
        problem_at_value(binder->problems, place,
                         fits ? "must be at least %" PRId64 ", not %.32s"
                              : "must be from %" PRId64 " to 9223372036854775807, not %.32s",
                         row->min, text);
    else
        store_number(row, place, base, number);
}

static void bind_duration(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    const char *text = scalar_text(binder, row, place, "a duration");
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
        problem_at_value(binder->problems, place, "%s is negative; only -1 is allowed, which turns it off",
                         quoted_value(place, quoted));
        return;
    } else if (!duration_parse(text, &duration, &error)) {
        problem_at_value(binder->problems, place, "%s %s", quoted_value(place, quoted), error.text);
        return;
    } else if (duration < row->min || duration > max) {
        duration_format(max, limit);
        problem_at_value(binder->problems, place, "is too long: at most %s", limit);
        return;
    }
    store_number(row, place, base, duration);
}

static void bind_address(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    const char *text = scalar_text(binder, row, place, "an address");
    struct address address;
    struct error error = ERROR_INIT;
    char quoted[QUOTED_TEXT_SIZE];
    if (text == NULL)
        return;
    enum address_use use = row->type == SCHEMA_LISTEN_ADDRESS ? ADDRESS_TO_LISTEN : ADDRESS_TO_CONNECT;
    if (address_parse(text, use, &address, &error))
        store(base, row->offset, &address, sizeof address);
    else
        problem_at_value(binder->problems, place, "%s: %s", quoted_value(place, quoted), error.text);
}

static void bind_enum(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    char what[128] = "one of";
    size_t used = strlen(what);
    for (const struct schema_word *word = row->words; word->word != NULL; word++) {
        int more = snprintf(what + used, sizeof what - used, "%s%s", word == row->words ? " " : ", ", word->word);
        used += more > 0 && (size_t)more < sizeof what - used ? (size_t)more : 0;
    }
    const char *text = scalar_text(binder, row, place, what);
    if (text == NULL)
        return;
    for (const struct schema_word *word = row->words; word->word != NULL; word++) {
        if (strcmp(text, word->word) == 0) {
            store(base, row->offset, &word->value, sizeof word->value);
            store_key_mark(row, place, base);
            return;
        }
    }
    char quoted[QUOTED_TEXT_SIZE];
    const char *near = suggest_word(text, row->words);
    problem_at_value(binder->problems, place, "must be %s, not %s%s%s%s", what, quoted_value(place, quoted),
                     near != NULL ? "; did you mean " : "", near != NULL ? near : "", near != NULL ? "?" : "");
}

// Whether it is a list with enough items.
static bool is_list(struct binder *binder, const struct schema_row *row, const struct place *place)
{
    const struct yaml_node *node = place->node;
    if (node->kind != YAML_SEQUENCE) {
        problem_at_value(binder->problems, place, "must be a list, not a %s",
                         node->kind == YAML_MAPPING ? "mapping" : "single value");
        return false;
    }
    if (node->count < (size_t)row->min) {
        problem_at_value(binder->problems, place, "must have at least one item%s",
                         row->needs_value ? "; leave the key out for no restriction" : "");
        return false;
    }
    return true;
}

static void bind_strings(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    if (!is_list(binder, row, place))
        return;
    const char **items = region_take_array(binder->region, place->node->count, sizeof *items);
    for (size_t i = 0; items != NULL && i < place->node->count; i++) {
        struct place item = place_item(place, i);
        items[i] = checked_string(binder, row, &item);
    }
    if (items != NULL)
        store_list(row, base, items, place->node->count);
}

static void bind_cidrs(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    if (!is_list(binder, row, place))
        return;
    struct cidr *items = region_take_array(binder->region, place->node->count, sizeof *items);
    for (size_t i = 0; items != NULL && i < place->node->count; i++) {
        struct place item = place_item(place, i);
        struct error error = ERROR_INIT;
        char quoted[QUOTED_TEXT_SIZE];
        const char *text = scalar_text(binder, row, &item, "an address block such as 10.0.0.0/8");
        if (text != NULL && !cidr_parse(text, &items[i], &error))
            problem_at_value(binder->problems, &item, "%s: %s", quoted_value(&item, quoted), error.text);
    }
    if (items != NULL)
        store_list(row, base, items, place->node->count);
}

static void bind_objects(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    if (!is_list(binder, row, place))
        return;
    char *items = region_take_array(binder->region, place->node->count, row->object->size);
    if (items == NULL)
        return;
    // Stored even when an item has problems: the checks across keys go on with the others.
    store_list(row, base, items, place->node->count);
    store_key_mark(row, place, base);
    for (size_t i = 0; i < place->node->count; i++) {
        struct place item = place_item(place, i);
        bind_object(binder, row->object, &item, items + i * row->object->size);
    }
}

static void bind_optional_object(struct binder *binder, const struct schema_row *row, const struct place *place,
                                 void *base)
{
    void *object = region_take(binder->region, row->object->size);
    if (object == NULL)
        return;
    store(base, row->offset, &object, sizeof object);
    store_key_mark(row, place, object);
    bind_object(binder, row->object, place, object);
}

static void bind_value(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    switch (row->type) {
    case SCHEMA_OBJECT:
        bind_object(binder, row->object, place, (char *)base + row->offset);
        break;
    case SCHEMA_OPTIONAL_OBJECT:
        bind_optional_object(binder, row, place, base);
        break;
    case SCHEMA_OBJECTS:
        bind_objects(binder, row, place, base);
        break;
    case SCHEMA_STRING:
    case SCHEMA_PATH:
        bind_string(binder, row, place, base);
        break;
    case SCHEMA_STRINGS:
        bind_strings(binder, row, place, base);
        break;
    case SCHEMA_BOOL:
        bind_bool(binder, row, place, base);
        break;
    case SCHEMA_INTEGER:
        bind_integer(binder, row, place, base);
        break;
    case SCHEMA_DURATION:
    case SCHEMA_DURATION_OR_OFF:
        bind_duration(binder, row, place, base);
        break;
    case SCHEMA_LISTEN_ADDRESS:
    case SCHEMA_TARGET_ADDRESS:
        bind_address(binder, row, place, base);
        break;
    case SCHEMA_CIDRS:
        bind_cidrs(binder, row, place, base);
        break;
    case SCHEMA_ENUM:
        bind_enum(binder, row, place, base);
        break;
    }
}

static void report_unknown_key(struct binder *binder, const struct schema_object *object, const struct place *place)
{
    char suggestion[SUGGESTION_SIZE] = "";
    if (strcmp(place->key, "<<") == 0) {
        problem_at_key(binder->problems, place, "merge keys are not supported; write the keys out");
        return;
    }
    // Suggestions that nobody will read are not worth their time.
    if (binder->problems->out->count < CONFIG_PROBLEMS_MAX)
        suggest_key(place->key, object, suggestion);
    problem_at_key(binder->problems, place, "unknown key%s%s", suggestion[0] != '\0' ? "; " : "", suggestion);
}

// Finds the row of each key that is there: `found` is indexed as the object's rows.
static void match_keys(struct binder *binder, const struct schema_object *object, const struct place *place,
                       struct place found[SCHEMA_ROWS_MAX])
{
    for (size_t i = 0; i < place->node->count; i++) {
        const struct yaml_entry *entry = &place->node->entries[i];
        struct place at = {
            .parent = place, .key = entry->key->text, .node = entry->value, .key_mark = entry->key->mark};
        const struct schema_row *row = strlen(at.key) == entry->key->length ? schema_find(object, at.key) : NULL;
        if (row == NULL)
            report_unknown_key(binder, object, &at);
        else if (found[row - object->rows].node != NULL)
            problem_at_key(binder->problems, &at, "duplicate key; it is on line %zu already",
                           found[row - object->rows].key_mark.line);
        else
            found[row - object->rows] = at;
    }
}

static void bind_row(struct binder *binder, const struct schema_row *row, const struct place *place, void *base)
{
    set_default(row, base);
    if (place->node == NULL) {
        if (row->is_required) {
            struct place missing = {.parent = place->parent, .key = row->key};
            problem_at_value(binder->problems, &missing, "this key is required, but missing");
        }
    } else if (!yaml_is_null(place->node)) {
        bind_value(binder, row, place, base);
    } else if (row->is_required) {
        problem_at_key(binder->problems, place, "this key is required, but has no value");
    } else if (row->needs_value) {
        problem_at_key(binder->problems, place, "has no value; give it one, or leave the key out%s",
                       row->object != NULL ? " for no TLS" : " for no restriction");
    }
}

static void bind_object(struct binder *binder, const struct schema_object *object, const struct place *place,
                        void *base)
{
    struct place found[SCHEMA_ROWS_MAX] = {{.parent = NULL}};
    if (place->node->kind != YAML_MAPPING)
        problem_at_value(binder->problems, place, "must be a mapping of keys to values, not a %s",
                         place->node->kind == YAML_SEQUENCE ? "list" : "single value");
    else
        match_keys(binder, object, place, found);
    for (size_t i = 0; i < object->row_count; i++) {
        if (found[i].node == NULL)
            found[i].parent = place;
        if (place->node->kind == YAML_MAPPING || !object->rows[i].is_required)
            bind_row(binder, &object->rows[i], &found[i], base);
    }
}

void bind_config(const struct place *root, struct config *config, struct region *region, struct problem_list *problems)
{
    struct binder binder = {.region = region, .problems = problems};
    bind_object(&binder, &schema_root, root, config);
}
