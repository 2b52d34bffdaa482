// Reports problems with a configuration: each with the place in the file it is about. A place is a step on the way from
// the document's root to a value; it knows the key path (server.proxies[0].name) and, where the file has the value, its
// node. Places live on the stack and point at their parents. One thread at a time.

#ifndef BITFLOW_CONFIG_PROBLEM_H
#define BITFLOW_CONFIG_PROBLEM_H

#include <stddef.h>

#include "bitflow/base/compiler.h"
#include "bitflow/config/config_load.h"
#include "bitflow/config/yaml_tree.h"

struct place {
    const struct place *parent;   // NULL: the root
    const char *key;              // NULL: an item of a list
    size_t index;                 // of the item
    const struct yaml_node *node; // NULL: not in the file
    struct yaml_mark key_mark;    // where its key stands; line 0 if it has none
};

struct place place_root(const struct yaml_node *node);
// Follows the key if it is there and is not null.
struct place place_key(const struct place *parent, const char *key);
struct place place_item(const struct place *parent, size_t index);

#define PLACE_TEXT_SIZE 256
// server.proxies[0].name
void place_format(const struct place *place, char out[PLACE_TEXT_SIZE]);

struct problem_list {
    const char *file;
    struct config_problems *out;
    struct yaml_mark marks[CONFIG_PROBLEMS_MAX]; // of out->lines, which are kept in the file's order
};

void problem_list_init(struct problem_list *list, const char *file, struct config_problems *out);

// At the place's value; if it is not in the file, at what would enclose it.
void problem_at_value(struct problem_list *list, const struct place *place, const char *format, ...) PRINTF_LIKE(3, 4);
void problem_at_key(struct problem_list *list, const struct place *place, const char *format, ...) PRINTF_LIKE(3, 4);

// With no key path: about a position, or with line 0 about the whole file.
void problem_at_mark(struct problem_list *list, struct yaml_mark mark, const char *format, ...) PRINTF_LIKE(3, 4);

#define QUOTED_TEXT_SIZE 80
// The text in quotes for a message: what cannot be printed is escaped, and a long text is cut.
const char *quote_text(const char *text, size_t length, char out[QUOTED_TEXT_SIZE]);

#endif
