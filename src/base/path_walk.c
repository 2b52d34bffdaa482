#include "path_walk.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/hash.h"

#define LINKS_MAX 40 // as Linux has it

struct walk {
    char directory[PATH_MAX]; // where it has come to: without links, but perhaps with ..
    char rest[PATH_MAX];      // what is to be followed from there
    unsigned links;
    struct path_state state;
};

static void note_status(struct path_state *state, const struct stat *status)
{
    const uint64_t numbers[] = {
        (uint64_t)status->st_dev,         (uint64_t)status->st_ino,          (uint64_t)status->st_size,
        (uint64_t)status->st_mode,        (uint64_t)status->st_mtim.tv_sec,  (uint64_t)status->st_mtim.tv_nsec,
        (uint64_t)status->st_ctim.tv_sec, (uint64_t)status->st_ctim.tv_nsec,
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        state->mark = hash_number(state->mark, numbers[i]);
    int64_t changed = status->st_ctim.tv_sec * NS_PER_S + status->st_ctim.tv_nsec;
    if (changed > state->changed)
        state->changed = changed;
}

static bool note_failure(struct path_state *state, int number)
{
    state->mark = hash_number(state->mark, (uint64_t)number);
    return false;
}

// Takes the first component off what is left. False: there is none.
static bool take_name(struct walk *walk, char name[NAME_MAX + 1], bool *is_last)
{
    const char *begin = walk->rest + strspn(walk->rest, "/");
    size_t length = strcspn(begin, "/");
    const char *behind = begin + length + strspn(begin + length, "/");
    *is_last = *behind == '\0';
    if (length == 0)
        return false;
    if (length > NAME_MAX)
        return note_failure(&walk->state, ENAMETOOLONG);
    memcpy(name, begin, length);
    name[length] = '\0';
    memmove(walk->rest, behind, strlen(behind) + 1);
    return true;
}

static bool join(const char *directory, const char *name, char out[PATH_MAX])
{
    bool has_slash = directory[strlen(directory) - 1] == '/';
    int length = snprintf(out, PATH_MAX, "%s%s%s", directory, has_slash ? "" : "/", name);
    return length > 0 && length < PATH_MAX;
}

// Puts what a link says before what is left.
static bool follow(struct walk *walk, const char *link)
{
    char target[PATH_MAX];
    char rest[PATH_MAX];
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 0)
        return note_failure(&walk->state, errno);
    target[length] = '\0';
    int whole = snprintf(rest, sizeof rest, "%s/%s", target, walk->rest);
    if (walk->links++ >= LINKS_MAX || whole < 0 || (size_t)whole >= sizeof rest)
        return note_failure(&walk->state, ELOOP);
    walk->state.mark = hash_text(walk->state.mark, target);
    memcpy(walk->rest, rest, (size_t)whole + 1);
    if (*target == '/')
        memcpy(walk->directory, "/", sizeof "/");
    return true;
}

// One component. False: it is the end.
static bool step(struct walk *walk, path_visit *visit, void *context)
{
    char name[NAME_MAX + 1];
    char path[PATH_MAX];
    struct stat status;
    bool is_last;
    if (!take_name(walk, name, &is_last))
        return false;
    if (strcmp(name, ".") == 0)
        return true;
    if (!join(walk->directory, name, path))
        return note_failure(&walk->state, ENAMETOOLONG);
    bool is_known = lstat(path, &status) == 0;
    int failure = is_known ? 0 : errno;
    bool is_link = is_known && S_ISLNK(status.st_mode);
    bool is_end = !is_known || is_last || !(is_link || S_ISDIR(status.st_mode));
    if ((is_link || is_end) && visit != NULL)
        visit(context, walk->directory, name);
    if (!is_known)
        return note_failure(&walk->state, failure);
    if (is_link || is_end)
        note_status(&walk->state, &status);
    if (is_link)
        return follow(walk, path);
    memcpy(walk->directory, path, sizeof path);
    walk->state.is_there = is_last;
    return !is_end;
}

struct path_state path_walk(const char *path, path_visit *visit, void *context)
{
    struct walk walk = {.directory = ".", .state = {.mark = hash_begin()}};
    if (strlen(path) >= sizeof walk.rest) {
        (void)note_failure(&walk.state, ENAMETOOLONG);
        return walk.state;
    }
    (void)snprintf(walk.rest, sizeof walk.rest, "%s", path);
    if (*path == '/')
        memcpy(walk.directory, "/", sizeof "/");
    while (step(&walk, visit, context))
        continue;
    return walk.state;
}
