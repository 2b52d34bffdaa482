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
    struct registry_list unlimited GUARDED;
    struct registry_list lifetimes GUARDED; // in the order of the deadlines
    size_t count GUARDED;
    bool draining GUARDED;
    bool stopping GUARDED;
    bool has_watcher GUARDED;
    struct registry_entry *cursor GUARDED; // the next one that registry_visit() comes to; NULL: it does not run
    pthread_t watcher;                     // written once, before any other thread may ask for it
};

static void take_out(struct registry *registry, struct registry_entry *entry) REQUIRES(registry->lock)
{
    INVARIANT(entry->list != NULL && *entry->link.tqe_prev == entry);
    if (registry->cursor == entry)
        registry->cursor = TAILQ_NEXT(entry, link);
    TAILQ_REMOVE(entry->list, entry, link);
    entry->list = NULL;
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
    TAILQ_INIT(&registry->unlimited);
    TAILQ_INIT(&registry->lifetimes);
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
    INVARIANT(destroyed->count == 0 && TAILQ_EMPTY(&destroyed->unlimited) && TAILQ_EMPTY(&destroyed->lifetimes));
    mutex_unlock(&destroyed->lock);
    condition_release(&destroyed->changed);
    mutex_release(&destroyed->lock);
    free(destroyed);
}

// Waking is all that matters: a socket that is no longer connected needs no waking, so errors mean nothing here.
static void end(struct registry_entry *entry, enum close_reason reason)
{
    (void)close_reason_settle(&entry->settled_reason, reason);
    (void)shutdown(entry->client, SHUT_RDWR);
    if (entry->target >= 0)
        (void)shutdown(entry->target, SHUT_RDWR);
}

// Ends what is due and returns the next deadline. An entry stays listed until its connection removes it, but moves to
// the other list: it has been ended, and is not due again.
static int64_t end_lifetimes(struct registry *registry) REQUIRES(registry->lock)
{
    struct registry_entry *first;
    while ((first = TAILQ_FIRST(&registry->lifetimes)) != NULL) {
        if (deadline_left(first->deadline) > 0)
            return first->deadline;
        end(first, CLOSE_LIFETIME);
        take_out(registry, first);
        first->list = &registry->unlimited;
        TAILQ_INSERT_HEAD(first->list, first, link);
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
    atomic_init(&entry->settled_reason, CLOSE_NONE);
    mutex_lock(&registry->lock);
    registry->count++;
    entry->list = entry->deadline == DEADLINE_NONE ? &registry->unlimited : &registry->lifetimes;
    // A proxy's lifetimes are all alike, so the first look is nearly always the last.
    struct registry_entry *before = entry->list == &registry->lifetimes ? TAILQ_LAST(entry->list, registry_list) : NULL;
    while (before != NULL && before->deadline > entry->deadline)
        before = TAILQ_PREV(before, registry_list, link);
    if (before != NULL)
        TAILQ_INSERT_AFTER(entry->list, before, entry, link);
    else
        TAILQ_INSERT_HEAD(entry->list, entry, link);
    if (entry == TAILQ_FIRST(&registry->lifetimes))
        condition_signal(&registry->changed);
    mutex_unlock(&registry->lock);
}

void registry_set_target(struct registry *registry, struct registry_entry *entry, int target)
{
    mutex_lock(&registry->lock);
    entry->target = target;
    if (atomic_load(&entry->settled_reason) != CLOSE_NONE)
        (void)shutdown(target, SHUT_RDWR);
    mutex_unlock(&registry->lock);
}

void registry_remove(struct registry *registry, struct registry_entry *entry)
{
    mutex_lock(&registry->lock);
    take_out(registry, entry);
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
    struct registry_entry *entry;
    TAILQ_FOREACH(entry, &registry->unlimited, link)
        end(entry, reason);
    TAILQ_FOREACH(entry, &registry->lifetimes, link)
        end(entry, reason);
    mutex_unlock(&registry->lock);
}

// As long as the lock is held at a time: a few microseconds.
#define VISIT_BATCH 64

static void visit_list(struct registry *registry, const struct registry_list *list,
                       void (*visit)(struct registry_entry *entry, void *argument), void *argument)
{
    mutex_lock(&registry->lock);
    registry->cursor = TAILQ_FIRST(list);
    for (size_t i = 1; registry->cursor != NULL; i++) {
        struct registry_entry *entry = registry->cursor;
        registry->cursor = TAILQ_NEXT(entry, link);
        visit(entry, argument);
        if (i % VISIT_BATCH != 0)
            continue;
        mutex_unlock(&registry->lock);
        (void)sched_yield(); // whoever waits for the lock gets it
        mutex_lock(&registry->lock);
    }
    mutex_unlock(&registry->lock);
}

void registry_visit(struct registry *registry, void (*visit)(struct registry_entry *entry, void *argument),
                    void *argument)
{
    visit_list(registry, &registry->unlimited, visit, argument);
    visit_list(registry, &registry->lifetimes, visit, argument);
}
