// The live connections of the process, and the ways to end them from outside: when their lifetime is over (a thread of
// the registry's own watches for that; it sleeps until the next one is due), when the process drains, and when an
// operator says so.
//
// To end a connection means: set its reason, if none is set yet, and shut its sockets down; whichever thread waits on
// them wakes and sees the reason. The registry's lock keeps the descriptors from being closed meanwhile: a connection
// tells the registry of its target's socket, and withdraws both before it closes them. Any thread; two locks inside.

#ifndef BITFLOW_PROXY_REGISTRY_H
#define BITFLOW_PROXY_REGISTRY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "bitflow/base/error.h"
#include "bitflow/relay/close_reason.h"

TAILQ_HEAD(registry_list, registry_entry);

// One connection's entry, embedded in it. The fields belong to the registry from registry_add() to registry_remove(),
// but for `settled_reason`, which anyone may read or, by close_reason_settle(), set.
struct registry_entry {
    TAILQ_ENTRY(registry_entry) link;
    struct registry_list *list; // that it is in
    int client;                 // socket
    int target;                 // socket, -1: none yet
    int64_t deadline;           // the end of its lifetime (base/clock.h); DEADLINE_NONE: none
    _Atomic(enum close_reason) settled_reason;
};

struct registry;

// `on_empty` (may be NULL) is called without the lock when the last connection leaves while draining.
struct registry *registry_create(void (*on_empty)(void), struct error *error);

// Stops the registry's thread. There must be no connections any more. Accepts NULL.
void registry_destroy(struct registry **registry);

// Starts the thread that ends lifetimes, if it isn't running yet. ERROR_NO_THREADS. Called where a lifetime is
// configured, so that a process without any has no such thread.
bool registry_watch_lifetimes(struct registry *registry, struct error *error);

// `entry->client` and `entry->deadline` are set by the caller; the rest is set here.
void registry_add(struct registry *registry, struct registry_entry *entry);

// From now on ending the connection shuts this socket down too. If it was ended already, it is shut down at once.
void registry_set_target(struct registry *registry, struct registry_entry *entry, int target);

// The sockets are the connection's own again, and may be closed.
void registry_remove(struct registry *registry, struct registry_entry *entry);

size_t registry_count(struct registry *registry);

// Says `on_empty` from now on, at once if there is no connection.
void registry_drain(struct registry *registry);

// Ends every live connection.
void registry_end_all(struct registry *registry, enum close_reason reason);

// Of a visit that does little: as many as take a few microseconds.
#define REGISTRY_VISIT_BATCH 64

// Calls `visit` for every live connection, under the lock, which is let go of after each `batch` of them, so that
// nobody waits for all of them. Who comes meanwhile may be left out, or be visited twice. Visits wait for each other.
void registry_visit(struct registry *registry, size_t batch,
                    void (*visit)(struct registry_entry *entry, void *argument), void *argument);

// Ends a connection that is being visited.
void registry_end(struct registry_entry *entry, enum close_reason reason);

#endif
