#include "bitflow/net/client_watch.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"

void client_watch_init(struct client_watch *watch, int client)
{
    *watch = (struct client_watch){.client = client, .interruption = -1, .deadline = DEADLINE_NONE};
}

// What poll() said of the client. False: it has gone. Each event is handled once and then not asked for
// again, since all of them are levels and would make every later poll() return at once.
static bool note_client(struct client_watch *watch, short events)
{
    if ((events & (POLLERR | POLLNVAL)) != 0)
        return false;
    if ((events & POLLHUP) != 0) {
        // TCP says so after a reset only, as we have not closed our direction; a Unix socket says so of every
        // close.
        if (!socket_is_unix(watch->client) || !socket_has_data(watch->client))
            return false;
        watch->unwatched = true;
        watch->half_closed = true;
        watch->deadline = DEADLINE_NONE;
    } else if ((events & POLLRDHUP) != 0 && !watch->half_closed) {
        watch->half_closed = true;
        if (!socket_has_data(watch->client))
            watch->deadline = deadline_after(CLIENT_WATCH_HALF_CLOSE_TIMEOUT);
    }
    return true;
}

// A client that is not watched any more cannot wake us when the connection is ended: that is looked at now and then.
#define UNWATCHED_INTERVAL (250 * NS_PER_MS)

static int64_t wait_until(const struct client_watch *watch, int64_t deadline)
{
    int64_t until = deadline_sooner(deadline, watch->deadline);
    if (!watch->unwatched || watch->is_over == NULL)
        return until;
    return deadline_sooner(until, deadline_after(UNWATCHED_INTERVAL));
}

enum client_watch_result client_watch_poll(struct client_watch *watch, struct pollfd *descriptors, size_t count,
                                           int64_t deadline)
{
    struct pollfd all[CLIENT_WATCH_DESCRIPTORS_MAX + 2];
    if (count > CLIENT_WATCH_DESCRIPTORS_MAX) {
        errno = EINVAL;
        return CLIENT_WATCH_FAILED;
    }
    if (count > 0)
        memcpy(all, descriptors, count * sizeof *all);
    struct pollfd *client = &all[count], *interruption = &all[count + 1];
    for (;;) {
        if (watch->is_over != NULL && watch->is_over(watch->subject))
            return CLIENT_WATCH_GONE;
        // poll() passes over negative descriptors. POLLHUP and POLLERR need no asking.
        *client =
            (struct pollfd){.fd = watch->unwatched ? -1 : watch->client, .events = watch->half_closed ? 0 : POLLRDHUP};
        *interruption = (struct pollfd){.fd = watch->interruption, .events = POLLIN};
        int64_t until = wait_until(watch, deadline);
        int ready = deadline_poll(all, count + 2, until);
        if (ready < 0)
            return CLIENT_WATCH_FAILED;
        if (interruption->revents != 0)
            return CLIENT_WATCH_GONE;
        if (client->revents != 0 && !note_client(watch, client->revents))
            return CLIENT_WATCH_GONE;
        if (deadline_left(watch->deadline) == 0)
            return CLIENT_WATCH_GONE;
        if (ready > (client->revents != 0)) {
            memcpy(descriptors, all, count * sizeof *all);
            return CLIENT_WATCH_READY;
        }
        if (deadline_left(deadline) == 0)
            return CLIENT_WATCH_DEADLINE;
    }
}

enum client_watch_result client_watch_send(struct client_watch *watch, int fd, const void *bytes, size_t length,
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
            return CLIENT_WATCH_FAILED;
        struct pollfd poller = {.fd = fd, .events = POLLOUT};
        enum client_watch_result result = client_watch_poll(watch, &poller, 1, deadline);
        if (result != CLIENT_WATCH_READY)
            return result;
    }
    return CLIENT_WATCH_READY;
}
