#include "bitflow/net/inherited.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/mutex.h"
#include "bitflow/net/socket.h"

#define FIRST_NAMED 3 // SD_LISTEN_FDS_START

enum loan { FREE, LENT, SPENT };

struct inherited {
    int fd;
    enum loan loan;
};

static struct mutex lock = MUTEX_INIT;
static struct inherited *table GUARDED_BY(lock); // owned
static size_t table_count GUARDED_BY(lock);
static size_t table_room GUARDED_BY(lock);
static bool is_handed_down GUARDED_BY(lock);
static bool is_complete GUARDED_BY(lock); // inherited_init() has run: what isn't in the table wasn't handed over
// LISTEN_FDNAMES; the name at index i is that of descriptor FIRST_NAMED + i. Written by inherited_init()
// only.
static char *names GUARDED_BY(lock);
static int named_count GUARDED_BY(lock);

static bool is_stream_socket(int fd)
{
    int type;
    socklen_t size = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

bool inherited_is_listening(int fd)
{
    int listening = 0;
    socklen_t size = sizeof listening;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && listening != 0;
}

static struct inherited *lookup(int fd) REQUIRES(lock)
{
    for (size_t i = 0; i < table_count; i++)
        if (table[i].fd == fd)
            return &table[i];
    return NULL;
}

// NULL: no memory.
static struct inherited *add(int fd) REQUIRES(lock)
{
    if (table_count == table_room) {
        size_t room = table_room == 0 ? 8 : 2 * table_room;
        struct inherited *grown = realloc(table, room * sizeof *grown);
        if (grown == NULL)
            return NULL;
        table = grown;
        table_room = room;
    }
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    table[table_count] = (struct inherited){.fd = fd, .loan = FREE};
    return &table[table_count++];
}

static bool parse_count(const char *text, long *number)
{
    char *end;
    errno = 0;
    *number = text != NULL ? strtol(text, &end, 10) : 0;
    return text != NULL && *text >= '0' && *text <= '9' && errno == 0 && *end == '\0' &&
           *number <= INT_MAX - FIRST_NAMED;
}

static void read_environment(void) REQUIRES(lock)
{
    const char *pid_text = getenv("LISTEN_PID");
    const char *names_text = getenv("LISTEN_FDNAMES");
    long pid, count;
    // For another process: a parent that doesn't clear its own environment.
    bool ours = pid_text == NULL || (parse_count(pid_text, &pid) && pid == (long)getpid());
    if (ours && names_text != NULL && parse_count(getenv("LISTEN_FDS"), &count)) {
        names = strdup(names_text);
        named_count = names != NULL ? (int)count : 0;
    }
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_FDNAMES");
}

// Without /proc, the numbers up to here are looked at.
#define GUESSED_DESCRIPTORS 1024

static void note_open_sockets(void) REQUIRES(lock)
{
    DIR *directory = opendir("/proc/self/fd");
    if (directory == NULL) {
        for (int fd = 0; fd < GUESSED_DESCRIPTORS; fd++)
            if (is_stream_socket(fd))
                (void)add(fd);
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        long fd;
        if (parse_count(entry->d_name, &fd) && is_stream_socket((int)fd))
            (void)add((int)fd);
    }
    (void)closedir(directory);
}

void inherited_init(void)
{
    mutex_lock(&lock);
    free(table);
    free(names);
    table = NULL;
    names = NULL;
    table_count = 0;
    table_room = 0;
    named_count = 0;
    note_open_sockets();
    read_environment();
    is_complete = true;
    mutex_unlock(&lock);
}

// -1: there is no such name. Of several descriptors of one name the first is meant.
static int number_of_name(const char *name) REQUIRES(lock)
{
    const char *at = names;
    for (int i = 0; i < named_count && at != NULL; i++) {
        size_t length = strcspn(at, ":");
        if (length == strlen(name) && strncmp(at, name, length) == 0)
            return FIRST_NAMED + i;
        at = at[length] == ':' ? at + length + 1 : NULL;
    }
    return -1;
}

static struct inherited *find(const struct address *address, struct error *error) REQUIRES(lock)
{
    int fd = address->fd >= 0 ? address->fd : number_of_name(address->fd_name);
    if (fd < 0) {
        error_set(error, ERROR_INVALID, "no inherited descriptor is named \"%s\" (LISTEN_FDNAMES)", address->fd_name);
        return NULL;
    }
    struct inherited *found = lookup(fd);
    if (found != NULL && found->loan == SPENT) {
        error_set(error, ERROR_REFUSED, "inherited descriptor %d was used up", fd);
        return NULL;
    }
    // The table holds stream sockets only, but a number may have been closed behind our back.
    if (!is_stream_socket(fd) || (found == NULL && is_complete)) {
        error_set(error, ERROR_INVALID, "descriptor %d was not inherited, or is not a stream socket", fd);
        return NULL;
    }
    if (found == NULL)
        found = add(fd);
    if (found == NULL)
        error_set_errno(error, ENOMEM, "cannot keep track of descriptor %d", fd);
    return found;
}

bool inherited_find(const struct address *address, int *fd, struct error *error)
{
    mutex_lock(&lock);
    const struct inherited *found = find(address, error);
    if (found != NULL)
        *fd = found->fd;
    mutex_unlock(&lock);
    return found != NULL;
}

static struct inherited *find_free(const struct address *address, struct error *error) REQUIRES(lock)
{
    struct inherited *found = find(address, error);
    if (found == NULL || found->loan == FREE)
        return found;
    error_set(error, ERROR_REFUSED, "inherited descriptor %d is in use", found->fd);
    return NULL;
}

bool inherited_take(const struct address *address, int *fd, struct error *error)
{
    mutex_lock(&lock);
    struct inherited *found = find_free(address, error);
    if (found != NULL) {
        found->loan = LENT;
        *fd = found->fd;
    }
    mutex_unlock(&lock);
    return found != NULL;
}

static void spend(struct inherited *inherited) REQUIRES(lock)
{
    inherited->loan = SPENT;
    (void)close(inherited->fd);
}

// False: it can't be a target, and why. A stream that is over is closed.
static bool check_connected(struct inherited *inherited, struct error *error) REQUIRES(lock)
{
    int fd = inherited->fd;
    struct endpoint peer;
    char byte;
    if (inherited_is_listening(fd)) {
        error_set(error, ERROR_INVALID, "inherited descriptor %d is a listening socket, not a connection", fd);
        return false;
    }
    ssize_t peeked = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (peeked == 0 || (peeked < 0 && errno != EAGAIN && errno != EINTR) || !socket_peer(fd, &peer)) {
        error_set(error, ERROR_REFUSED, "inherited descriptor %d: its peer has ended the connection", fd);
        spend(inherited);
        return false;
    }
    return true;
}

bool inherited_lend(const struct address *address, int *fd, struct error *error)
{
    mutex_lock(&lock);
    struct inherited *found = find_free(address, error);
    bool is_lent = found != NULL && check_connected(found, error);
    if (is_lent) {
        found->loan = LENT;
        *fd = found->fd;
        socket_set_blocking(found->fd, true);
    }
    mutex_unlock(&lock);
    return is_lent;
}

void inherited_return(int fd, bool spent)
{
    mutex_lock(&lock);
    struct inherited *found = lookup(fd);
    if (found != NULL && spent && !(is_handed_down && inherited_is_listening(fd)))
        spend(found);
    else if (found != NULL)
        found->loan = FREE;
    mutex_unlock(&lock);
}

static size_t list(int *descriptors) REQUIRES(lock)
{
    size_t count = 0;
    for (size_t i = 0; i < table_count; i++)
        if (table[i].loan != SPENT && inherited_is_listening(table[i].fd))
            descriptors[count++] = table[i].fd;
    return count;
}

bool inherited_for_successor(struct inherited_sockets *sockets, struct error *error)
{
    struct inherited_sockets found = {.count = 0};
    mutex_lock(&lock);
    found.descriptors = calloc(table_count + 1, sizeof *found.descriptors);
    found.names = names == NULL ? NULL : strdup(names);
    found.name_count = named_count;
    bool good = found.descriptors != NULL && (found.names != NULL || names == NULL);
    if (good)
        found.count = list(found.descriptors);
    mutex_unlock(&lock);
    if (good) {
        *sockets = found;
        return true;
    }
    inherited_sockets_release(&found);
    error_set_errno(error, ENOMEM, "cannot hand the inherited sockets down");
    return false;
}

void inherited_sockets_release(struct inherited_sockets *sockets)
{
    free(sockets->descriptors);
    free(sockets->names);
    *sockets = (struct inherited_sockets){.count = 0};
}

void inherited_hand_down(void)
{
    mutex_lock(&lock);
    is_handed_down = true;
    mutex_unlock(&lock);
}
