// How a snapshot is kept: the structs, the memory that they point to, the reference count. For config_load() only;
// everyone else sees config/config.h.

#ifndef BITFLOW_SRC_CONFIG_SNAPSHOT_H
#define BITFLOW_SRC_CONFIG_SNAPSHOT_H

#include <stdatomic.h>

#include "bitflow/config/config.h"
#include "bitflow/config/region.h"

struct snapshot {
    struct config config; // first: a pointer to it is one to the snapshot
    struct region region;
    atomic_size_t references;
};

// Zeroed, with one reference; NULL if there is no memory. config_drop() frees it.
struct snapshot *snapshot_create(void);

#endif
