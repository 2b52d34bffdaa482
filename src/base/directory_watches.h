// inotify's watches of the directories that some files' paths depend on (path_walk.h), for file_watch.c. One thread.

#ifndef BITFLOW_SRC_BASE_DIRECTORY_WATCHES_H
#define BITFLOW_SRC_BASE_DIRECTORY_WATCHES_H

#include <stdbool.h>
#include <stddef.h>

#include "bitflow/base/file_watch.h"

struct watched_directory {
    int number;     // inotify's
    unsigned round; // of directory_watches_renew(), the last one that came to it
};

// An entry that counts.
struct watched_name {
    int directory; // inotify's number
    unsigned kinds;
    char *name;
};

struct directory_watches {
    int fd;     // inotify's, non-blocking; -1: there is none to be had
    size_t max; // directories
    struct watched_directory *directories;
    size_t directory_count;
    struct watched_name *names;
    size_t name_count;
    size_t name_room;
    unsigned round;
    bool is_incomplete; // the last round came to a directory that had not been watched before it
    bool has_told;      // that something cannot be watched
};

void directory_watches_init(struct directory_watches *watches, size_t max);
void directory_watches_release(struct directory_watches *watches);

// Watches what the paths lead through now. What it cannot watch, it logs, once until `has_told` is set back.
void directory_watches_renew(struct directory_watches *watches, const struct watched_file *files, size_t count);

// Takes what has happened; returns the kinds of the files that it may concern. `*is_lost`: there was more than the
// kernel has kept. `*is_any`: something has happened, be it to other files.
unsigned directory_watches_hear(struct directory_watches *watches, bool *is_any, bool *is_lost);

#endif
