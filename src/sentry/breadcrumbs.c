#include "breadcrumbs.h"

#include <stdlib.h>
#include <string.h>

#include "bitflow/base/compiler.h"

#define LINES_MAX (2 * SENTRY_BREADCRUMB_RING_SIZE)

static bool take(struct sentry_breadcrumb_slot *slot)
{
    return !atomic_exchange_explicit(&slot->is_taken, true, memory_order_acquire);
}

static void give_back(struct sentry_breadcrumb_slot *slot)
{
    atomic_store_explicit(&slot->is_taken, false, memory_order_release);
}

void sentry_breadcrumbs_add(struct sentry_breadcrumbs *breadcrumbs, const struct log_event *event)
{
    bool is_end = event->connection != 0 && event->level <= LOG_INFO;
    struct sentry_breadcrumb_ring *ring = is_end ? &breadcrumbs->ends : &breadcrumbs->rest;
    unsigned number = atomic_fetch_add_explicit(&ring->next, 1, memory_order_relaxed);
    struct sentry_breadcrumb_slot *slot = &ring->slots[number % SENTRY_BREADCRUMB_RING_SIZE];
    if (!take(slot))
        return;
    sentry_line_pack(event, &slot->breadcrumb.line, slot->breadcrumb.text, sizeof slot->breadcrumb.text);
    give_back(slot);
}

// A slot that may be chosen.
struct candidate {
    struct sentry_breadcrumb_slot *slot;
    int64_t wall;
    bool is_close; // it is the connection's own, or the process's
};

static size_t look_through(struct sentry_breadcrumb_ring *ring, uint64_t connection, struct candidate *out)
{
    size_t count = 0;
    for (size_t i = 0; i < SENTRY_BREADCRUMB_RING_SIZE; i++) {
        struct sentry_breadcrumb_slot *slot = &ring->slots[i];
        if (!take(slot))
            continue;
        const struct sentry_line *line = &slot->breadcrumb.line;
        if (line->length > 0)
            out[count++] = (struct candidate){
                .slot = slot, .wall = line->wall, .is_close = line->connection == 0 || line->connection == connection};
        give_back(slot);
    }
    return count;
}

static int by_worth(const void *a, const void *b)
{
    const struct candidate *first = a, *second = b;
    if (first->is_close != second->is_close)
        return first->is_close ? -1 : 1;
    return (first->wall < second->wall) - (first->wall > second->wall);
}

static int by_time(const void *a, const void *b)
{
    const struct sentry_breadcrumb *first = a, *second = b;
    return (first->line.wall > second->line.wall) - (first->line.wall < second->line.wall);
}

size_t sentry_breadcrumbs_collect(struct sentry_breadcrumbs *breadcrumbs, uint64_t connection,
                                  struct sentry_breadcrumb out[SENTRY_BREADCRUMBS_MAX])
{
    struct candidate candidates[LINES_MAX];
    size_t found = look_through(&breadcrumbs->rest, connection, candidates);
    found += look_through(&breadcrumbs->ends, connection, candidates + found);
    qsort(candidates, found, sizeof *candidates, by_worth);
    size_t count = 0;
    for (size_t i = 0; i < found && count < SENTRY_BREADCRUMBS_MAX; i++) {
        if (!take(candidates[i].slot))
            continue;
        out[count] = candidates[i].slot->breadcrumb;
        give_back(candidates[i].slot);
        // Of a process that has crashed, anything may be in there.
        if (out[count].line.length <= sizeof out[count].text)
            count++;
    }
    qsort(out, count, sizeof *out, by_time);
    return count;
}
