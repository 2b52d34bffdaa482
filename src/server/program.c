#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[PATH_MAX];
static char *const *arguments_at_start;

// ---- where it is

static bool is_program(const char *candidate)
{
    struct stat status;
    return stat(candidate, &status) == 0 && S_ISREG(status.st_mode) && access(candidate, X_OK) == 0;
}

// "DIRECTORY/name", from the working directory where that is relative. False: too long.
static bool join(char out[PATH_MAX], const char *directory, size_t length, const char *name)
{
    char working[PATH_MAX] = "";
    bool is_absolute = length > 0 && directory[0] == '/';
    if (!is_absolute && getcwd(working, sizeof working) == NULL)
        return false;
    int size = snprintf(out, PATH_MAX, "%s%s%.*s/%s", working, is_absolute || length == 0 ? "" : "/", (int)length,
                        directory, name);
    return size > 0 && size < PATH_MAX;
}

// As a shell looks for a command.
static bool search(const char *name, char out[PATH_MAX])
{
    const char *at = getenv("PATH");
    while (at != NULL) {
        size_t length = strcspn(at, ":");
        if (length < PATH_MAX && join(out, at, length, name) && is_program(out))
            return true;
        at = at[length] == ':' ? at + length + 1 : NULL;
    }
    return false;
}

static bool find(const char *name, char out[PATH_MAX])
{
    if (name == NULL || *name == '\0')
        return false;
    if (strchr(name, '/') == NULL)
        return search(name, out);
    return (*name == '/' ? snprintf(out, PATH_MAX, "%s", name) < PATH_MAX : join(out, "", 0, name)) && is_program(out);
}

// Whoever starts a program may call it what he likes.
static bool is_this_program(const char *candidate)
{
    struct stat ours, other;
    return stat("/proc/self/exe", &ours) != 0 ||
           (stat(candidate, &other) == 0 && ours.st_dev == other.st_dev && ours.st_ino == other.st_ino);
}

void program_remember(char *const *arguments)
{
    arguments_at_start = arguments;
    if (find(arguments[0], path) && is_this_program(path))
        return;
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    path[length > 0 ? length : 0] = '\0';
}

const char *program_path(void)
{
    return path;
}

// ---- what it is given

#define OWN_VARIABLES 3

struct environment {
    char **all; // ours, with the gifts' behind
    char *count_text;
    char *names_text;
};

static void release_environment(struct environment *environment)
{
    free(environment->all);
    free(environment->count_text);
    free(environment->names_text);
}

// inherited_init() has unset what is set here, and left out whose these are: it is read by the next one alone.
static bool make_environment(const struct program_gifts *gifts, struct environment *environment)
{
    const struct inherited_sockets *sockets = &gifts->sockets;
    size_t count = 0;
    while (environ[count] != NULL)
        count++;
    *environment = (struct environment){.all = calloc(count + OWN_VARIABLES + 1, sizeof(char *))};
    if (environment->all == NULL)
        return false;
    memcpy(environment->all, environ, count * sizeof(char *));
    environment->all[count++] = gifts->variable;
    if (sockets->names == NULL)
        return true;
    if (asprintf(&environment->count_text, "LISTEN_FDS=%d", sockets->name_count) < 0)
        environment->count_text = NULL;
    if (asprintf(&environment->names_text, "LISTEN_FDNAMES=%s", sockets->names) < 0)
        environment->names_text = NULL;
    environment->all[count++] = environment->count_text;
    environment->all[count++] = environment->names_text;
    return environment->count_text != NULL && environment->names_text != NULL;
}

// The log's descriptors may be sockets, which net/inherited.c has made close-on-exec.
static const int standard[] = {STDOUT_FILENO, STDERR_FILENO};

static size_t gift_count(const struct program_gifts *gifts)
{
    return gifts->sockets.count + 1 + sizeof standard / sizeof *standard;
}

static int gift(const struct program_gifts *gifts, size_t i)
{
    if (i < gifts->sockets.count)
        return gifts->sockets.descriptors[i];
    i -= gifts->sockets.count;
    return i == 0 ? gifts->channel : standard[i - 1];
}

// ---- starting it

static int spawn(const struct program_gifts *gifts, char **environment, pid_t *child)
{
    posix_spawn_file_actions_t actions;
    int reason = posix_spawn_file_actions_init(&actions);
    if (reason != 0)
        return reason;
    // To itself: that is how a descriptor passes.
    for (size_t i = 0; reason == 0 && i < gift_count(gifts); i++)
        reason = posix_spawn_file_actions_adddup2(&actions, gift(gifts, i), gift(gifts, i));
    if (reason == 0)
        reason = posix_spawn(child, path, &actions, NULL, arguments_at_start, environment);
    (void)posix_spawn_file_actions_destroy(&actions);
    return reason;
}

bool program_start(const struct program_gifts *gifts, pid_t *child, struct error *error)
{
    struct environment environment;
    int reason = make_environment(gifts, &environment) ? spawn(gifts, environment.all, child) : ENOMEM;
    release_environment(&environment);
    if (reason != 0)
        error_set_errno(error, reason, "cannot start %s", path);
    return reason == 0;
}

static void let_pass(const struct program_gifts *gifts, bool is_to_pass)
{
    // Standard output and error are for every child, and stay so.
    size_t count = is_to_pass ? gift_count(gifts) : gifts->sockets.count + 1;
    for (size_t i = 0; i < count; i++)
        (void)fcntl(gift(gifts, i), F_SETFD, is_to_pass ? 0 : FD_CLOEXEC);
}

void program_become(const struct program_gifts *gifts, struct error *error)
{
    struct environment environment;
    int reason = ENOMEM;
    if (make_environment(gifts, &environment)) {
        let_pass(gifts, true);
        (void)execve(path, arguments_at_start, environment.all);
        reason = errno;
        let_pass(gifts, false);
    }
    release_environment(&environment);
    error_set_errno(error, reason, "cannot start %s", path);
}
