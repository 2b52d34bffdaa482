#include "directory_watches.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "bitflow/base/log.h"
#include "path_walk.h"

// Not IN_MODIFY: a log in the same directory would wake the thread for each line. A file that is written to and stays
// open is found when it is looked at.
#define EVENTS \
    (IN_CREATE | IN_CLOSE_WRITE | IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF)

// A path may change while it is walked: then there is another round, but not for ever.
#define ROUNDS_MAX 4

static void tell(struct directory_watches *watches, const char *directory, int number)
{
    struct error error = ERROR_INIT;
    if (watches->has_told)
        return;
    watches->has_told = true;
    if (number == ENOSPC) // "No space left on device" leads nobody to it
        error_set(&error, ERROR_SYSTEM, "no watch is left (fs.inotify.max_user_watches)");
    else
        error_set_errno(&error, number, "inotify");
    log_warn(NULL, "not every change of a file can be noticed at once: files are looked at from time to time",
             "directory", directory, "error", error.text, NULL);
}

void directory_watches_init(struct directory_watches *watches, size_t max)
{
    *watches = (struct directory_watches){.max = max};
    watches->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (watches->fd < 0)
        tell(watches, NULL, errno);
}

static void forget_names(struct directory_watches *watches)
{
    for (size_t i = 0; i < watches->name_count; i++)
        free(watches->names[i].name);
    watches->name_count = 0;
}

void directory_watches_release(struct directory_watches *watches)
{
    forget_names(watches);
    free(watches->names);
    free(watches->directories);
    if (watches->fd >= 0)
        (void)close(watches->fd);
    *watches = (struct directory_watches){.fd = -1};
}

static struct watched_directory *find(const struct directory_watches *watches, int number)
{
    for (size_t i = 0; i < watches->directory_count; i++)
        if (watches->directories[i].number == number)
            return &watches->directories[i];
    return NULL;
}

static struct watched_directory *append_directory(struct directory_watches *watches, int number)
{
    if (watches->directory_count >= watches->max) {
        errno = ENOSPC;
        return NULL;
    }
    struct watched_directory *longer = reallocarray(watches->directories, watches->directory_count + 1, sizeof *longer);
    if (longer == NULL)
        return NULL;
    watches->directories = longer;
    longer += watches->directory_count++;
    longer->number = number;
    return longer;
}

// inotify's number, or -1.
static int watch_directory(struct directory_watches *watches, const char *directory)
{
    int number = inotify_add_watch(watches->fd, directory, EVENTS | IN_ONLYDIR);
    if (number < 0 && (errno == ENOENT || errno == ENOTDIR)) {
        watches->is_incomplete = true; // it has just gone, and the path is another one
        return -1;
    }
    struct watched_directory *watched = number < 0 ? NULL : find(watches, number);
    if (number >= 0 && watched == NULL) {
        watched = append_directory(watches, number);
        watches->is_incomplete = true; // what happened in it before is not known
    }
    if (watched == NULL) {
        int failure = errno;
        if (number >= 0)
            (void)inotify_rm_watch(watches->fd, number);
        tell(watches, directory, failure);
        return -1;
    }
    watched->round = watches->round;
    return number;
}

static bool append_name(struct directory_watches *watches, int directory, const char *name, unsigned kinds)
{
    if (watches->name_count == watches->name_room) {
        size_t room = watches->name_room == 0 ? 16 : 2 * watches->name_room;
        struct watched_name *longer = reallocarray(watches->names, room, sizeof *longer);
        if (longer == NULL)
            return false;
        watches->names = longer;
        watches->name_room = room;
    }
    char *copy = strdup(name);
    if (copy == NULL)
        return false;
    watches->names[watches->name_count++] = (struct watched_name){.directory = directory, .kinds = kinds, .name = copy};
    return true;
}

struct visit {
    struct directory_watches *watches;
    unsigned kinds;
};

static void watch_entry(void *context, const char *directory, const char *name)
{
    const struct visit *visit = context;
    int number = watch_directory(visit->watches, directory);
    if (number >= 0 && !append_name(visit->watches, number, name, visit->kinds))
        tell(visit->watches, directory, ENOMEM);
}

static void drop_others(struct directory_watches *watches)
{
    size_t kept = 0;
    for (size_t i = 0; i < watches->directory_count; i++) {
        if (watches->directories[i].round == watches->round)
            watches->directories[kept++] = watches->directories[i];
        else
            (void)inotify_rm_watch(watches->fd, watches->directories[i].number); // fails if it went by itself
    }
    watches->directory_count = kept;
}

void directory_watches_renew(struct directory_watches *watches, const struct watched_file *files, size_t count)
{
    if (watches->fd < 0)
        return;
    watches->is_incomplete = true;
    for (unsigned round = 0; watches->is_incomplete && round < ROUNDS_MAX; round++) {
        forget_names(watches);
        watches->round++;
        watches->is_incomplete = false;
        for (size_t i = 0; i < count; i++)
            (void)path_walk(files[i].path, watch_entry, &(struct visit){.watches = watches, .kinds = files[i].kinds});
    }
    drop_others(watches);
}

// Of an event about the directory itself there is no name.
static unsigned concerns(const struct directory_watches *watches, const struct inotify_event *event)
{
    unsigned kinds = 0;
    for (size_t i = 0; i < watches->name_count; i++) {
        const struct watched_name *watched = &watches->names[i];
        if (watched->directory == event->wd && (event->len == 0 || strcmp(watched->name, event->name) == 0))
            kinds |= watched->kinds;
    }
    return kinds;
}

static void forget_directory(struct directory_watches *watches, int number)
{
    struct watched_directory *gone = find(watches, number);
    if (gone != NULL)
        *gone = watches->directories[--watches->directory_count];
}

unsigned directory_watches_hear(struct directory_watches *watches, bool *is_any, bool *is_lost)
{
    _Alignas(struct inotify_event) char buffer[4096]; // room for many, and for the longest name
    unsigned kinds = 0;
    *is_any = *is_lost = false;
    for (;;) {
        ssize_t length = read(watches->fd, buffer, sizeof buffer);
        if (length < 0 && errno == EINTR)
            continue;
        if (length <= 0)
            return kinds;
        *is_any = true;
        const struct inotify_event *event;
        for (const char *at = buffer; at < buffer + length; at += sizeof *event + event->len) {
            event = (const void *)at;
            *is_lost = *is_lost || (event->mask & IN_Q_OVERFLOW) != 0;
            kinds |= concerns(watches, event);
            if ((event->mask & IN_IGNORED) != 0)
                forget_directory(watches, event->wd);
        }
    }
}
