// What is known of a proxy's targets from one connection to the next: health, and how many connections each has. A
// target keeps it over a reload as long as its name and its address stay. The list has a lock, which reloads take; what
// connections touch is atomic. Any thread.

#ifndef BITFLOW_PROXY_TARGET_STATE_H
#define BITFLOW_PROXY_TARGET_STATE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "bitflow/base/error.h"
#include "bitflow/base/mutex.h"
#include "bitflow/config/config.h"
#include "bitflow/proxy/health.h"

struct target_state {
    struct health health;
    _Atomic uint64_t active; // connections to it, those that are being made included
    // The list's:
    LIST_ENTRY(target_state) link GUARDED; // by the list's lock, as all that is GUARDED
    unsigned references GUARDED;
    char *name;
    struct address address;
};

struct target_list {
    struct mutex lock;
    LIST_HEAD(, target_state) states GUARDED;
};

void target_list_init(struct target_list *list);
// Every reference has been given back.
void target_list_release(struct target_list *list);

// The states of the targets, by their index, with a reference to each. NULL: ERROR_NO_MEMORY.
struct target_state **target_list_hold(struct target_list *list, const struct target_config *targets, size_t count,
                                       struct error *error);

// Gives the references back and nulls the pointer. Accepts NULL.
void target_list_drop(struct target_list *list, struct target_state ***states, size_t count);

#endif
