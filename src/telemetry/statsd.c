#include "bitflow/telemetry/statsd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/log.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"
#include "statsd_socket.h"

#define INTERVAL (1 * NS_PER_S)
#define LOOK_UP_WAIT (2 * NS_PER_S)
#define LAST_LOOK_UP_WAIT (500 * NS_PER_MS)
// A burst is no longer than what a receiver's buffer holds (the default of 208 KiB has room for about 90 datagrams).
#define BURST 32
#define BURST_PAUSE (10 * NS_PER_MS)
#define STACK_SIZE ((size_t)96 * 1024)

// Settings with what they point to, in one piece of memory.
struct setting {
    enum statsd_format format;
    size_t address; // where it begins in `text`, which begins with the prefix
    char text[];
};

struct statsd {
    statsd_collect *collect;
    void *argument;
    pthread_t thread;
    struct mutex lock;
    struct condition changed;
    struct setting *next GUARDED; // NULL: no change
    bool stopping GUARDED;
    // The thread's own:
    struct setting *current; // NULL: none yet
    struct statsd_socket socket;
    struct statsd_batch batch;
    unsigned burst;
    bool was_delivered;
    bool has_logged; // that there is no receiver
};

// Waits until `deadline`, or until there is something else to do.
static void wait_until(struct statsd *statsd, int64_t deadline)
{
    mutex_lock(&statsd->lock);
    while (!statsd->stopping && statsd->next == NULL && deadline_left(deadline) > 0)
        condition_wait(&statsd->changed, &statsd->lock, deadline);
    mutex_unlock(&statsd->lock);
}

// Also at the end: it takes no longer than the datagrams that there may be.
static void pause_between_bursts(struct statsd *statsd)
{
    int64_t until = clock_now() + BURST_PAUSE;
    mutex_lock(&statsd->lock);
    while (deadline_left(until) > 0)
        condition_wait(&statsd->changed, &statsd->lock, until);
    mutex_unlock(&statsd->lock);
}

static enum statsd_outcome send_datagram(void *argument, const char *bytes, size_t length)
{
    struct statsd *statsd = argument;
    if (++statsd->burst % BURST == 0)
        pause_between_bursts(statsd);
    return statsd_socket_send(&statsd->socket, bytes, length);
}

// Without a receiver nothing is collected: it waits where it is.
static void report(struct statsd *statsd, int64_t look_up_wait)
{
    struct error error = ERROR_INIT;
    if (statsd->current == NULL)
        return;
    const char *address = statsd->current->text + statsd->current->address;
    if (statsd_socket_was_refused(&statsd->socket))
        statsd->was_delivered = false;
    if (!statsd_socket_prepare(&statsd->socket, deadline_after(look_up_wait), &error)) {
        if (!statsd->has_logged)
            log_warn(NULL, "metrics cannot be sent", "address", address, "error", error.text, NULL);
        statsd->has_logged = true;
        return;
    }
    if (statsd->has_logged)
        log_info(NULL, "metrics are sent again", "address", address, NULL);
    statsd->has_logged = false;
    struct statsd_batch *batch = &statsd->batch;
    statsd->burst = 0;
    statsd_batch_begin(batch, statsd->was_delivered);
    statsd->collect(batch, statsd->argument);
    // What was in a datagram that was dropped has been marked so by itself.
    statsd_batch_end(batch);
    statsd->was_delivered = batch->outcome != STATSD_REFUSED;
}

static void adopt(struct statsd *statsd, struct setting *next)
{
    bool is_same_address = statsd->current != NULL &&
                           strcmp(statsd->current->text + statsd->current->address, next->text + next->address) == 0;
    free(statsd->current);
    statsd->current = next;
    if (!is_same_address) {
        if (statsd_socket_was_refused(&statsd->socket))
            statsd->was_delivered = false;
        statsd_socket_close(&statsd->socket);
        statsd_socket_init(&statsd->socket, next->text + next->address);
        statsd->has_logged = false;
        log_info(NULL, "sending metrics", "address", next->text + next->address, NULL);
    }
    statsd->batch.format = next->format;
    statsd->batch.prefix = next->text;
    statsd->batch.sink.limit = statsd_socket_limit(&statsd->socket);
}

// False: it shall stop.
static bool take_settings(struct statsd *statsd)
{
    mutex_lock(&statsd->lock);
    struct setting *next = statsd->next;
    statsd->next = NULL;
    bool stopping = statsd->stopping;
    mutex_unlock(&statsd->lock);
    if (next != NULL)
        adopt(statsd, next);
    return !stopping;
}

static void *run_statsd(void *argument)
{
    struct statsd *statsd = argument;
    thread_set_name("statsd");
    int64_t due = clock_now();
    for (;;) {
        wait_until(statsd, due);
        if (!take_settings(statsd))
            break;
        report(statsd, LOOK_UP_WAIT);
        due += INTERVAL;
        if (due < clock_now())
            due = clock_now() + INTERVAL; // it took longer than that
    }
    report(statsd, LAST_LOOK_UP_WAIT);
    return NULL;
}

struct statsd *statsd_create(statsd_collect *collect, void *argument, struct statsd_losses *losses, struct error *error)
{
    struct statsd *statsd = calloc(1, sizeof *statsd);
    if (statsd == NULL) {
        error_set_errno(error, ENOMEM, "cannot report metrics");
        return NULL;
    }
    statsd->collect = collect;
    statsd->argument = argument;
    statsd->socket.fd = -1;
    statsd->was_delivered = true;
    statsd->batch.losses = losses;
    statsd->batch.sink = (struct statsd_sink){.send = send_datagram, .argument = statsd};
    mutex_init(&statsd->lock);
    condition_init(&statsd->changed);
    if (thread_start(&statsd->thread, STACK_SIZE, run_statsd, statsd, error))
        return statsd;
    condition_release(&statsd->changed);
    mutex_release(&statsd->lock);
    free(statsd);
    return NULL;
}

static struct setting *copy(const struct statsd_settings *settings)
{
    const char *prefix = settings->prefix == NULL ? "" : settings->prefix;
    size_t prefix_size = strlen(prefix) + 1, address_size = strlen(settings->address) + 1;
    struct setting *setting = malloc(sizeof *setting + prefix_size + address_size);
    if (setting == NULL)
        return NULL;
    setting->format = settings->format;
    setting->address = prefix_size;
    memcpy(setting->text, prefix, prefix_size);
    memcpy(setting->text + prefix_size, settings->address, address_size);
    return setting;
}

void statsd_configure(struct statsd *statsd, const struct statsd_settings *settings)
{
    struct setting *next = copy(settings);
    if (next == NULL) {
        log_error(NULL, "metrics keep their old settings", "error", "out of memory", NULL);
        return;
    }
    mutex_lock(&statsd->lock);
    free(statsd->next);
    statsd->next = next;
    condition_signal(&statsd->changed);
    mutex_unlock(&statsd->lock);
}

void statsd_destroy(struct statsd **statsd)
{
    struct statsd *destroyed = *statsd;
    *statsd = NULL;
    if (destroyed == NULL)
        return;
    mutex_lock(&destroyed->lock);
    destroyed->stopping = true;
    condition_signal(&destroyed->changed);
    mutex_unlock(&destroyed->lock);
    (void)pthread_join(destroyed->thread, NULL);
    mutex_lock(&destroyed->lock);
    free(destroyed->next);
    mutex_unlock(&destroyed->lock);
    statsd_socket_close(&destroyed->socket);
    free(destroyed->current);
    condition_release(&destroyed->changed);
    mutex_release(&destroyed->lock);
    free(destroyed);
}
