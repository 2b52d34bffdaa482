// Who has connected to a Unix socket, as the kernel knows it (SO_PEERCRED, SO_PEERGROUPS), and whether a list lets it
// in. The kernel takes the user and the groups down when the peer connects: what it becomes later does not count. Those
// of another user namespace that are not mapped into ours are all the same overflow id, usually 65534. Any thread; no
// state; only parsing may look names up, which takes as long as the system's name service likes.

#ifndef BITFLOW_NET_UNIX_PEER_H
#define BITFLOW_NET_UNIX_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"

struct unix_peer {
    bool is_group;
    uint32_t id;
};

// "uid:1000", "gid:33", "user:www-data" or "group:www-data". ERROR_INVALID, or why the name cannot be looked up.
bool unix_peer_parse(const char *text, struct unix_peer *peer, struct error *error);

#define UNIX_PEER_TEXT_SIZE sizeof "uid:4294967295"
// By its number.
void unix_peer_format(const struct unix_peer *peer, char out[UNIX_PEER_TEXT_SIZE]);

// The effective user and group of whoever made the connection.
struct unix_credentials {
    bool is_known;
    uint32_t user;
    uint32_t group;
};

// Of a connected socket; not known where it is no Unix socket.
struct unix_credentials unix_credentials_of(int fd);

// Whether one of the peers is the user, its group, or one of its supplementary groups. Who is not known is nobody.
bool unix_peer_is_among(int fd, const struct unix_credentials *credentials, const struct unix_peer *peers,
                        size_t count);

#endif
