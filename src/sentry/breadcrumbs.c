#include "breadcrumbs.h"

#include <stdlib.h>
#include <string.h>

#include "bitflow/base/text.h"

// ---- one line

// False: it was cut, or there is no room for any of it.
static bool put(struct sentry_line *line, char *room, size_t size, const char *string)
{
    size_t length = strlen(string);
    size_t left = size - line->length;
    if (left < 2)
        return false;
    bool fits = length < left;
    if (!fits)
        length = text_cut(string, left - 1);
    memcpy(room + line->length, string, length);
    room[line->length + length] = '\0';
    line->length += (uint32_t)length + 1;
    return fits;
}

void sentry_line_pack(const struct log_event *event, struct sentry_line *line, char *room, size_t size)
{
    *line = (struct sentry_line){.wall = event->wall, .connection = event->connection, .level = event->level};
    if (!put(line, room, size, event->message) || !put(line, room, size, event->proxy == NULL ? "" : event->proxy))
        return;
    for (size_t i = 0; i < event->field_count; i++) {
        uint32_t before = line->length;
        if (!put(line, room, size, event->fields[i].key)) {
            line->length = before;
            return;
        }
        if (!put(line, room, size, event->fields[i].value)) {
            if (line->length == before + strlen(event->fields[i].key) + 1)
                line->length = before; // no key without a value
            return;
        }
    }
}

// The string at `*at`, and `*at` moves on to the next; NULL: there is none.
static const char *next_string(const char **at, const char *end)
{
    const char *string = *at;
    size_t left = (size_t)(end - string);
    size_t length = strnlen(string, left);
    if (length == left)
        return NULL;
    *at = string + length + 1;
    return string;
}

const char *sentry_line_message(const struct sentry_line *line, const char *text)
{
    const char *at = text;
    const char *message = next_string(&at, text + line->length);
    return message == NULL ? "" : message;
}

const char *sentry_line_proxy(const struct sentry_line *line, const char *text)
{
    const char *at = text;
    if (next_string(&at, text + line->length) == NULL)
        return NULL;
    const char *proxy = next_string(&at, text + line->length);
    return proxy == NULL || *proxy == '\0' ? NULL : proxy;
}

const char *sentry_line_fields(const struct sentry_line *line, const char *text)
{
    const char *at = text;
    (void)next_string(&at, text + line->length);
    (void)next_string(&at, text + line->length);
    return at;
}

bool sentry_line_next_field(const struct sentry_line *line, const char *text, const char **at, struct log_field *field)
{
    const char *key = next_string(at, text + line->length);
    const char *value = key == NULL ? NULL : next_string(at, text + line->length);
    if (value == NULL)
        return false;
    *field = (struct log_field){.key = key, .value = value};
    return true;
}

const char *sentry_line_field(const struct sentry_line *line, const char *text, const char *key)
{
    const char *at = sentry_line_fields(line, text);
    struct log_field field;
    while (sentry_line_next_field(line, text, &at, &field))
        if (strcmp(field.key, key) == 0)
            return field.value;
    return NULL;
}

// ---- the rings of them

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
