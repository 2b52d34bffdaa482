// The file of a listening Unix socket: made, taken over from a server that has gone, removed. The inside of
// net/listener.h. Any thread; no state.

#ifndef BITFLOW_SRC_NET_UNIX_SOCKET_H
#define BITFLOW_SRC_NET_UNIX_SOCKET_H

#include <stdbool.h>
#include <sys/types.h>

#include "bitflow/base/error.h"
#include "bitflow/net/unix_access.h"

struct unix_socket_file {
    dev_t device;
    ino_t inode;
};

// Binds `fd` to `path` and listens. A socket file where nobody answers is replaced; a live one, and what is
// no socket, never. Before it listens, its file has been given `access` (NULL: as the umask makes it). On failure
// nothing of ours is left at `path`.
bool unix_socket_listen(int fd, const char *path, int backlog, const struct unix_access *access,
                        struct unix_socket_file *file, struct error *error);

// The same while it listens; `before` is as unix_access_apply() has it. False: the file is as it was, or not ours any
// more.
bool unix_socket_set_access(const char *path, const struct unix_socket_file *file, const struct unix_access *access,
                            struct unix_access *before, struct error *error);

// Whether what is at `path` is still what unix_socket_listen() made.
bool unix_socket_is_there(const char *path, const struct unix_socket_file *file);

// Removes the file if it is still the one that unix_socket_listen() made.
void unix_socket_remove(const char *path, const struct unix_socket_file *file);

#endif
