// The way from the document's root to a value: its key path (server.proxies[0].name) and, where the file has the value,
// its node; and diagnostics about such a value. Paths live on the stack and point at their parents. One thread at a
// time.

#ifndef BITFLOW_SRC_CONFIG_CONFIG_PATH_H
#define BITFLOW_SRC_CONFIG_CONFIG_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "bitflow/base/compiler.h"
#include "bitflow/config/diagnostics.h"
#include "yaml_tree.h"

struct config_path {
    const struct config_path *parent; // NULL: the root
    const char *key;                  // NULL: an item of a list
    size_t index;                     // of the item
    const struct yaml_node *node;     // NULL: not in the file
    struct yaml_mark key_mark;        // where its key stands; line 0 if it has none
};

struct config_path path_root(const struct yaml_node *node);
// Follows the key if it is there and is not null.
struct config_path path_key(const struct config_path *parent, const char *key);
struct config_path path_item(const struct config_path *parent, size_t index);

// Whether the file has a value there that was refused: what it would have said is not known.
bool path_is_refused(const struct config_path *path, const struct diagnostics *diagnostics);

#define PATH_TEXT_SIZE 256
// server.proxies[0].name
void path_format(const struct config_path *path, char out[PATH_TEXT_SIZE]);

// At the path's value; if it is not in the file, at what would enclose it.
void report_error_at_value(struct diagnostics *diagnostics, const struct config_path *path, const char *format, ...)
    PRINTF_LIKE(3, 4);
void report_error_at_key(struct diagnostics *diagnostics, const struct config_path *path, const char *format, ...)
    PRINTF_LIKE(3, 4);
void report_warning_at_value(struct diagnostics *diagnostics, const struct config_path *path, const char *format, ...)
    PRINTF_LIKE(3, 4);
void report_warning_at_key(struct diagnostics *diagnostics, const struct config_path *path, const char *format, ...)
    PRINTF_LIKE(3, 4);

#define QUOTED_TEXT_SIZE 80
// The text in quotes for a message: what cannot be printed is escaped, and a long text is cut.
const char *quote_text(const char *text, size_t length, char out[QUOTED_TEXT_SIZE]);

#endif
