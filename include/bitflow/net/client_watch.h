// Waiting on behalf of a client that may leave. While its target is resolved and dialled, every wait goes
// through here, so that a client that has gone stops the dial.
//
// A reset is leaving, at once. An end of stream (FIN) after data is a half-close: the client waits for its
// answer. One without data is most likely a client that closed, but may be one that only listens; it has
// CLIENT_WATCH_HALF_CLOSE_TIMEOUT left. Used by the connection's own thread only.

#ifndef BITFLOW_NET_CLIENT_WATCH_H
#define BITFLOW_NET_CLIENT_WATCH_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLIENT_WATCH_HALF_CLOSE_TIMEOUT (INT64_C(500) * 1000 * 1000) // ns: two RFC 8305 connection attempt delays

struct client_watch {
    int client;       // -1: nobody to watch
    int interruption; // a descriptor that ends the wait like the client's leaving when it can be read; -1: none
    bool half_closed; // the client's end of stream was seen; it isn't asked for again
    bool unwatched;   // a closed Unix socket whose data is yet to be delivered: its POLLHUP would never cease
    int64_t deadline; // DEADLINE_NONE until the client closed without a word
    // Whether the connection has been ended from outside, which shuts the client's socket down; NULL: it can't be.
    bool (*is_over)(const void *subject);
    const void *subject;
};

enum client_watch_result {
    CLIENT_WATCH_READY,
    CLIENT_WATCH_DEADLINE,
    CLIENT_WATCH_GONE,
    CLIENT_WATCH_FAILED /* errno says why */
};

void client_watch_init(struct client_watch *watch, int client);

#define CLIENT_WATCH_DESCRIPTORS_MAX 36
// poll() on `count` descriptors (0: just wait) and on the client, until one of them is ready, the deadline
// (base/clock.h) or the client's end. A deadline that has passed only looks.
enum client_watch_result client_watch_poll(struct client_watch *watch, struct pollfd *descriptors, size_t count,
                                           int64_t deadline);

// Sends all of it to a socket, blocking or not. CLIENT_WATCH_READY: it is sent; CLIENT_WATCH_FAILED may be send()'s,
// too.
enum client_watch_result client_watch_send(struct client_watch *watch, int fd, const void *bytes, size_t length,
                                           int64_t deadline);

#endif
