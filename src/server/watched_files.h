// Which files are watched (base/file_watch.h), and what follows when one has changed: the thread `files` gives the main
// thread an order. The functions are the main thread's.

#ifndef BITFLOW_SRC_SERVER_WATCHED_FILES_H
#define BITFLOW_SRC_SERVER_WATCHED_FILES_H

#include <stdint.h>

#include "bitflow/base/file_watch.h"
#include "bitflow/config/config.h"
#include "orders.h"

struct watched_files {
    struct orders *orders;
    struct file_watch *watch; // NULL: none yet
};

void watched_files_init(struct watched_files *files, struct orders *orders);

// Watches what `config`, which is in force and came from `path`, names and wants watched. `since`: clock_wall() before
// it and its files were read. Where that fails, the log says so, and they are not watched.
void watched_files_apply(struct watched_files *files, const char *path, const struct config *config, int64_t since);

// After orders_close(): the thread may wait for an order.
void watched_files_release(struct watched_files *files);

#endif
