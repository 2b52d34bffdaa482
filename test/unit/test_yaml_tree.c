// The tree that libyaml's events become: positions, aliases, bounds, and what is refused.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/yaml_tree.h"

struct document {
    struct arena arena;
    const struct yaml_node *root;
};

static void setup(struct document *document, const char *text)
{
    struct yaml_mark mark;
    struct error error = ERROR_INIT;
    arena_init(&document->arena);
    if (!yaml_tree_parse(text, strlen(text), &document->arena, &document->root, &mark, &error))
        fail_msg("%zu:%zu: %s", mark.line, mark.column, error.text);
}

static const struct yaml_node *value(const struct yaml_node *node, const char *key)
{
    const struct yaml_entry *entry = yaml_find(node, key);
    assert_non_null(entry);
    return entry->value;
}

static void assert_mark(const struct yaml_node *node, size_t line, size_t column)
{
    assert_int_equal(node->mark.line, line);
    assert_int_equal(node->mark.column, column);
}

static void test_every_node_has_its_line_and_column(void **state)
{
    (void)state;
    struct document document;
    setup(&document, "# a remark\n"
                     "ä: \"x\\ty\"\n"
                     "list:\n"
                     "  - 1\n"
                     "  - {k: v}\n");
    const struct yaml_node *root = document.root;
    assert_int_equal(root->kind, YAML_MAPPING);
    assert_int_equal(root->count, 2);
    assert_int_equal(root->weight, 9);
    assert_mark(root, 2, 1);
    assert_mark(value(root, "ä"), 2, 4); // characters, not bytes
    assert_string_equal(value(root, "ä")->text, "x\ty");
    assert_false(value(root, "ä")->is_plain);
    const struct yaml_node *list = value(root, "list");
    assert_int_equal(list->kind, YAML_SEQUENCE);
    assert_int_equal(list->count, 2);
    assert_null(list->entries[0].key);
    assert_mark(list->entries[0].value, 4, 5);
    assert_true(list->entries[0].value->is_plain);
    assert_mark(value(list->entries[1].value, "k"), 5, 9);
    assert_null(yaml_find(root, "lis"));
    assert_null(yaml_find(list, "list"));
    arena_release(&document.arena);
}

static void test_aliases_stand_for_their_anchor(void **state)
{
    (void)state;
    struct document document;
    setup(&document, "a: &x {k: 1}\n"
                     "b: *x\n"
                     "c: &x 2\n" // an anchor may be defined anew
                     "d: *x\n");
    assert_mark(value(document.root, "b"), 2, 4);
    assert_string_equal(value(value(document.root, "b"), "k")->text, "1");
    assert_string_equal(value(document.root, "d")->text, "2");
    arena_release(&document.arena);
}

static void test_null_is_what_yaml_says(void **state)
{
    (void)state;
    struct document document;
    setup(&document, "{a: , b: ~, c: null, d: '', e: \"null\", f: nil, g: NULL, h: []}");
    static const struct {
        const char *key;
        bool is_null;
    } cases[] = {{"a", true},  {"b", true},  {"c", true}, {"d", false},
                 {"e", false}, {"f", false}, {"g", true}, {"h", false}};
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        if (yaml_is_null(value(document.root, cases[i].key)) != cases[i].is_null)
            fail_msg("key %s", cases[i].key);
    arena_release(&document.arena);
}

static void assert_refused_bytes(const char *bytes, size_t length, size_t line, size_t column, const char *why)
{
    struct arena arena;
    arena_init(&arena);
    const struct yaml_node *root = NULL;
    struct yaml_mark mark = {99, 99};
    struct error error = ERROR_INIT;
    bool is_parsed = yaml_tree_parse(bytes, length, &arena, &root, &mark, &error);
    arena_release(&arena);
    if (is_parsed)
        fail_msg("was read, in place of: %s", why);
    assert_null(root);
    assert_string_equal(error.text, why);
    assert_int_equal(mark.line, line);
    assert_int_equal(mark.column, column);
}

static void assert_refused(const char *text, size_t line, size_t column, const char *why)
{
    assert_refused_bytes(text, strlen(text), line, column, why);
}

