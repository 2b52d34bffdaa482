#include "client_hello_peek.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"

// What a look begins with; nearly every ClientHello is shorter.
#define FIRST_LOOK ((size_t)2048)
// The kernel says that a socket is readable before as much has come as was asked for if its buffer is full. It may then
// make room by joining segments, or never: a look now and then tells.
#define FULL_BUFFER_PAUSE (20 * NS_PER_MS)

struct look {
    int fd;
    int events; // an edge-triggered epoll descriptor, for sockets that know no SO_RCVLOWAT in poll(); -1: none
    int64_t deadline;
    uint8_t *bytes;
    size_t room;
    size_t length; // that the last look saw
};

static void set_low_water(int fd, size_t bytes)
{
    int value = (int)bytes;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value);
}

static bool init_look(struct look *look, int fd, int64_t deadline, struct error *error)
{
    *look = (struct look){.fd = fd, .events = -1, .deadline = deadline, .room = FIRST_LOOK};
    look->bytes = malloc(look->room);
    if (look->bytes == NULL) {
        error_set_errno(error, ENOMEM, "cannot look at the client's hello");
        return false;
    }
    if (!socket_is_unix(fd))
        return true;
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET};
    look->events = epoll_create1(EPOLL_CLOEXEC);
    if (look->events >= 0 && epoll_ctl(look->events, EPOLL_CTL_ADD, fd, &wanted) == 0)
        return true;
    error_set_errno(error, errno, "cannot look at the client's hello");
    return false;
}

static void release_look(struct look *look)
{
    if (look->events >= 0)
        (void)close(look->events);
    else
        set_low_water(look->fd, 1);
    free(look->bytes);
}

// In one step to the most that is ever looked at: each look sees all that has come, however it is cut into records.
static bool make_room(struct look *look, size_t needed, struct error *error)
{
    if (needed <= look->room)
        return true;
    uint8_t *grown = realloc(look->bytes, CLIENT_HELLO_MAX);
    if (grown == NULL) {
        error_set_errno(error, ENOMEM, "cannot look at the client's hello");
        return false;
    }
    look->bytes = grown;
    look->room = CLIENT_HELLO_MAX;
    return true;
}

// Waits for `needed` bytes, for more than there were, or for the stream's end. False: the deadline.
static bool wait_for(const struct look *look, size_t needed)
{
    struct pollfd poller = {.fd = look->events >= 0 ? look->events : look->fd, .events = POLLIN | POLLRDHUP};
    if (look->events < 0)
        set_low_water(look->fd, needed);
    int ready = deadline_poll(&poller, 1, look->deadline);
    struct epoll_event event;
    if (ready > 0 && look->events >= 0) // takes the edge
        (void)epoll_wait(look->events, &event, 1, 0);
    return ready != 0;
}

enum seen { SEEN_MORE, SEEN_NO_MORE, SEEN_END, SEEN_ERROR };

static enum seen peek(struct look *look)
{
    ssize_t got;
    do
        got = recv(look->fd, look->bytes, look->room, MSG_PEEK | MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == EAGAIN ? SEEN_NO_MORE : SEEN_ERROR;
    enum seen seen = (size_t)got > look->length ? SEEN_MORE : SEEN_NO_MORE;
    look->length = (size_t)got;
    return got == 0 ? SEEN_END : seen;
}

static bool has_ended(int fd)
{
    struct pollfd poller = {.fd = fd, .events = POLLRDHUP};
    return poll(&poller, 1, 0) > 0 && (poller.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

static bool complain_of_end(const struct look *look, enum seen seen, struct error *error)
{
    struct error why = ERROR_INIT;
    if (seen == SEEN_ERROR)
        error_set_errno(&why, errno, "the client's hello did not come");
    if (look->length == 0 && why.code != ERROR_NO_MEMORY)
        error_set(error, ERROR_CANCELLED, "the client closed the connection without a word of TLS");
    else if (seen == SEEN_ERROR)
        error_pass(error, &why);
    else
        error_set(error, ERROR_INVALID, "the client closed the connection in the middle of its hello");
    return false;
}

// What of the hello has come says that more is needed. False: no more comes.
static bool see_more(struct look *look, size_t needed, struct error *error)
{
    if (!make_room(look, needed, error))
        return false;
    for (;;) {
        if (deadline_left(look->deadline) == 0 || !wait_for(look, needed)) {
            error_set(error, ERROR_TIMEOUT, "%s",
                      look->length == 0 ? "the client sent nothing in time"
                                        : "the client's hello did not come in time");
            return false;
        }
        bool is_over = has_ended(look->fd); // first: what came before the end is seen then
        enum seen seen = peek(look);
        if (seen == SEEN_MORE)
            return true;
        if (seen == SEEN_END || seen == SEEN_ERROR || is_over)
            return complain_of_end(look, seen, error);
        if (look->events < 0)
            (void)poll(NULL, 0, (int)(FULL_BUFFER_PAUSE / NS_PER_MS));
    }
}

static bool look_until_complete(struct look *look, struct client_hello *hello, struct error *error)
{
    for (;;) {
        switch (client_hello_parse(look->bytes, look->length, hello)) {
        case CLIENT_HELLO_COMPLETE:
            return true;
        case CLIENT_HELLO_INVALID:
            error_set(error, ERROR_INVALID, "the client sent %s", hello->reason);
            return false;
        case CLIENT_HELLO_NEEDS_MORE:
            if (!see_more(look, hello->needed, error))
                return false;
            break;
        }
    }
}

bool client_hello_peek(int fd, int64_t deadline, struct client_hello *hello, struct error *error)
{
    struct look look;
    bool is_good = init_look(&look, fd, deadline, error) && look_until_complete(&look, hello, error);
    release_look(&look);
    return is_good;
}
