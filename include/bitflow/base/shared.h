// Objects that are shared and found again by name: who asks for a name that is known gets the object that is there,
// with one more reference; else a new one. The list and what struct shared holds are guarded by a lock of the caller's,
// which is held across each call. Who has a reference may read the name without it.
//
// A shared object begins with its struct shared; the rest is the caller's, and begins as zeros.

#ifndef BITFLOW_BASE_SHARED_H
#define BITFLOW_BASE_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

struct shared {
    LIST_ENTRY(shared) link;
    unsigned references;
    const char *name; // lies behind the object
};

LIST_HEAD(shared_list, shared);

// The object of `size` bytes; `references` of a new one is 1. NULL: no memory.
void *shared_hold(struct shared_list *list, const char *name, size_t size);

// Gives a reference back. Returns whether it was the last one. The object is found until shared_free().
bool shared_drop(void *object);

// Of an object without references. Nothing of the caller's in it is freed.
void shared_free(void *object);
// Or takes it out of the list alone: what its end takes time for is done without the lock, and then free().
void shared_unlink(void *object);

#endif
