#include "bitflow/proxy/registry.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"

#define WATCHER_STACK_SIZE ((size_t)64 * 1024)

struct registry {
    void (*on_empty)(void);
    struct mutex lock;
    struct condition changed; // the earliest deadline, or `stopping`
    // Guarded by the lock:
    // Two circular lists around these heads. `lifetimes` is in the order of the deadlines.
    struct registry_entry unlimited GUARDED;
    struct registry_entry lifetimes GUARDED;
    size_t count GUARDED;
    bool draining GUARDED;
    bool stopping GUARDED;
    bool has_watcher GUARDED;
    struct registry_entry *cursor GUARDED; // the next one that registry_visit() comes to; NULL: it does not run
    pthread_t watcher;                     // written once, before any other thread may ask for it
};

static void list_init(struct registry_entry *head)
{
    head->previous = head;
    head->next = head;
}

static void list_insert_after(struct registry_entry *place, struct registry_entry *entry)
{
    entry->previous = place;
    entry->next = place->next;
    place->next->previous = entry;
    place->next = entry;
}

static void list_take_out(struct registry *registry, struct registry_entry *entry) REQUIRES(registry->lock)
{
    INVARIANT(entry->previous->next == entry && entry->next->previous == entry);
    if (registry->cursor == entry)
        registry->cursor = entry->next;
    entry->previous->next = entry->next;
    entry->next->previous = entry->previous;
}

struct registry *registry_create(void (*on_empty)(void), struct error *error)
{
    struct registry *registry = calloc(1, sizeof *registry);
    if (registry == NULL) {
        error_set_errno(error, ENOMEM, "cannot create the registry of connections");
        return NULL;
    }
    registry->on_empty = on_empty;
    mutex_init(&registry->lock);
    condition_init(&registry->changed);
    mutex_lock(&registry->lock);
    list_init(&registry->unlimited);
    list_init(&registry->lifetimes);
    mutex_unlock(&registry->lock);
    return registry;
}

void registry_destroy(struct registry **registry)
{
    struct registry *destroyed = *registry;
    *registry = NULL;
    if (destroyed == NULL)
        return;
    mutex_lock(&destroyed->lock);
    destroyed->stopping = true;
    bool has_watcher = destroyed->has_watcher;
    condition_signal(&destroyed->changed);
    mutex_unlock(&destroyed->lock);
    if (has_watcher)
        (void)pthread_join(destroyed->watcher, NULL);
    mutex_lock(&destroyed->lock);
    INVARIANT(destroyed->count == 0 && destroyed->unlimited.next == &destroyed->unlimited &&
              destroyed->lifetimes.next == &destroyed->lifetimes);
    mutex_unlock(&destroyed->lock);
    condition_release(&destroyed->changed);
    mutex_release(&destroyed->lock);
    free(destroyed);
}

bool registry_entry_end(struct registry_entry *entry, enum close_reason reason)
{
    return close_reason_settle(&entry->reason, reason);
}

// Waking is all that matters: a socket that is no longer connected needs no waking, so errors mean nothing here.
static void end(struct registry_entry *entry, enum close_reason reason)
{
    (void)registry_entry_end(entry, reason);
    (void)shutdown(entry->client, SHUT_RDWR);
    if (entry->target >= 0)
        (void)shutdown(entry->target, SHUT_RDWR);
}

// Ends what is due and returns the next deadline. An entry stays listed until its connection removes it, but moves to
// the other list: it has been ended, and is not due again.
static int64_t end_lifetimes(struct registry *registry) REQUIRES(registry->lock)
{
    struct registry_entry *first;
    while ((first = registry->lifetimes.next) != &registry->lifetimes) {
        if (deadline_left(first->deadline) > 0)
            return first->deadline;
        end(first, CLOSE_LIFETIME);
        list_take_out(registry, first);
        list_insert_after(&registry->unlimited, first);
    }
    return DEADLINE_NONE;
}

