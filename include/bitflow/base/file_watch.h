// Files that are watched for changes, by a thread of its own, `files`: whoever asks is told once a change has settled.
//
// Two ways, always both. inotify tells at once, of each directory that has a link on a file's path, or the file itself,
// or in which one of them is missing: so a rename over the file, a link that is replaced (a secret's `..data` in
// Kubernetes), a file and a directory that go and come back all count. And each file is looked at from time to time,
// since nobody can know whether inotify sees what happens: not what another host does on NFS, nor what happens below
// FUSE, an overlay or a file mounted by itself, nor that a directory further up was renamed; and there may be no watch
// left.
//
// It only knows paths, and reads no file. Memory, watches and wake-ups are bounded.

#ifndef BITFLOW_BASE_FILE_WATCH_H
#define BITFLOW_BASE_FILE_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"

struct file_watch;

struct watched_file {
    const char *path;
    unsigned kinds; // bits of the caller's choice
};

// Durations in ns.
struct file_watch_options {
    int64_t settle;     // how long nothing may happen before a change is told
    int64_t settle_max; // but it is told that long after the first one
    int64_t interval;   // each file is looked at so often
    int64_t retry;      // what is to be told again is told after this time, twice that, and so on,
    int64_t retry_max;  // up to this
    size_t max_watches; // directories that inotify is to watch
    // Some file of these kinds has changed since the last call. Returns those that it is to be called for again, even
    // if nothing happens. On the thread `files`, which waits for it.
    unsigned (*on_change)(void *context, unsigned kinds);
    void *context; // outlives the watch
};

// Starts the thread. ERROR_NO_*.
struct file_watch *file_watch_create(const struct file_watch_options *options, struct error *error);

// Watches these instead of those before; the texts are copied. What has changed since `since` (clock_wall()), when they
// were read, counts as a change. ERROR_NO_MEMORY: those before are still watched.
bool file_watch_set(struct file_watch *watch, const struct watched_file *files, size_t count, int64_t since,
                    struct error *error);

// Ends the thread, unless it waits for a file system that does not answer: then it is left to end with the process.
// Accepts NULL.
void file_watch_destroy(struct file_watch **watch);

#endif
