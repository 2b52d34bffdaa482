#include "bitflow/net/unix_peer.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "bitflow/base/compiler.h"
#include "bitflow/net/unix_access.h"

#define GROUPS_FIRST 64 // more than most have

static const struct {
    const char *prefix;
    bool is_group;
    bool is_number;
} kinds[] = {{"uid:", false, true}, {"gid:", true, true}, {"user:", false, false}, {"group:", true, false}};

bool unix_peer_parse(const char *text, struct unix_peer *peer, struct error *error)
{
    for (size_t i = 0; i < ARRAY_LENGTH(kinds); i++) {
        size_t length = strlen(kinds[i].prefix);
        const char *name = text + length;
        if (strncmp(text, kinds[i].prefix, length) != 0)
            continue;
        if (kinds[i].is_number && (*name == '\0' || name[strspn(name, "0123456789")] != '\0')) {
            error_set(error, ERROR_INVALID, "has no number behind %s; a name goes behind %s", kinds[i].prefix,
                      kinds[i].is_group ? "group:" : "user:");
            return false;
        }
        uint32_t id;
        if (!(kinds[i].is_group ? unix_access_group(name, &id, error) : unix_access_user(name, &id, error)))
            return false;
        *peer = (struct unix_peer){.is_group = kinds[i].is_group, .id = id};
        return true;
    }
    error_set(error, ERROR_INVALID, "does not begin with uid:, gid:, user: or group:");
    return false;
}

void unix_peer_format(const struct unix_peer *peer, char out[UNIX_PEER_TEXT_SIZE])
{
    (void)snprintf(out, UNIX_PEER_TEXT_SIZE, "%s:%" PRIu32, peer->is_group ? "gid" : "uid", peer->id);
}

struct unix_credentials unix_credentials_of(int fd)
{
    struct ucred found;
    socklen_t size = sizeof found;
    // A TCP socket has the option, too, and says that nobody has the number -1.
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &found, &size) != 0 || size != sizeof found || found.uid == (uid_t)-1 ||
        found.gid == (gid_t)-1)
        return (struct unix_credentials){.is_known = false};
    return (struct unix_credentials){.is_known = true, .user = found.uid, .group = found.gid};
}

static bool has_group(const gid_t *groups, size_t count, const struct unix_peer *peers, size_t peer_count)
{
    for (size_t i = 0; i < peer_count; i++)
        for (size_t n = 0; peers[i].is_group && n < count; n++)
            if (groups[n] == peers[i].id)
                return true;
    return false;
}

// Where they cannot be had, for want of memory or of a kernel that tells (4.13), there are none.
static bool is_among_supplementary(int fd, const struct unix_peer *peers, size_t count)
{
    gid_t few[GROUPS_FIRST];
    gid_t *groups = few;
    socklen_t size = sizeof few;
    int status = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size);
    if (status != 0 && errno == ERANGE && size <= NGROUPS_MAX * sizeof *groups) { // it has said how many there are
        groups = malloc(size);
        status = groups == NULL ? -1 : getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size);
    }
    bool is_among = status == 0 && has_group(groups, size / sizeof *groups, peers, count);
    if (groups != few)
        free(groups);
    return is_among;
}

bool unix_peer_is_among(int fd, const struct unix_credentials *credentials, const struct unix_peer *peers, size_t count)
{
    bool has_groups = false;
    for (size_t i = 0; credentials->is_known && i < count; i++) {
        if (peers[i].id == (peers[i].is_group ? credentials->group : credentials->user))
            return true;
        has_groups = has_groups || peers[i].is_group;
    }
    return has_groups && is_among_supplementary(fd, peers, count);
}