static void *watch_lifetimes(void *argument)
{
    struct registry *registry = argument;
    thread_set_name("lifetimes");
    mutex_lock(&registry->lock);
    while (!registry->stopping) {
        int64_t next = end_lifetimes(registry);
        condition_wait(&registry->changed, &registry->lock, next);
    }
    mutex_unlock(&registry->lock);
    return NULL;
}

bool registry_watch_lifetimes(struct registry *registry, struct error *error)
{
    mutex_lock(&registry->lock);
    if (!registry->has_watcher)
        registry->has_watcher = thread_start(&registry->watcher, WATCHER_STACK_SIZE, watch_lifetimes, registry, error);
    bool watched = registry->has_watcher;
    mutex_unlock(&registry->lock);
    return watched;
}

void registry_add(struct registry *registry, struct registry_entry *entry)
{
    entry->target = -1;
    atomic_init(&entry->reason, CLOSE_NONE);
    mutex_lock(&registry->lock);
    registry->count++;
    if (entry->deadline == DEADLINE_NONE) {
        list_insert_after(&registry->unlimited, entry);
    } else {
        // A proxy's lifetimes are all alike, so the place is nearly always at the end.
        struct registry_entry *place = registry->lifetimes.previous;
        while (place != &registry->lifetimes && place->deadline > entry->deadline)
            place = place->previous;
        list_insert_after(place, entry);
        if (place == &registry->lifetimes)
            condition_signal(&registry->changed);
    }
    mutex_unlock(&registry->lock);
}

void registry_set_target(struct registry *registry, struct registry_entry *entry, int target)
{
    mutex_lock(&registry->lock);
    entry->target = target;
    if (atomic_load(&entry->reason) != CLOSE_NONE)
        (void)shutdown(target, SHUT_RDWR);
    mutex_unlock(&registry->lock);
}

void registry_remove(struct registry *registry, struct registry_entry *entry)
{
    mutex_lock(&registry->lock);
    list_take_out(registry, entry);
    INVARIANT(registry->count > 0);
    bool now_empty = --registry->count == 0 && registry->draining;
    mutex_unlock(&registry->lock);
    if (now_empty && registry->on_empty != NULL)
        registry->on_empty();
}

size_t registry_count(struct registry *registry)
{
    mutex_lock(&registry->lock);
    size_t count = registry->count;
    mutex_unlock(&registry->lock);
    return count;
}

void registry_drain(struct registry *registry)
{
    mutex_lock(&registry->lock);
    registry->draining = true;
    bool empty = registry->count == 0;
    mutex_unlock(&registry->lock);
    if (empty && registry->on_empty != NULL)
        registry->on_empty();
}

void registry_end_all(struct registry *registry, enum close_reason reason)
{
    mutex_lock(&registry->lock);
    for (struct registry_entry *entry = registry->unlimited.next; entry != &registry->unlimited; entry = entry->next)
        end(entry, reason);
    for (struct registry_entry *entry = registry->lifetimes.next; entry != &registry->lifetimes; entry = entry->next)
        end(entry, reason);
    mutex_unlock(&registry->lock);
}

// As long as the lock is held at a time: a few microseconds.
#define VISIT_BATCH 64

static void visit_list(struct registry *registry, struct registry_entry *head,
                       void (*visit)(struct registry_entry *entry, void *argument), void *argument)
{
    mutex_lock(&registry->lock);
    registry->cursor = head->next;
    for (size_t i = 1; registry->cursor != head; i++) {
        struct registry_entry *entry = registry->cursor;
        registry->cursor = entry->next;
        visit(entry, argument);
        if (i % VISIT_BATCH != 0)
            continue;
        mutex_unlock(&registry->lock);
        (void)sched_yield(); // whoever waits for the lock gets it
        mutex_lock(&registry->lock);
    }
    registry->cursor = NULL;
    mutex_unlock(&registry->lock);
}

void registry_visit(struct registry *registry, void (*visit)(struct registry_entry *entry, void *argument),
                    void *argument)
{
    visit_list(registry, &registry->unlimited, visit, argument);
    visit_list(registry, &registry->lifetimes, visit, argument);
}
