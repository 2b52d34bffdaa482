#include "bitflow/config/config_load.h"

#include <stdlib.h>
#include <string.h>

#include "bind.h"
#include "bitflow/config/problem.h"
#include "bitflow/config/region.h"
#include "bitflow/config/yaml_tree.h"
#include "checks.h"
#include "config_file.h"
#include "snapshot.h"

static const struct yaml_mark whole_file = {.line = 0, .column = 0};

// From the document to a finished snapshot, or NULL.
static struct snapshot *build_snapshot(const struct yaml_node *document, struct problem_list *problems)
{
    struct snapshot *snapshot = snapshot_create();
    if (snapshot == NULL) {
        problem_at_mark(problems, whole_file, "out of memory");
        return NULL;
    }
    struct place root = place_root(document);
    bind_config(&root, &snapshot->config, &snapshot->region, problems);
    if (snapshot->region.is_exhausted) {
        problem_at_mark(problems, whole_file, "out of memory");
    } else {
        check_across_keys(&root, &snapshot->config, problems);
    }
    if (problems->out->count == 0)
        return snapshot;
    const struct config *config = &snapshot->config;
    config_drop(&config);
    return NULL;
}

static const struct config *load_bytes(const char *bytes, size_t length, struct problem_list *problems)
{
    struct region region;
    region_init(&region);
    struct snapshot *snapshot = NULL;
    const struct yaml_node *document = NULL;
    struct yaml_mark mark;
    struct error error = ERROR_INIT;
    if (!yaml_tree_parse(bytes, length, &region, &document, &mark, &error))
        problem_at_mark(problems, mark, "%s", error.text);
    else if (yaml_is_null(document))
        problem_at_mark(problems, document->mark, "the file has no configuration in it");
    else
        snapshot = build_snapshot(document, problems);
    region_release(&region);
    return snapshot != NULL ? &snapshot->config : NULL;
}

const struct config *config_load_text(const char *name, const char *bytes, size_t length,
                                      struct config_problems *problems)
{
    struct problem_list list;
    problem_list_init(&list, name, problems);
    return load_bytes(bytes, length, &list);
}

const struct config *config_load(const char *path, struct config_problems *problems)
{
    struct problem_list list;
    problem_list_init(&list, path, problems);
    // One byte more than is allowed, to tell a file that is too large. A pipe's size is not known beforehand.
    const size_t size = YAML_TREE_BYTES_MAX + 1;
    size_t length = 0;
    struct error error = ERROR_INIT;
    const struct config *config = NULL;
    char *buffer = malloc(size);
    if (buffer == NULL) {
        problem_at_mark(&list, whole_file, "out of memory");
        return NULL;
    }
    if (config_file_read(path, buffer, size, &length, &error))
        config = load_bytes(buffer, length, &list);
    else
        problem_at_mark(&list, whole_file, "%s", error.text);
    // It may hold passwords, even if not all of it came.
    explicit_bzero(buffer, size);
    free(buffer);
    return config;
}
