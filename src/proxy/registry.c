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

// Each list of lifetimes is in the order of the deadlines. An entry goes to the first list that it is not too early for
// the end of, so that there are no more of them in use than there are different lifetimes.
#define LIFETIMES_MAX 64

struct registry {
    void (*on_empty)(void);
    struct mutex visiting; // held for a whole visit; there is one cursor
    struct mutex lock;
    struct condition changed; // something is due before `wakes_at`, or `stopping`
    // Guarded by the lock:
    struct registry_list unlimited GUARDED;
    struct registry_list lifetimes[LIFETIMES_MAX] GUARDED;
    int64_t wakes_at GUARDED; // when the watcher looks again by itself
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
    mutex_init(&registry->visiting);
    mutex_init(&registry->lock);
    condition_init(&registry->changed);
    mutex_lock(&registry->lock);
    TAILQ_INIT(&registry->unlimited);
    for (size_t i = 0; i < LIFETIMES_MAX; i++)
        TAILQ_INIT(&registry->lifetimes[i]);
    registry->wakes_at = DEADLINE_NONE;
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
    INVARIANT(destroyed->count == 0 && TAILQ_EMPTY(&destroyed->unlimited));
    for (size_t i = 0; i < LIFETIMES_MAX; i++)
        INVARIANT(TAILQ_EMPTY(&destroyed->lifetimes[i]));
    mutex_unlock(&destroyed->lock);
    condition_release(&destroyed->changed);
    mutex_release(&destroyed->lock);
    mutex_release(&destroyed->visiting);
    free(destroyed);
}

// Waking is all that matters: a socket that is no longer connected needs no waking, so errors mean nothing here.
void registry_end(struct registry_entry *entry, enum close_reason reason)
{
    (void)close_reason_settle(&entry->settled_reason, reason);
    (void)shutdown(entry->client, SHUT_RDWR);
    if (entry->target >= 0)
        (void)shutdown(entry->target, SHUT_RDWR);
}

// Ends what is due in a list and returns its next deadline. An entry stays listed until its connection removes it, but
// moves to the list of those without a lifetime: it has been ended, and is not due again.
static int64_t end_due(struct registry *registry, struct registry_list *list) REQUIRES(registry->lock)
{
    struct registry_entry *first;
    while ((first = TAILQ_FIRST(list)) != NULL) {
        if (deadline_left(first->deadline) > 0)
            return first->deadline;
        registry_end(first, CLOSE_LIFETIME);
        take_out(registry, first);
        first->list = &registry->unlimited;
        TAILQ_INSERT_HEAD(first->list, first, link);
    }
    return DEADLINE_NONE;
}

static int64_t end_lifetimes(struct registry *registry) REQUIRES(registry->lock)
{
    int64_t next = DEADLINE_NONE;
    for (size_t i = 0; i < LIFETIMES_MAX; i++) {
        int64_t of_list = end_due(registry, &registry->lifetimes[i]);
        next = of_list < next ? of_list : next;
    }
    return next;
}

static void *watch_lifetimes(void *argument)
{
    struct registry *registry = argument;
    thread_set_name("lifetimes");
    mutex_lock(&registry->lock);
    while (!registry->stopping) {
        registry->wakes_at = end_lifetimes(registry);
        condition_wait(&registry->changed, &registry->lock, registry->wakes_at);
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

// Puts it behind all that are due before it.
static void insert(struct registry *registry, struct registry_entry *entry) REQUIRES(registry->lock)
{
    struct registry_list *list = registry->lifetimes;
    const struct registry_list *last_list = registry->lifetimes + LIFETIMES_MAX - 1;
    struct registry_entry *before;
    while ((before = TAILQ_LAST(list, registry_list)) != NULL && before->deadline > entry->deadline && list < last_list)
        list++;
    while (before != NULL && before->deadline > entry->deadline) // there are more lifetimes than lists
        before = TAILQ_PREV(before, registry_list, link);
    entry->list = list;
    if (before != NULL)
        TAILQ_INSERT_AFTER(list, before, entry, link);
    else
        TAILQ_INSERT_HEAD(list, entry, link);
    if (entry->deadline < registry->wakes_at)
        condition_signal(&registry->changed);
}

void registry_add(struct registry *registry, struct registry_entry *entry)
{
    entry->target = -1;
    atomic_init(&entry->settled_reason, CLOSE_NONE);
    mutex_lock(&registry->lock);
    registry->count++;
    if (entry->deadline == DEADLINE_NONE) {
        entry->list = &registry->unlimited;
        TAILQ_INSERT_HEAD(entry->list, entry, link);
    } else {
        insert(registry, entry);
    }
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
        registry_end(entry, reason);
    for (size_t i = 0; i < LIFETIMES_MAX; i++)
        TAILQ_FOREACH(entry, &registry->lifetimes[i], link)
            registry_end(entry, reason);
    mutex_unlock(&registry->lock);
}

static void visit_list(struct registry *registry, const struct registry_list *list, size_t batch,
                       void (*visit)(struct registry_entry *entry, void *argument), void *argument)
{
    mutex_lock(&registry->lock);
    registry->cursor = TAILQ_FIRST(list);
    for (size_t i = 1; registry->cursor != NULL; i++) {
        struct registry_entry *entry = registry->cursor;
        registry->cursor = TAILQ_NEXT(entry, link);
        visit(entry, argument);
        if (i % batch != 0)
            continue;
        mutex_unlock(&registry->lock);
        (void)sched_yield(); // whoever waits for the lock gets it
        mutex_lock(&registry->lock);
    }
    mutex_unlock(&registry->lock);
}

void registry_visit(struct registry *registry, size_t batch,
                    void (*visit)(struct registry_entry *entry, void *argument), void *argument)
{
    mutex_lock(&registry->visiting);
    visit_list(registry, &registry->unlimited, batch, visit, argument);
    for (size_t i = 0; i < LIFETIMES_MAX; i++)
        visit_list(registry, &registry->lifetimes[i], batch, visit, argument);
    mutex_unlock(&registry->visiting);
}