static void test_what_is_no_yaml_is_refused(void **state)
{
    (void)state;
    assert_refused("", 1, 1, "the file has no configuration in it");
    assert_refused("# only this\n\n", 1, 1, "the file has no configuration in it");
    assert_refused("a: 1\n b: 2\n", 2, 3, "not valid YAML: mapping values are not allowed in this context");
    assert_refused("a: [1, 2\nb: 3\n", 2, 2,
                   "not valid YAML: did not find expected ',' or ']' (while parsing a flow sequence that begins on "
                   "line 1)");
    assert_refused("a:\n\t- 1\n", 2, 1,
                   "not valid YAML: found character that cannot start any token (while scanning for the next token "
                   "that begins on line 2); there is a tab in the indentation, where YAML takes only spaces");
    assert_refused("a: \"never ends\n", 2, 1,
                   "not valid YAML: found unexpected end of stream (while scanning a quoted scalar that begins on "
                   "line 1)");
    assert_refused("a: 1\nb: \xff\n", 2, 4, "not valid YAML: invalid leading UTF-8 octet");
    assert_refused("\xc3\xa4: \xc3\n", 1, 5, "not valid YAML: invalid trailing UTF-8 octet");
    assert_refused_bytes("a: 1\nb: x\0y\n", 12, 2, 5, "not valid YAML: control characters are not allowed");
}

#define ALIAS "not valid YAML: did not find expected alphabetic or numeric character (while scanning an alias that "
#define TOKEN "not valid YAML: found character that cannot start any token (while scanning for the next token that "
#define FLOW "not valid YAML: did not find expected node content (while parsing a flow node that "
#define STAR "begins on line 1); a text that begins with * needs quotes, as in '*.example.com'"
#define BRACKET "; an address that begins with [ needs quotes, as in '[::1]:80'"
#define SIGN "begins on line 1); a text that begins with @, ` or % needs quotes"

// libyaml tells of its grammar; what somebody is likely to have written is told beside it.
static void test_what_lacks_quotes_is_told(void **state)
{
    (void)state;
    assert_refused("a: *.example.com\n", 1, 5, ALIAS STAR);
    assert_refused("- *:80\n", 1, 4, ALIAS STAR);
    assert_refused("- *\n", 1, 4, ALIAS STAR);
    assert_refused("a: *x.y\n", 1, 6, ALIAS STAR);
    assert_refused("{\xc3\xa4: *.x}\n", 1, 6, ALIAS STAR);
    assert_refused("a: @name\n", 1, 4, TOKEN SIGN);
    assert_refused("a: `x`\n", 1, 4, TOKEN SIGN);
    assert_refused("a: %x\n", 1, 4, TOKEN SIGN);
    assert_refused("a: [::1]:80\n", 1, 5, FLOW "begins on line 1)" BRACKET);
    assert_refused("{a: [::]:80}\n", 1, 6, FLOW "begins on line 1)" BRACKET);
    assert_refused(
        "a: [2001:db8::1]:80\n", 1, 17,
        "not valid YAML: did not find expected key (while parsing a block mapping that begins on line 1)" BRACKET);
    assert_refused("a:\n  b: [fe80::1%lo]:80\n  c: d\n", 2, 18,
                   "not valid YAML: did not find expected key (while parsing a block mapping that begins on line "
                   "2)" BRACKET);
    // Nothing of the kind: an alias, a list.
    assert_refused(
        "a: &x 1\nb: [*x, 'y' 'z']\n", 2, 13,
        "not valid YAML: did not find expected ',' or ']' (while parsing a flow sequence that begins on line "
        "2)");
    assert_refused("a: [1, 2]:3\n", 1, 10,
                   "not valid YAML: did not find expected key (while parsing a block mapping that begins on line 1)");
}

static void test_what_no_configuration_needs_is_refused(void **state)
{
    (void)state;
    assert_refused("a: 1\n---\nb: 2\n", 2, 1, "more than one YAML document: a configuration is a single one");
    assert_refused("a: 1\nb: *c\n", 2, 4, "alias *c has no anchor before it");
    assert_refused("a: &x\n  - *x\n", 2, 5, "alias *x is inside what it refers to");
    assert_refused("a: 1\n[b]: 1\n", 2, 1, "a key must be plain text, not a list or a mapping");
    assert_refused("a: 1\n? {b: 1}\n: 2\n", 2, 3, "a key must be plain text, not a list or a mapping");
    assert_refused("a: !!str 1\n", 1, 4, "YAML tags (!...) are not supported");
    assert_refused("!x {}\n", 1, 1, "YAML tags (!...) are not supported");
}

