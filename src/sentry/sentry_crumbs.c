#include "bitflow/sentry/sentry_crumbs.h"

#include <stdlib.h>
#include <string.h>

#include "bitflow/base/compiler.h"

#define LINES_MAX (2 * SENTRY_CRUMB_RING_SIZE)

static bool take(struct sentry_crumb_slot *slot)
{
    return !atomic_exchange_explicit(&slot->is_taken, true, memory_order_acquire);
}

static void give_back(struct sentry_crumb_slot *slot)
{
    atomic_store_explicit(&slot->is_taken, false, memory_order_release);
}

void sentry_crumbs_add(struct sentry_crumbs *crumbs, const struct log_event *event)
{
    bool is_end = event->connection != 0 && event->level <= LOG_INFO;
    struct sentry_crumb_ring *ring = is_end ? &crumbs->ends : &crumbs->rest;
    unsigned number = atomic_fetch_add_explicit(&ring->next, 1, memory_order_relaxed);
    struct sentry_crumb_slot *slot = &ring->slots[number % SENTRY_CRUMB_RING_SIZE];
    if (!take(slot))
        return;
    sentry_line_pack(event, &slot->crumb.line, slot->crumb.text, sizeof slot->crumb.text);
    give_back(slot);
}

// A slot that may be chosen.
struct candidate {
    struct sentry_crumb_slot *slot;
    int64_t wall;
    bool is_close; // it is the connection's own, or the process's
};

static size_t look_through(struct sentry_crumb_ring *ring, uint64_t connection, struct candidate *out)
{
    size_t count = 0;
    for (size_t i = 0; i < SENTRY_CRUMB_RING_SIZE; i++) {
        struct sentry_crumb_slot *slot = &ring->slots[i];
        if (!take(slot))
            continue;
        const struct sentry_line *line = &slot->crumb.line;
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
    const struct sentry_crumb *first = a, *second = b;
    return (first->line.wall > second->line.wall) - (first->line.wall < second->line.wall);
}

size_t sentry_crumbs_collect(struct sentry_crumbs *crumbs, uint64_t connection,
                             struct sentry_crumb out[SENTRY_CRUMBS_MAX])
{
    struct candidate candidates[LINES_MAX];
    size_t found = look_through(&crumbs->rest, connection, candidates);
    found += look_through(&crumbs->ends, connection, candidates + found);
    qsort(candidates, found, sizeof *candidates, by_worth);
    size_t count = 0;
    for (size_t i = 0; i < found && count < SENTRY_CRUMBS_MAX; i++) {
        if (!take(candidates[i].slot))
            continue;
        out[count] = candidates[i].slot->crumb;
        give_back(candidates[i].slot);
        // Of a process that has crashed, anything may be in there.
        if (out[count].line.length <= sizeof out[count].text)
            count++;
    }
    qsort(out, count, sizeof *out, by_time);
    return count;
}
