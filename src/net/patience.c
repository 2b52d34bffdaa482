#include "bitflow/net/patience.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"

void patience_init(struct patience *patience, int client)
{
    *patience = (struct patience){.client = client, .interruption = -1, .deadline = DEADLINE_NONE};
}

static bool is_unix(int fd)
{
    int domain = AF_UNSPEC;
    socklen_t size = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

// What poll() said of the client. False: it has gone. Each event is handled once and then not asked for
// again, since all of them are levels and would make every later poll() return at once.
static bool note_client(struct patience *patience, short events)
{
    if ((events & (POLLERR | POLLNVAL)) != 0)
        return false;
    if ((events & POLLHUP) != 0) {
        // TCP says so after a reset only, as we have not closed our direction; a Unix socket says so of every
        // close.
        if (!is_unix(patience->client) || !socket_has_data(patience->client))
            return false;
        patience->unwatched = true;
        patience->half_closed = true;
        patience->deadline = DEADLINE_NONE;
    } else if ((events & POLLRDHUP) != 0 && !patience->half_closed) {
        patience->half_closed = true;
        if (!socket_has_data(patience->client))
            patience->deadline = deadline_after(PATIENCE_GRACE);
    }
    return true;
}

// A client that is not watched any more cannot wake us when the connection is ended: that is looked at now and then.
#define UNWATCHED_INTERVAL (250 * NS_PER_MS)

static int64_t wait_until(const struct patience *patience, int64_t deadline)
{
    int64_t until = deadline < patience->deadline ? deadline : patience->deadline;
    if (!patience->unwatched || patience->is_over == NULL)
        return until;
    int64_t next_look = deadline_after(UNWATCHED_INTERVAL);
    return next_look < until ? next_look : until;
}

enum patience_result patience_poll(struct patience *patience, struct pollfd *descriptors, size_t count,
                                   int64_t deadline)
{
    struct pollfd all[PATIENCE_DESCRIPTORS_MAX + 2];
    if (count > PATIENCE_DESCRIPTORS_MAX) {
        errno = EINVAL;
        return PATIENCE_FAILED;
    }
    if (count > 0)
        memcpy(all, descriptors, count * sizeof *all);
    struct pollfd *client = &all[count], *interruption = &all[count + 1];
    for (;;) {
        if (patience->is_over != NULL && patience->is_over(patience->subject))
            return PATIENCE_GONE;
        // poll() passes over negative descriptors. POLLHUP and POLLERR need no asking.
        *client = (struct pollfd){.fd = patience->unwatched ? -1 : patience->client,
                                  .events = patience->half_closed ? 0 : POLLRDHUP};
        *interruption = (struct pollfd){.fd = patience->interruption, .events = POLLIN};
        int64_t until = wait_until(patience, deadline);
        int ready = poll(all, count + 2, deadline_poll_ms(until));
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready < 0)
            return PATIENCE_FAILED;
        if (interruption->revents != 0)
            return PATIENCE_GONE;
        if (client->revents != 0 && !note_client(patience, client->revents))
            return PATIENCE_GONE;
        if (deadline_left(patience->deadline) == 0)
            return PATIENCE_GONE;
        if (ready > (client->revents != 0)) {
            memcpy(descriptors, all, count * sizeof *all);
            return PATIENCE_READY;
        }
        if (deadline_left(deadline) == 0)
            return PATIENCE_DEADLINE;
    }
}

enum patience_result patience_send(struct patience *patience, int fd, const void *bytes, size_t length,
                                   int64_t deadline)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t sent = send(fd, at, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            at += sent;
            length -= (size_t)sent;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR)
            return PATIENCE_FAILED;
        struct pollfd poller = {.fd = fd, .events = POLLOUT};
        enum patience_result result = patience_poll(patience, &poller, 1, deadline);
        if (result != PATIENCE_READY)
            return result;
    }
    return PATIENCE_READY;
}