static char *repeated(const char *before, const char *part, size_t times, const char *after)
{
    size_t size = strlen(before) + times * strlen(part) + strlen(after) + 1;
    char *text = malloc(size);
    assert_non_null(text);
    char *at = stpcpy(text, before);
    for (size_t i = 0; i < times; i++)
        at = stpcpy(at, part);
    (void)stpcpy(at, after);
    return text;
}

static void test_nesting_is_bounded(void **state)
{
    (void)state;
    char *fits = repeated("", "[", YAML_TREE_DEPTH_MAX, "");
    char *closed = repeated(fits, "]", YAML_TREE_DEPTH_MAX, "");
    struct document document;
    setup(&document, closed);
    assert_int_equal(document.root->weight, YAML_TREE_DEPTH_MAX);
    arena_release(&document.arena);
    free(closed);
    free(fits);

    char *too_deep = repeated("", "[", 100000, "");
    assert_refused(too_deep, 1, YAML_TREE_DEPTH_MAX + 1, "nested too deeply: more than 32 levels");
    free(too_deep);
}

static void test_the_nodes_are_bounded(void **state)
{
    (void)state;
    char *fits = repeated("", "- a\n", YAML_TREE_NODES_MAX - 1, "");
    struct document document;
    setup(&document, fits);
    assert_int_equal(document.root->weight, YAML_TREE_NODES_MAX);
    arena_release(&document.arena);
    free(fits);

    char *too_many = repeated("", "- a\n", YAML_TREE_NODES_MAX, "");
    assert_refused(too_many, YAML_TREE_NODES_MAX, 3, "the configuration is too large: more than 100000 nodes");
    free(too_many);
}

// Nine lists, each of ten times the one before: a billion nodes in 500 bytes.
static void test_alias_bombs_are_bounded(void **state)
{
    (void)state;
    char text[1024];
    size_t used = (size_t)snprintf(text, sizeof text, "- &a0 x\n");
    for (int level = 1; level <= 9; level++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "- &a%d [", level);
        for (int i = 0; i < 10; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, "*a%d%s", level - 1, i < 9 ? ", " : "]\n");
    }
    assert_refused(text, 6, 43, "the configuration is too large: more than 100000 nodes, aliases expanded");
}

static void test_the_anchors_are_bounded(void **state)
{
    (void)state;
    char *text = repeated("", "- &a x\n", YAML_TREE_ANCHORS_MAX + 1, "");
    assert_refused(text, YAML_TREE_ANCHORS_MAX + 1, 3, "too many anchors: more than 1000");
    free(text);
}

static void test_the_size_is_bounded(void **state)
{
    (void)state;
    char *fits = repeated("# ", "x", YAML_TREE_BYTES_MAX - strlen("# \na: 1\n"), "\na: 1\n");
    struct document document;
    setup(&document, fits);
    arena_release(&document.arena);
    free(fits);

    char *too_large = repeated("", "x", YAML_TREE_BYTES_MAX + 1, "");
    assert_refused(too_large, 0, 0, "too large: a configuration is limited to 1 MiB");
    free(too_large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_node_has_its_line_and_column),
        cmocka_unit_test(test_aliases_stand_for_their_anchor),
        cmocka_unit_test(test_null_is_what_yaml_says),
        cmocka_unit_test(test_what_is_no_yaml_is_refused),
        cmocka_unit_test(test_what_lacks_quotes_is_told),
        cmocka_unit_test(test_what_no_configuration_needs_is_refused),
        cmocka_unit_test(test_nesting_is_bounded),
        cmocka_unit_test(test_the_nodes_are_bounded),
        cmocka_unit_test(test_alias_bombs_are_bounded),
        cmocka_unit_test(test_the_anchors_are_bounded),
        cmocka_unit_test(test_the_size_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
