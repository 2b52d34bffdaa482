// What is known of a proxy's targets from one connection to the next: health, and how many connections each has. Both
// outlive a reload: the number for as long as the target's name and address stay, health as long as it is also reached
// in the same way, since what failed before a mistake was corrected says nothing about the time after it. The list has
// a lock, which reloads take; what connections touch is atomic. Any thread.

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
#include "bitflow/tls/tls_context.h"

// A name and an address, however it is reached.
struct target_place {
    _Atomic uint64_t active; // connections to it, those that are being made included
    // The list's:
    SLIST_ENTRY(target_place) link GUARDED; // by the list's lock, as all that is GUARDED
    unsigned references GUARDED;            // of states
    char *name;
    struct address address;
};

struct target_state {
    struct health health;
    struct target_place *place;
    // The list's:
    LIST_ENTRY(target_state) link GUARDED;
    unsigned references GUARDED;
    uint64_t way; // a fingerprint (base/hash.h) of how it is reached
};

struct target_list {
    struct mutex lock;
    SLIST_HEAD(, target_place) places GUARDED;
    LIST_HEAD(, target_state) states GUARDED;
};

void target_list_init(struct target_list *list);
// Every reference has been given back.
void target_list_release(struct target_list *list);

// The state of one of a proxy's targets, with a reference. `tls`: its context (NULL: plain). NULL: ERROR_NO_MEMORY.
struct target_state *target_state_hold(struct target_list *list, const struct proxy_config *settings,
                                       const struct target_config *target, const struct tls_context *tls,
                                       struct error *error);

// Gives the reference back and nulls the pointer. Accepts NULL.
void target_state_drop(struct target_list *list, struct target_state **state);

#endif
