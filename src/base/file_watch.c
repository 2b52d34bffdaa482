#include "bitflow/base/file_watch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/mutex.h"
#include "bitflow/base/thread.h"
#include "directory_watches.h"
#include "path_walk.h"

#define STACK_SIZE ((size_t)128 * 1024)
// Events are taken no more often than this: where much else happens in a directory, that wakes nobody a thousand times
// a second.
#define EVENTS_INTERVAL (100 * NS_PER_MS)
// The times of file systems are those of the kernel's last tick, on some of the last two seconds.
#define TIMES_GRANULARITY (2 * NS_PER_S)
#define END_TIME (1 * NS_PER_S)

// Files, their marks and the texts of their paths, in one piece of memory.
struct file_set {
    size_t count;
    int64_t since;
    uint64_t *marks;
    struct watched_file files[];
};

struct file_watch {
    struct file_watch_options options;
    pthread_t thread;
    int wake; // eventfd: there is a new set, or it is to end
    struct mutex lock;
    struct condition ended;
    // Guarded by the lock:
    struct file_set *next GUARDED;
    bool stopping GUARDED;
    bool has_ended GUARDED;
    // The thread's:
    struct directory_watches directories;
    struct file_set *current; // NULL: none yet
    unsigned changed;         // kinds, of which nobody has been told
    int64_t first_change, last_change;
    int64_t listen_at; // events are taken from then on
    int64_t look_at;
    unsigned owed; // kinds that are to be told again
    int64_t owed_at, owed_delay;
};

static void note_change(struct file_watch *watch, unsigned kinds)
{
    if (kinds == 0)
        return;
    watch->last_change = clock_now();
    if (watch->changed == 0)
        watch->first_change = watch->last_change;
    watch->changed |= kinds;
}

static void watch_directories(struct file_watch *watch)
{
    directory_watches_renew(&watch->directories, watch->current->files, watch->current->count);
}

// Whatever inotify has told of.
static void look(struct file_watch *watch)
{
    struct file_set *set = watch->current;
    unsigned kinds = 0;
    for (size_t i = 0; i < set->count; i++) {
        uint64_t mark = path_walk(set->files[i].path, NULL, NULL).mark;
        if (mark != set->marks[i])
            kinds |= set->files[i].kinds;
        set->marks[i] = mark;
    }
    watch->look_at = clock_now() + watch->options.interval;
    note_change(watch, kinds);
    if (kinds != 0)
        watch_directories(watch);
}

static void adopt(struct file_watch *watch, struct file_set *set)
{
    free(watch->current);
    watch->current = set;
    watch->directories.has_told = watch->directories.fd < 0;
    watch_directories(watch);
    for (size_t i = 0; i < set->count; i++) {
        struct path_state state = path_walk(set->files[i].path, NULL, NULL);
        set->marks[i] = state.mark;
        if (!state.is_there || state.changed >= set->since - TIMES_GRANULARITY)
            note_change(watch, set->files[i].kinds);
    }
    watch->look_at = clock_now() + watch->options.interval;
}

// False: it is to end.
static bool take_orders(struct file_watch *watch)
{
    uint64_t count;
    ssize_t got = read(watch->wake, &count, sizeof count); // non-blocking
    (void)got;
    mutex_lock(&watch->lock);
    struct file_set *next = watch->next;
    watch->next = NULL;
    bool stopping = watch->stopping;
    mutex_unlock(&watch->lock);
    if (next != NULL && !stopping)
        adopt(watch, next);
    else
        free(next);
    return !stopping;
}

static void hear(struct file_watch *watch)
{
    bool is_any, is_lost;
    unsigned kinds = directory_watches_hear(&watch->directories, &is_any, &is_lost);
    if (is_any)
        watch->listen_at = clock_now() + EVENTS_INTERVAL;
    note_change(watch, kinds);
    if (kinds != 0)
        watch_directories(watch); // a link may lead elsewhere now
    if (is_lost)
        look(watch);
}

// When there is something to tell: a change that is known has settled, or it is time for what is to be told again.
static int64_t tell_at(const struct file_watch *watch)
{
    if (watch->changed == 0)
        return watch->owed_at;
    return deadline_sooner(watch->last_change + watch->options.settle, watch->first_change + watch->options.settle_max);
}

