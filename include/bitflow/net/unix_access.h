// Who may connect to a Unix socket that listens: Linux lets in who may write to its file. Its mode, owner and group, as
// the configuration has them in words, and how they are given to the file. Any thread; no state. Looking up a name asks
// the system's name service, which may take as long as it likes: only the main thread does.

#ifndef BITFLOW_NET_UNIX_ACCESS_H
#define BITFLOW_NET_UNIX_ACCESS_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "bitflow/base/error.h"

struct unix_access {
    bool has_mode; // false: what the umask makes of it, or what it is
    mode_t mode;
    uid_t user;  // UNIX_ACCESS_NOBODY: whose it is
    gid_t group; // likewise
};

#define UNIX_ACCESS_NOBODY ((uid_t) - 1)
#define UNIX_ACCESS_ANY {.user = UNIX_ACCESS_NOBODY, .group = UNIX_ACCESS_NOBODY}

// Four octal digits, the first of them 0: "0660".
bool unix_access_mode(const char *text, mode_t *mode, struct error *error);

// A name that the system knows, or a number.
bool unix_access_user(const char *text, uid_t *user, struct error *error);
bool unix_access_group(const char *text, gid_t *group, struct error *error);

// All three; NULL: not given.
bool unix_access_of(const char *mode, const char *user, const char *group, struct unix_access *access,
                    struct error *error);

// `file` is a descriptor of the socket's file, opened with O_PATH. At no moment the file lets in whom neither what it
// was nor what it is to be lets in. `before`, unless NULL, is what brings back what it was. False, with errno's cause:
// it is as it was, as far as that could be done.
bool unix_access_apply(int file, const struct unix_access *access, struct unix_access *before);

#endif
