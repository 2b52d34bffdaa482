#include "bitflow/config/config.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "bind.h"
#include "bitflow/base/hash.h"
#include "config_file.h"
#include "config_path.h"
#include "cross_checks.h"
#include "yaml_tree.h"

// How a configuration is kept: the structs, and the memory that they point to.
struct snapshot {
    struct config config; // first: a pointer to it is one to the snapshot
    struct arena arena;
    atomic_size_t references;
};

_Static_assert(offsetof(struct snapshot, config) == 0, "a config is the beginning of its snapshot");

const struct config *config_hold(const struct config *config)
{
    struct snapshot *snapshot = (struct snapshot *)config;
    // Whoever holds it already keeps it alive, so nothing has to be ordered here.
    (void)atomic_fetch_add_explicit(&snapshot->references, 1, memory_order_relaxed);
    return config;
}

void config_drop(const struct config **config)
{
    struct snapshot *snapshot = (struct snapshot *)*config;
    *config = NULL;
    // Others' reads come before the last one's free.
    if (snapshot == NULL || atomic_fetch_sub_explicit(&snapshot->references, 1, memory_order_acq_rel) != 1)
        return;
    arena_release(&snapshot->arena);
    free(snapshot);
}

static void report(struct diagnostics *diagnostics, struct yaml_mark mark, const char *text)
{
    diagnostics_add(diagnostics, &(struct diagnostic){.severity = DIAGNOSTIC_ERROR, .mark = mark, .text = text});
}

// From the document to a finished snapshot, or NULL.
static const struct config *build_snapshot(const struct yaml_node *document, uint64_t text_hash,
                                           struct diagnostics *diagnostics)
{
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (snapshot == NULL) {
        diagnostics_add_general(diagnostics, "out of memory");
        return NULL;
    }
    arena_init(&snapshot->arena);
    atomic_init(&snapshot->references, 1);
    struct config_path root = path_root(document);
    bind_config(&root, &snapshot->config, &snapshot->arena, diagnostics);
    snapshot->config.text_hash = text_hash;
    if (snapshot->arena.is_exhausted)
        diagnostics_add_general(diagnostics, "out of memory");
    else
        check_across_keys(&root, &snapshot->config, diagnostics);
    const struct config *config = &snapshot->config;
    if (diagnostics->errors > 0)
        config_drop(&config);
    return config;
}

static uint64_t hash_of(const char *bytes, size_t length)
{
    return hash_bytes(hash_begin(), bytes, length);
}

const struct config *config_load_text(const char *bytes, size_t length, struct diagnostics *diagnostics)
{
    struct arena arena;
    arena_init(&arena);
    const struct config *config = NULL;
    const struct yaml_node *document = NULL;
    struct yaml_mark mark;
    struct error error = ERROR_INIT;
    if (!yaml_tree_parse(bytes, length, &arena, &document, &mark, &error))
        report(diagnostics, mark, error.text);
    else if (yaml_is_null(document))
        report(diagnostics, document->mark, "the file has no configuration in it");
    else
        config = build_snapshot(document, hash_of(bytes, length), diagnostics);
    arena_release(&arena);
    return config;
}

// One byte more than is allowed, to tell a file that is too large. A pipe's size is not known beforehand.
#define READ_SIZE ((size_t)YAML_TREE_BYTES_MAX + 1)

bool config_is_same(const struct config *config, const char *path)
{
    size_t length = 0;
    char *buffer = malloc(READ_SIZE);
    bool is_same = buffer != NULL && config_file_read(path, buffer, READ_SIZE, &length, NULL) &&
                   hash_of(buffer, length) == config->text_hash;
    if (buffer != NULL)
        explicit_bzero(buffer, READ_SIZE);
    free(buffer);
    return is_same;
}

const struct config *config_load(const char *path, struct diagnostics *diagnostics)
{
    size_t length = 0;
    struct error error = ERROR_INIT;
    const struct config *config = NULL;
    char *buffer = malloc(READ_SIZE);
    if (buffer == NULL) {
        diagnostics_add_general(diagnostics, "out of memory");
        return NULL;
    }
    if (config_file_read(path, buffer, READ_SIZE, &length, &error))
        config = config_load_text(buffer, length, diagnostics);
    else
        diagnostics_add_general(diagnostics, error.text);
    // It may hold passwords, even if not all of it came.
    explicit_bzero(buffer, READ_SIZE);
    free(buffer);
    return config;
}
