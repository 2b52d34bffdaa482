// A YAML document (libyaml) as a tree that knows where in the file everything stands, for the schema to read.
//
// The subset that a configuration needs: one document, scalar keys, no tags. An alias is read as what its anchor holds,
// at the alias's position; duplicate keys are kept, for the reader to report with their path. Size, depth and the
// number of nodes are bounded, so that no file takes long or much memory. The tree lives in the caller's arena. No
// locks; a tree is not written once it is built, so any thread may read it.

#ifndef BITFLOW_SRC_CONFIG_YAML_TREE_H
#define BITFLOW_SRC_CONFIG_YAML_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include "arena.h"
#include "bitflow/base/error.h"
#include "bitflow/config/diagnostics.h"

#define YAML_TREE_BYTES_MAX ((size_t)1024 * 1024)
#define YAML_TREE_DEPTH_MAX 32
#define YAML_TREE_NODES_MAX 100000 // aliases count as all that they stand for
#define YAML_TREE_ANCHORS_MAX 1000

enum yaml_kind { YAML_SCALAR, YAML_SEQUENCE, YAML_MAPPING };

struct yaml_node;

struct yaml_entry {
    const struct yaml_node *key; // NULL in a sequence
    const struct yaml_node *value;
};

struct yaml_node {
    enum yaml_kind kind;
    struct yaml_mark mark;
    // YAML_SCALAR
    bool is_plain;    // written without quotes
    const char *text; // zero-terminated; may hold a zero before `length`
    size_t length;
    // YAML_SEQUENCE, YAML_MAPPING
    const struct yaml_entry *entries;
    size_t count;
    size_t weight; // how many nodes it has, itself included
};

// On false `mark` says where, unless its line is 0: then it is about the whole file.
bool yaml_tree_parse(const char *bytes, size_t length, struct arena *arena, const struct yaml_node **root,
                     struct yaml_mark *mark, struct error *error);

// A plain ~, null or nothing at all.
bool yaml_is_null(const struct yaml_node *node);

bool yaml_text_is(const struct yaml_node *node, const char *text);

// The first entry with this key; NULL if `node` has none or is not a mapping.
const struct yaml_entry *yaml_find(const struct yaml_node *node, const char *key);

#endif
