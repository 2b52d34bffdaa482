#include "bitflow/net/unix_access.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitflow/base/descriptor_path.h"

#define MODE_BITS 0777
// Of a user's entry; groups may have thousands of members.
#define ENTRY_FIRST ((size_t)1024)
#define ENTRY_MAX ((size_t)1024 * 1024)

bool unix_access_mode(const char *text, mode_t *mode, struct error *error)
{
    // A program that writes YAML may have made a decimal number of one that was octal: 432 for 0660.
    if (strlen(text) != 4 || text[0] != '0' || strspn(text, "01234567") != 4) {
        error_set(error, ERROR_INVALID, "is not a mode: expected four octal digits, the first a 0, such as \"0660\"");
        return false;
    }
    *mode = (mode_t)strtoul(text, NULL, 8);
    return true;
}

// Decimal digits alone. The last number means nobody.
static bool parse_id(const char *text, uint32_t *id)
{
    if (*text == '\0' || text[strspn(text, "0123456789")] != '\0')
        return false;
    errno = 0;
    unsigned long number = strtoul(text, NULL, 10);
    if (errno != 0 || number >= UINT32_MAX)
        return false;
    *id = (uint32_t)number;
    return true;
}

// Returns 0, ENOENT, or why it cannot be told.
static int find_user(const char *name, char *room, size_t size, uint32_t *id)
{
    struct passwd entry, *found = NULL;
    int reason = getpwnam_r(name, &entry, room, size, &found);
    if (found != NULL)
        *id = found->pw_uid;
    return found != NULL ? 0 : reason != 0 ? reason : ENOENT;
}

static int find_group(const char *name, char *room, size_t size, uint32_t *id)
{
    struct group entry, *found = NULL;
    int reason = getgrnam_r(name, &entry, room, size, &found);
    if (found != NULL)
        *id = found->gr_gid;
    return found != NULL ? 0 : reason != 0 ? reason : ENOENT;
}

static bool find(const char *text, const char *what, int (*look_up)(const char *, char *, size_t, uint32_t *),
                 uint32_t *id, struct error *error)
{
    if (parse_id(text, id))
        return true;
    int reason = ERANGE;
    for (size_t size = ENTRY_FIRST; reason == ERANGE && size <= ENTRY_MAX; size *= 4) {
        char *room = malloc(size);
        reason = room == NULL ? ENOMEM : look_up(text, room, size, id);
        free(room);
    }
    switch (reason) {
    case 0:
        return true;
    // As the manual says, in place of "there is none":
    case ENOENT:
    case ESRCH:
    case EBADF:
    case EPERM:
        error_set(error, ERROR_INVALID, "is not a %s of this system", what);
        return false;
    default:
        error_set_errno(error, reason, "cannot be looked up as a %s", what);
        return false;
    }
}

bool unix_access_user(const char *text, uid_t *user, struct error *error)
{
    return find(text, "user", find_user, user, error);
}

bool unix_access_group(const char *text, gid_t *group, struct error *error)
{
    return find(text, "group", find_group, group, error);
}

bool unix_access_of(const char *mode, const char *user, const char *group, struct unix_access *access,
                    struct error *error)
{
    *access = (struct unix_access)UNIX_ACCESS_ANY;
    access->has_mode = mode != NULL;
    return (mode == NULL || unix_access_mode(mode, &access->mode, error)) &&
           (user == NULL || unix_access_user(user, &access->user, error)) &&
           (group == NULL || unix_access_group(group, &access->group, error));
}

// fchmod() takes no descriptor of O_PATH, and chmod() on a path would follow a link that somebody has put there.
static bool set_mode(int file, mode_t mode)
{
    char path[DESCRIPTOR_PATH_SIZE];
    descriptor_path(file, path);
    return chmod(path, mode) == 0;
}

static bool set_owner(int file, uid_t user, gid_t group)
{
    return fchownat(file, "", user, group, AT_EMPTY_PATH) == 0;
}

bool unix_access_apply(int file, const struct unix_access *access, struct unix_access *before)
{
    struct stat status;
    if (fstat(file, &status) != 0)
        return false;
    const struct unix_access was = {
        .has_mode = true, .mode = status.st_mode & MODE_BITS, .user = status.st_uid, .group = status.st_gid};
    if (before != NULL)
        *before = was;
    mode_t mode = access->has_mode ? access->mode : was.mode;
    bool is_other_user = access->user != UNIX_ACCESS_NOBODY && access->user != was.user;
    bool is_other_group = access->group != UNIX_ACCESS_NOBODY && access->group != was.group;
    // While it changes hands it has what both modes give.
    if (((was.mode & ~mode) == 0 || set_mode(file, was.mode & mode)) &&
        ((!is_other_user && !is_other_group) || set_owner(file, access->user, access->group)) &&
        (mode == (was.mode & mode) || set_mode(file, mode)))
        return true;
    int reason = errno;
    (void)(set_owner(file, was.user, was.group) && set_mode(file, was.mode));
    errno = reason;
    return false;
}
