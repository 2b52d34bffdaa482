#include "bitflow/config/config.h"

#include <stddef.h>
#include <stdlib.h>

#include "snapshot.h"

_Static_assert(offsetof(struct snapshot, config) == 0, "a config is the beginning of its snapshot");

struct snapshot *snapshot_create(void)
{
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (snapshot == NULL)
        return NULL;
    region_init(&snapshot->region);
    atomic_init(&snapshot->references, 1);
    return snapshot;
}

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
    region_release(&snapshot->region);
    free(snapshot);
}