static void tell(struct file_watch *watch)
{
    if (deadline_left(tell_at(watch)) > 0)
        return;
    look(watch); // what is found now is told, too; what changes from here on is not
    unsigned kinds = watch->changed | watch->owed;
    bool is_again = watch->changed == 0;
    watch->changed = 0;
    watch->owed = watch->options.on_change(watch->options.context, kinds);
    int64_t longer = deadline_sooner(2 * watch->owed_delay, watch->options.retry_max);
    watch->owed_delay = is_again ? longer : watch->options.retry;
    watch->owed_at = watch->owed == 0 ? DEADLINE_NONE : clock_now() + watch->owed_delay;
}

static void await(const struct file_watch *watch)
{
    struct pollfd pollers[] = {{.fd = watch->wake, .events = POLLIN}, {.fd = watch->directories.fd, .events = POLLIN}};
    int64_t due = deadline_sooner(watch->look_at, tell_at(watch));
    bool is_listening = deadline_left(watch->listen_at) == 0;
    if (!is_listening)
        due = deadline_sooner(due, watch->listen_at);
    (void)deadline_poll(pollers, is_listening ? 2 : 1, due); // poll() passes over a descriptor of -1
}

static void *run(void *argument)
{
    struct file_watch *watch = argument;
    thread_set_name("files");
    while (take_orders(watch)) {
        if (deadline_left(watch->listen_at) == 0)
            hear(watch);
        if (watch->current != NULL && deadline_left(watch->look_at) == 0)
            look(watch);
        if (watch->current != NULL)
            tell(watch);
        await(watch);
    }
    mutex_lock(&watch->lock);
    watch->has_ended = true;
    condition_signal(&watch->ended);
    mutex_unlock(&watch->lock);
    return NULL;
}

static void release(struct file_watch *watch)
{
    mutex_lock(&watch->lock);
    free(watch->next);
    mutex_unlock(&watch->lock);
    free(watch->current);
    directory_watches_release(&watch->directories);
    if (watch->wake >= 0)
        (void)close(watch->wake);
    condition_release(&watch->ended);
    mutex_release(&watch->lock);
    free(watch);
}

struct file_watch *file_watch_create(const struct file_watch_options *options, struct error *error)
{
    struct file_watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL) {
        error_set_errno(error, ENOMEM, "cannot watch files");
        return NULL;
    }
    watch->options = *options;
    watch->look_at = watch->owed_at = DEADLINE_NONE;
    mutex_init(&watch->lock);
    condition_init(&watch->ended);
    directory_watches_init(&watch->directories, options->max_watches);
    watch->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (watch->wake < 0)
        error_set_errno(error, errno, "cannot watch files");
    if (watch->wake >= 0 && thread_start(&watch->thread, STACK_SIZE, run, watch, error))
        return watch;
    release(watch);
    return NULL;
}

static void ring(const struct file_watch *watch)
{
    uint64_t one = 1;
    ssize_t written = write(watch->wake, &one, sizeof one); // fails only if it has rung already
    (void)written;
}

static struct file_set *copy(const struct watched_file *files, size_t count)
{
    struct file_set *set;
    size_t size = sizeof *set + count * (sizeof *files + sizeof *set->marks);
    for (size_t i = 0; i < count; i++)
        size += strlen(files[i].path) + 1;
    set = calloc(1, size);
    if (set == NULL)
        return NULL;
    set->count = count;
    set->marks = (void *)&set->files[count];
    char *text = (char *)&set->marks[count];
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(files[i].path) + 1;
        memcpy(text, files[i].path, length);
        set->files[i] = (struct watched_file){.path = text, .kinds = files[i].kinds};
        text += length;
    }
    return set;
}

bool file_watch_set(struct file_watch *watch, const struct watched_file *files, size_t count, int64_t since,
                    struct error *error)
{
    struct file_set *set = copy(files, count);
    if (set == NULL) {
        error_set_errno(error, ENOMEM, "cannot watch %zu files", count);
        return false;
    }
    set->since = since;
    mutex_lock(&watch->lock);
    free(watch->next);
    watch->next = set;
    mutex_unlock(&watch->lock);
    ring(watch);
    return true;
}

void file_watch_destroy(struct file_watch **watch)
{
    struct file_watch *gone = *watch;
    int64_t deadline = deadline_after(END_TIME);
    *watch = NULL;
    if (gone == NULL)
        return;
    mutex_lock(&gone->lock);
    gone->stopping = true;
    mutex_unlock(&gone->lock);
    ring(gone);
    mutex_lock(&gone->lock);
    while (!gone->has_ended && deadline_left(deadline) > 0)
        condition_wait(&gone->ended, &gone->lock, deadline);
    bool has_ended = gone->has_ended;
    mutex_unlock(&gone->lock);
    if (!has_ended)
        return; // it still uses everything
    (void)pthread_join(gone->thread, NULL);
    release(gone);
}
