#include "bitflow/proxy/periodic_records.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"

#define REPORTER_STACK_SIZE ((size_t)64 * 1024)

struct periodic_records {
    const struct periodic_actions *actions;
    struct mutex lock;
    struct condition due;     // the earliest entry has changed, or `stopping`
    struct condition settled; // an entry's state has
    // Guarded by the lock, as are queues and entries:
    struct periodic_queue *queues GUARDED; // those that are not empty
    bool stopping GUARDED;
    bool has_reporter GUARDED;
    pthread_t reporter; // written once, before any other thread may ask for it
};

struct periodic_records *periodic_records_create(const struct periodic_actions *actions, struct error *error)
{
    struct periodic_records *records = calloc(1, sizeof *records);
    if (records == NULL) {
        error_set_errno(error, ENOMEM, "cannot create the records of connections");
        return NULL;
    }
    records->actions = actions;
    mutex_init(&records->lock);
    condition_init(&records->due);
    condition_init(&records->settled);
    return records;
}

void periodic_records_destroy(struct periodic_records **records)
{
    struct periodic_records *destroyed = *records;
    *records = NULL;
    if (destroyed == NULL)
        return;
    mutex_lock(&destroyed->lock);
    destroyed->stopping = true;
    bool has_reporter = destroyed->has_reporter;
    condition_signal(&destroyed->due);
    mutex_unlock(&destroyed->lock);
    if (has_reporter)
        (void)pthread_join(destroyed->reporter, NULL);
    condition_release(&destroyed->due);
    condition_release(&destroyed->settled);
    mutex_release(&destroyed->lock);
    free(destroyed);
}

// Returns whether the queue was empty.
static bool append(struct periodic_records *records, struct periodic_queue *queue, struct periodic_record *entry)
    REQUIRES(records->lock)
{
    bool was_empty = queue->last == NULL;
    entry->due = clock_now() + queue->interval; // the latest of the queue, so its place is the end
    entry->previous = queue->last;
    entry->next = NULL;
    if (was_empty) {
        queue->first = entry;
        queue->next = records->queues;
        records->queues = queue;
    } else {
        queue->last->next = entry;
    }
    queue->last = entry;
    return was_empty;
}

static void take_out(struct periodic_records *records, struct periodic_record *entry) REQUIRES(records->lock)
{
    struct periodic_queue *queue = entry->queue;
    *(entry->previous != NULL ? &entry->previous->next : &queue->first) = entry->next;
    *(entry->next != NULL ? &entry->next->previous : &queue->last) = entry->previous;
    if (queue->first != NULL)
        return;
    struct periodic_queue **link = &records->queues;
    while (*link != queue)
        link = &(*link)->next;
    *link = queue->next;
}

// NULL: there is none.
static struct periodic_record *earliest(const struct periodic_records *records) REQUIRES(records->lock)
{
    struct periodic_record *entry = NULL;
    for (const struct periodic_queue *queue = records->queues; queue != NULL; queue = queue->next)
        if (entry == NULL || queue->first->due < entry->due)
            entry = queue->first;
    return entry;
}

static void enter(struct periodic_records *records, struct periodic_record *entry, enum periodic_state state)
    REQUIRES(records->lock)
{
    entry->state = state;
    condition_broadcast(&records->settled);
}

static void report(struct periodic_records *records, struct periodic_record *entry) REQUIRES(records->lock)
{
    struct json_line line;
    take_out(records, entry);
    (void)append(records, entry->queue, entry);
    entry->state = PERIODIC_IS_RENDERED;
    mutex_unlock(&records->lock);
    records->actions->render(entry, &line);
    mutex_lock(&records->lock);
    enter(records, entry, PERIODIC_IS_WRITTEN);
    mutex_unlock(&records->lock);
    records->actions->write(entry, &line);
    json_line_release(&line);
    mutex_lock(&records->lock);
    enter(records, entry, PERIODIC_WAITS);
}

static void *run_reports(void *argument)
{
    struct periodic_records *records = argument;
    thread_set_name("reports");
    mutex_lock(&records->lock);
    while (!records->stopping) {
        struct periodic_record *entry = earliest(records);
        if (entry != NULL && deadline_left(entry->due) == 0)
            report(records, entry);
        else
            condition_wait(&records->due, &records->lock, entry == NULL ? DEADLINE_NONE : entry->due);
    }
    mutex_unlock(&records->lock);
    return NULL;
}

bool periodic_records_start(struct periodic_records *records, struct error *error)
{
    mutex_lock(&records->lock);
    if (!records->has_reporter)
        records->has_reporter = thread_start(&records->reporter, REPORTER_STACK_SIZE, run_reports, records, error);
    bool is_running = records->has_reporter;
    mutex_unlock(&records->lock);
    return is_running;
}

void periodic_records_add(struct periodic_records *records, struct periodic_queue *queue, struct periodic_record *entry)
{
    mutex_lock(&records->lock);
    entry->queue = queue;
    if (append(records, queue, entry)) // behind others it is not the earliest
        condition_signal(&records->due);
    mutex_unlock(&records->lock);
}

void periodic_records_remove(struct periodic_records *records, struct periodic_record *entry)
{
    if (entry->queue == NULL)
        return;
    mutex_lock(&records->lock);
    take_out(records, entry);
    while (entry->state == PERIODIC_IS_RENDERED)
        condition_wait(&records->settled, &records->lock, DEADLINE_NONE);
    mutex_unlock(&records->lock);
}

void periodic_records_settle(struct periodic_records *records, struct periodic_record *entry)
{
    if (entry->queue == NULL)
        return;
    mutex_lock(&records->lock);
    while (entry->state != PERIODIC_WAITS)
        condition_wait(&records->settled, &records->lock, DEADLINE_NONE);
    mutex_unlock(&records->lock);
    entry->queue = NULL;
}
