// Which directory entries a path depends on, and whether what it leads to has changed: the symbolic links in it are
// followed one by one, as a secret's files in Kubernetes are links through a link. Looks, and opens nothing; blocks as
// long as the file system does. Any thread, no state.

#ifndef BITFLOW_SRC_BASE_PATH_WALK_H
#define BITFLOW_SRC_BASE_PATH_WALK_H

#include <stdbool.h>
#include <stdint.h>

// `name` in `directory`, a path without links, is a link on the way, the file at its end, or what is missing there.
typedef void path_visit(void *context, const char *directory, const char *name);

struct path_state {
    uint64_t mark;   // another one (base/hash.h) when a link, the file's inode, its size, times or permissions change
    int64_t changed; // when that was for the last time, by the file system: ns since 1970
    bool is_there;
};

// `visit` NULL: nobody is told.
struct path_state path_walk(const char *path, path_visit *visit, void *context);

#endif
