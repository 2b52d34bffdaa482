#include "bitflow/proxy/reports.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"

#define REPORTER_STACK_SIZE ((size_t)64 * 1024)

struct reports {
    const struct report_actions *actions;
    struct mutex lock;
    struct condition due;     // the earliest entry has changed, or `stopping`
    struct condition settled; // an entry's state has
    // Guarded by the lock, as are queues and entries:
    struct report_queue *queues GUARDED; // those that are not empty
    bool stopping GUARDED;
    bool has_reporter GUARDED;
    pthread_t reporter; // written once, before any other thread may ask for it
};

struct reports *reports_create(const struct report_actions *actions, struct error *error)
{
    struct reports *reports = calloc(1, sizeof *reports);
    if (reports == NULL) {
        error_set_errno(error, ENOMEM, "cannot create the reports of connections");
        return NULL;
    }
    reports->actions = actions;
    mutex_init(&reports->lock);
    condition_init(&reports->due);
    condition_init(&reports->settled);
    return reports;
}

void reports_destroy(struct reports **reports)
{
    struct reports *destroyed = *reports;
    *reports = NULL;
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
static bool append(struct reports *reports, struct report_queue *queue, struct report_entry *entry)
    REQUIRES(reports->lock)
{
    bool was_empty = queue->last == NULL;
    entry->due = clock_now() + queue->interval; // the latest of the queue, so its place is the end
    entry->previous = queue->last;
    entry->next = NULL;
    if (was_empty) {
        queue->first = entry;
        queue->next = reports->queues;
        reports->queues = queue;
    } else {
        queue->last->next = entry;
    }
    queue->last = entry;
    return was_empty;
}

static void take_out(struct reports *reports, struct report_entry *entry) REQUIRES(reports->lock)
{
    struct report_queue *queue = entry->queue;
    *(entry->previous != NULL ? &entry->previous->next : &queue->first) = entry->next;
    *(entry->next != NULL ? &entry->next->previous : &queue->last) = entry->previous;
    if (queue->first != NULL)
        return;
    struct report_queue **link = &reports->queues;
    while (*link != queue)
        link = &(*link)->next;
    *link = queue->next;
}

// NULL: there is none.
static struct report_entry *earliest(const struct reports *reports) REQUIRES(reports->lock)
{
    struct report_entry *entry = NULL;
    for (const struct report_queue *queue = reports->queues; queue != NULL; queue = queue->next)
        if (entry == NULL || queue->first->due < entry->due)
            entry = queue->first;
    return entry;
}

static void enter(struct reports *reports, struct report_entry *entry, enum report_state state) REQUIRES(reports->lock)
{
    entry->state = state;
    condition_broadcast(&reports->settled);
}

static void report(struct reports *reports, struct report_entry *entry) REQUIRES(reports->lock)
{
    struct connection_line line;
    take_out(reports, entry);
    (void)append(reports, entry->queue, entry);
    entry->state = REPORT_IS_RENDERED;
    mutex_unlock(&reports->lock);
    reports->actions->render(entry, &line);
    mutex_lock(&reports->lock);
    enter(reports, entry, REPORT_IS_WRITTEN);
    mutex_unlock(&reports->lock);
    reports->actions->write(entry, &line);
    connection_line_release(&line);
    mutex_lock(&reports->lock);
    enter(reports, entry, REPORT_WAITS);
}

static void *run_reports(void *argument)
{
    struct reports *reports = argument;
    thread_set_name("reports");
    mutex_lock(&reports->lock);
    while (!reports->stopping) {
        struct report_entry *entry = earliest(reports);
        if (entry != NULL && deadline_left(entry->due) == 0)
            report(reports, entry);
        else
            condition_wait(&reports->due, &reports->lock, entry == NULL ? DEADLINE_NONE : entry->due);
    }
    mutex_unlock(&reports->lock);
    return NULL;
}

bool reports_start(struct reports *reports, struct error *error)
{
    mutex_lock(&reports->lock);
    if (!reports->has_reporter)
        reports->has_reporter = thread_start(&reports->reporter, REPORTER_STACK_SIZE, run_reports, reports, error);
    bool is_running = reports->has_reporter;
    mutex_unlock(&reports->lock);
    return is_running;
}

void reports_add(struct reports *reports, struct report_queue *queue, struct report_entry *entry)
{
    mutex_lock(&reports->lock);
    entry->queue = queue;
    if (append(reports, queue, entry)) // behind others it is not the earliest
        condition_signal(&reports->due);
    mutex_unlock(&reports->lock);
}

void reports_remove(struct reports *reports, struct report_entry *entry)
{
    if (entry->queue == NULL)
        return;
    mutex_lock(&reports->lock);
    take_out(reports, entry);
    while (entry->state == REPORT_IS_RENDERED)
        condition_wait(&reports->settled, &reports->lock, DEADLINE_NONE);
    mutex_unlock(&reports->lock);
}

void reports_settle(struct reports *reports, struct report_entry *entry)
{
    if (entry->queue == NULL)
        return;
    mutex_lock(&reports->lock);
    while (entry->state != REPORT_WAITS)
        condition_wait(&reports->settled, &reports->lock, DEADLINE_NONE);
    mutex_unlock(&reports->lock);
    entry->queue = NULL;
}
