#include "yaml_tree.h"

#include <string.h>
#include <yaml.h>

#include "bitflow/base/text.h"
#include "yaml_hints.h"

struct anchor {
    const struct anchor *older;
    const char *name;
    struct yaml_node *node;
    bool is_complete; // its node has been read to the end
};

struct pending {
    struct pending *next;
    struct yaml_entry entry;
};

struct builder {
    yaml_parser_t parser;
    const char *bytes;
    size_t length;
    struct arena *arena;
    struct anchor *anchors;
    size_t anchor_count;
    size_t nodes;
    unsigned depth;
    struct yaml_mark mark; // of the error
    struct error *error;
};

static struct yaml_mark mark_of(yaml_mark_t mark)
{
    return (struct yaml_mark){.line = mark.line + 1, .column = mark.column + 1};
}

#define FAIL(builder, where, ...)                                \
    do {                                                         \
        (builder)->mark = (where);                               \
        error_set((builder)->error, ERROR_INVALID, __VA_ARGS__); \
    } while (0)

static void *no_memory(struct builder *builder)
{
    builder->mark = (struct yaml_mark){0};
    error_set(builder->error, ERROR_NO_MEMORY, "out of memory");
    return NULL;
}

// libyaml gives no line for bytes that are not text, only their offset.
static struct yaml_mark mark_of_offset(const struct builder *builder, size_t offset)
{
    struct yaml_mark mark = {.line = 1, .column = 1};
    for (size_t i = 0; i < offset && i < builder->length; i++) {
        if (builder->bytes[i] == '\n') {
            mark.line++;
            mark.column = 1;
        } else if (!text_is_continuation(builder->bytes[i])) {
            mark.column++;
        }
    }
    return mark;
}

static void set_parser_error(struct builder *builder)
{
    const yaml_parser_t *parser = &builder->parser;
    const char *problem = parser->problem != NULL ? parser->problem : "unknown problem";
    const char *hint = yaml_hint(builder->bytes, builder->length, mark_of(parser->problem_mark));
    if (parser->error == YAML_MEMORY_ERROR)
        no_memory(builder);
    else if (parser->error == YAML_READER_ERROR)
        FAIL(builder, mark_of_offset(builder, parser->problem_offset), "not valid YAML: %s", problem);
    else if (parser->context != NULL)
        FAIL(builder, mark_of(parser->problem_mark), "not valid YAML: %s (%s that begins on line %zu)%s", problem,
             parser->context, parser->context_mark.line + 1, hint);
    else
        FAIL(builder, mark_of(parser->problem_mark), "not valid YAML: %s%s", problem, hint);
}

static bool next_event(struct builder *builder, yaml_event_t *event)
{
    if (yaml_parser_parse(&builder->parser, event) != 0)
        return true;
    set_parser_error(builder);
    return false;
}

static void delete_event(yaml_event_t *event)
{
    if (event->type == YAML_SCALAR_EVENT)
        explicit_bzero(event->data.scalar.value, event->data.scalar.length); // it may be a password
    yaml_event_delete(event);
}

static bool count_nodes(struct builder *builder, size_t more, struct yaml_mark mark)
{
    builder->nodes += more; // bounded by what is checked here, so it cannot wrap
    if (builder->nodes <= YAML_TREE_NODES_MAX)
        return true;
    FAIL(builder, mark, "the configuration is too large: more than %d nodes%s", YAML_TREE_NODES_MAX,
         builder->anchor_count > 0 ? ", aliases expanded" : "");
    return false;
}

static bool define_anchor(struct builder *builder, const yaml_char_t *name, struct yaml_node *node,
                          struct anchor **defined)
{
    if (name == NULL) {
        *defined = NULL;
        return true;
    }
    if (++builder->anchor_count > YAML_TREE_ANCHORS_MAX) {
        FAIL(builder, node->mark, "too many anchors: more than %d", YAML_TREE_ANCHORS_MAX);
        return false;
    }
    const char *text = (const char *)name;
    struct anchor *anchor = arena_take(builder->arena, sizeof *anchor);
    char *copy = arena_copy_text(builder->arena, text, strlen(text));
    if (anchor == NULL || copy == NULL) {
        no_memory(builder);
        return false;
    }
    *anchor = (struct anchor){.older = builder->anchors, .name = copy, .node = node};
    builder->anchors = anchor;
    *defined = anchor;
    return true;
}

