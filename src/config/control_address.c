#include "bitflow/config/control_address.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "config_file.h"
#include "config_path.h"
#include "yaml_tree.h"

static bool find_in_text(const char *path, const char *bytes, size_t length, struct address *address,
                         struct error *error)
{
    struct arena arena;
    const struct yaml_node *document = NULL;
    struct yaml_mark mark;
    struct error cause = ERROR_INIT;
    bool is_found = false;
    arena_init(&arena);
    if (!yaml_tree_parse(bytes, length, &arena, &document, &mark, &cause)) {
        error_set(error, ERROR_INVALID, "%s:%zu:%zu: %s", path, mark.line, mark.column, cause.text);
    } else {
        struct config_path root = path_root(document);
        struct config_path application = path_key(&root, "application");
        struct config_path control = path_key(&application, "control");
        struct config_path value = path_key(&control, "address");
        if (value.node == NULL || value.node->kind != YAML_SCALAR)
            error_set(error, ERROR_INVALID, "%s has no application.control.address", path);
        else if (address_parse(value.node->text, ADDRESS_TO_LISTEN, address, &cause))
            is_found = true;
        else
            error_set(error, ERROR_INVALID, "%s:%zu:%zu: application.control.address: %s", path, value.node->mark.line,
                      value.node->mark.column, cause.text);
    }
    arena_release(&arena);
    return is_found;
}

bool control_address_find(const char *path, struct address *address, struct error *error)
{
    // One byte more than is allowed, to tell a file that is too large.
    const size_t size = YAML_TREE_BYTES_MAX + 1;
    size_t length = 0;
    struct error cause = ERROR_INIT;
    char *buffer = malloc(size);
    if (buffer == NULL) {
        error_set(error, ERROR_NO_MEMORY, "out of memory");
        return false;
    }
    bool is_found = false;
    if (config_file_read(path, buffer, size, &length, &cause))
        is_found = find_in_text(path, buffer, length, address, error);
    else
        error_wrap(error, &cause, "%s", path);
    // It may hold passwords.
    explicit_bzero(buffer, size);
    free(buffer);
    return is_found;
}