static struct yaml_node *build_alias(struct builder *builder, const yaml_event_t *event)
{
    const char *name = (const char *)event->data.alias.anchor;
    struct yaml_mark mark = mark_of(event->start_mark);
    const struct anchor *anchor = builder->anchors;
    while (anchor != NULL && strcmp(anchor->name, name) != 0)
        anchor = anchor->older;
    if (anchor == NULL) {
        FAIL(builder, mark, "alias *%.64s has no anchor before it", name);
        return NULL;
    }
    if (!anchor->is_complete) {
        FAIL(builder, mark, "alias *%.64s is inside what it refers to", name);
        return NULL;
    }
    if (!count_nodes(builder, anchor->node->weight, mark))
        return NULL;
    struct yaml_node *node = arena_take(builder->arena, sizeof *node);
    if (node == NULL)
        return no_memory(builder);
    *node = *anchor->node;
    node->mark = mark;
    return node;
}

static struct yaml_node *build_scalar(struct builder *builder, const yaml_event_t *event)
{
    struct yaml_node *node = arena_take(builder->arena, sizeof *node);
    char *text = arena_copy_text(builder->arena, (const char *)event->data.scalar.value, event->data.scalar.length);
    if (node == NULL || text == NULL)
        return no_memory(builder);
    *node = (struct yaml_node){
        .kind = YAML_SCALAR,
        .mark = mark_of(event->start_mark),
        .is_plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE,
        .text = text,
        .length = event->data.scalar.length,
        .weight = 1,
    };
    struct anchor *anchor;
    if (!count_nodes(builder, 1, node->mark) || !define_anchor(builder, event->data.scalar.anchor, node, &anchor))
        return NULL;
    if (anchor != NULL)
        anchor->is_complete = true;
    return node;
}

static struct yaml_node *build_node(struct builder *builder, const yaml_event_t *event);

// Reads the next node; NULL with `is_end` at the collection's end, without it on an error.
static struct yaml_node *next_node(struct builder *builder, bool *is_end)
{
    yaml_event_t event;
    *is_end = false;
    if (!next_event(builder, &event))
        return NULL;
    struct yaml_node *node = NULL;
    if (event.type == YAML_SEQUENCE_END_EVENT || event.type == YAML_MAPPING_END_EVENT)
        *is_end = true;
    else
        node = build_node(builder, &event);
    delete_event(&event);
    return node;
}

// One entry of the collection; false at its end (`is_end`) or on an error.
static bool next_entry(struct builder *builder, enum yaml_kind kind, struct yaml_entry *entry, bool *is_end)
{
    *entry = (struct yaml_entry){.key = NULL};
    if (kind == YAML_MAPPING) {
        entry->key = next_node(builder, is_end);
        if (entry->key == NULL)
            return false;
        if (entry->key->kind != YAML_SCALAR) {
            FAIL(builder, entry->key->mark, "a key must be plain text, not a list or a mapping");
            return false;
        }
    }
    entry->value = next_node(builder, is_end);
    return entry->value != NULL;
}

static bool fill_collection(struct builder *builder, struct yaml_node *node)
{
    struct pending *first = NULL;
    struct pending **link = &first;
    struct yaml_entry entry;
    bool is_end;
    while (next_entry(builder, node->kind, &entry, &is_end)) {
        struct pending *pending = arena_take(builder->arena, sizeof *pending);
        if (pending == NULL)
            return no_memory(builder);
        pending->entry = entry;
        *link = pending;
        link = &pending->next;
        node->count++;
        node->weight += entry.value->weight + (entry.key != NULL ? entry.key->weight : 0);
    }
    if (!is_end)
        return false;
    struct yaml_entry *entries = arena_take_array(builder->arena, node->count, sizeof *entries);
    if (entries == NULL)
        return no_memory(builder);
    size_t i = 0;
    for (const struct pending *pending = first; pending != NULL; pending = pending->next)
        entries[i++] = pending->entry;
    node->entries = entries;
    return true;
}

static struct yaml_node *build_collection(struct builder *builder, const yaml_event_t *event)
{
    bool is_mapping = event->type == YAML_MAPPING_START_EVENT;
    struct yaml_node *node = arena_take(builder->arena, sizeof *node);
    if (node == NULL)
        return no_memory(builder);
    *node = (struct yaml_node){
        .kind = is_mapping ? YAML_MAPPING : YAML_SEQUENCE,
        .mark = mark_of(event->start_mark),
        .weight = 1,
    };
    if (builder->depth >= YAML_TREE_DEPTH_MAX) {
        FAIL(builder, node->mark, "nested too deeply: more than %d levels", YAML_TREE_DEPTH_MAX);
        return NULL;
    }
    struct anchor *anchor;
    if (!count_nodes(builder, 1, node->mark) ||
        !define_anchor(builder, is_mapping ? event->data.mapping_start.anchor : event->data.sequence_start.anchor, node,
                       &anchor))
        return NULL;
    builder->depth++;
    if (!fill_collection(builder, node))
        return NULL;
    builder->depth--;
    if (anchor != NULL)
        anchor->is_complete = true;
    return node;
}

static struct yaml_node *build_node(struct builder *builder, const yaml_event_t *event)
{
    const yaml_char_t *tag = NULL;
    if (event->type == YAML_SCALAR_EVENT)
        tag = event->data.scalar.tag;
    else if (event->type == YAML_SEQUENCE_START_EVENT)
        tag = event->data.sequence_start.tag;
    else if (event->type == YAML_MAPPING_START_EVENT)
        tag = event->data.mapping_start.tag;
    if (tag != NULL) {
        FAIL(builder, mark_of(event->start_mark), "YAML tags (!...) are not supported");
        return NULL;
    }
    if (event->type == YAML_SCALAR_EVENT)
        return build_scalar(builder, event);
    if (event->type == YAML_ALIAS_EVENT)
        return build_alias(builder, event);
    return build_collection(builder, event);
}

// The root; NULL on an error.
static struct yaml_node *build_document(struct builder *builder)
{
    struct yaml_node *root = NULL;
    for (;;) {
        yaml_event_t event;
        if (!next_event(builder, &event))
            return NULL;
        yaml_event_type_t type = event.type;
        struct yaml_mark mark = mark_of(event.start_mark);
        if (type == YAML_DOCUMENT_START_EVENT && root != NULL) {
            FAIL(builder, mark, "more than one YAML document: a configuration is a single one");
            root = NULL;
            type = YAML_NO_EVENT;
        } else if (type == YAML_SCALAR_EVENT || type == YAML_ALIAS_EVENT || type == YAML_SEQUENCE_START_EVENT ||
                   type == YAML_MAPPING_START_EVENT) {
            root = build_node(builder, &event);
            if (root == NULL)
                type = YAML_NO_EVENT;
        } else if (type == YAML_STREAM_END_EVENT && root == NULL) {
            FAIL(builder, ((struct yaml_mark){.line = 1, .column = 1}), "the file has no configuration in it");
        }
        delete_event(&event);
        if (type == YAML_NO_EVENT || type == YAML_STREAM_END_EVENT)
            return root;
    }
}

bool yaml_tree_parse(const char *bytes, size_t length, struct arena *arena, const struct yaml_node **root,
                     struct yaml_mark *mark, struct error *error)
{
    struct builder builder = {.bytes = bytes, .length = length, .arena = arena, .error = error};
    struct yaml_node *built = NULL;
    if (length > YAML_TREE_BYTES_MAX) {
        FAIL(&builder, (struct yaml_mark){0}, "too large: a configuration is limited to 1 MiB");
    } else if (yaml_parser_initialize(&builder.parser) == 0) {
        no_memory(&builder);
    } else {
        yaml_parser_set_input_string(&builder.parser, (const unsigned char *)bytes, length);
        built = build_document(&builder);
        yaml_parser_delete(&builder.parser);
    }
    if (built == NULL)
        *mark = builder.mark;
    else
        *root = built;
    return built != NULL;
}

bool yaml_is_null(const struct yaml_node *node)
{
    return node->kind == YAML_SCALAR && node->is_plain &&
           (node->length == 0 || yaml_text_is(node, "~") || yaml_text_is(node, "null") || yaml_text_is(node, "Null") ||
            yaml_text_is(node, "NULL"));
}

bool yaml_text_is(const struct yaml_node *node, const char *text)
{
    return node->kind == YAML_SCALAR && node->length == strlen(text) && memcmp(node->text, text, node->length) == 0;
}

const struct yaml_entry *yaml_find(const struct yaml_node *node, const char *key)
{
    if (node == NULL || node->kind != YAML_MAPPING)
        return NULL;
    for (size_t i = 0; i < node->count; i++)
        if (yaml_text_is(node->entries[i].key, key))
            return &node->entries[i];
    return NULL;
}
