/* The origin behind the proxies: one epoll loop, one mode, until it is killed, its stdin ends or its time is up. */

#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK ((size_t)256 * 1024)

struct peer {
    struct leg leg;
    bool is_at_end;    /* the source has seen the client's EOF; its trailer follows when a record begun with is out */
    bool is_ending;    /* closed once all that is held is sent */
    bool is_blocked;   /* waits for EPOLLOUT */
    uint64_t bytes;    /* discarded or sent, for the trailer; or of the request, so far */
    size_t held_start; /* what is to be sent next */
    size_t held_size;
    char held[4096];
};

struct origin {
    const struct options *options;
    int epoll;
    int listener;
    char buffer[CHUNK];
};

static void peer_close(struct peer *peer)
{
    leg_close(&peer->leg);
    free(peer);
}

/* After a call on the leg that returned less than 0. */
static void peer_fail(struct peer *peer)
{
    if (errno != EAGAIN) {
        peer_close(peer);
    }
}

/* Sends what is held, as far as the socket takes it, and sees to it that the rest follows. True: nothing is held any
   more; false: something is, or the peer is closed. */
static bool peer_flush(struct origin *origin, struct peer *peer)
{
    ssize_t bytes = leg_send(&peer->leg, peer->held + peer->held_start, peer->held_size);
    bool is_blocked = false;

    if (bytes < 0 && errno != EAGAIN) {
        peer_close(peer);
        return false;
    }
    peer->held_start += bytes > 0 ? (size_t)bytes : 0;
    peer->held_size -= bytes > 0 ? (size_t)bytes : 0;
    is_blocked = peer->held_size > 0;
    if (!is_blocked && peer->is_ending) {
        (void)(peer->leg.ssl == NULL || leg_shutdown(&peer->leg));
        peer_close(peer);
        return false;
    }
    if (is_blocked != peer->is_blocked) {
        peer->is_blocked = is_blocked;
        (void)net_rewatch(origin->epoll, peer->leg.fd, is_blocked ? EPOLLOUT : EPOLLIN, peer);
    }
    return !is_blocked;
}

static bool peer_send(struct origin *origin, struct peer *peer, size_t size, bool is_last)
{
    peer->held_start = 0;
    peer->held_size = size;
    peer->is_ending = is_last;
    return peer_flush(origin, peer);
}

static void peer_send_trailer(struct origin *origin, struct peer *peer)
{
    (void)snprintf(peer->held, sizeof peer->held, "%0*" PRIx64, TRAILER_SIZE, peer->bytes);
    (void)peer_send(origin, peer, TRAILER_SIZE, true);
}

static void peer_respond(struct origin *origin, struct peer *peer)
{
    size_t size = origin->options->size;
    ssize_t bytes = 0;

    do {
        bytes = leg_receive(&peer->leg, peer->held, sizeof peer->held, false);
        peer->bytes += bytes > 0 ? (uint64_t)bytes : 0;
    } while (peer->leg.has_more && peer->bytes < size);
    if (bytes > 0 && peer->bytes >= size) {
        memset(peer->held, 'r', size);
        (void)peer_send(origin, peer, size, true);
    } else if (bytes == 0) {
        peer_close(peer);
    } else if (bytes < 0) {
        peer_fail(peer);
    }
}

static void peer_echo(struct origin *origin, struct peer *peer)
{
    ssize_t bytes = 0;

    do {
        bool is_last = false;

        bytes = leg_receive(&peer->leg, peer->held, sizeof peer->held, false);
        is_last = origin->options->mode == ORIGIN_MIXED && bytes == (ssize_t)origin->options->size;
        if (bytes > 0 && !peer_send(origin, peer, (size_t)bytes, is_last)) {
            return;
        }
    } while (peer->leg.has_more);
    if (bytes == 0) {
        peer_close(peer);
    } else if (bytes < 0) {
        peer_fail(peer);
    }
}

static void peer_sink(struct origin *origin, struct peer *peer)
{
    ssize_t bytes = 0;

    do {
        bytes = leg_receive(&peer->leg, origin->buffer, sizeof origin->buffer, true);
        peer->bytes += bytes > 0 ? (uint64_t)bytes : 0;
    } while (peer->leg.has_more);
    if (bytes == 0) {
        peer_send_trailer(origin, peer);
    } else if (bytes < 0) {
        peer_fail(peer);
    }
}

/* False: the peer is closed. */
static bool look_for_end(struct origin *origin, struct peer *peer)
{
    ssize_t bytes = leg_receive(&peer->leg, origin->buffer, sizeof origin->buffer, true);

    if (bytes < 0 && errno != EAGAIN) {
        peer_close(peer);
        return false;
    }
    if (bytes == 0) {
        peer->is_at_end = true;
        (void)net_rewatch(origin->epoll, peer->leg.fd, EPOLLOUT, peer);
    }
    return true;
}

static void peer_source(struct origin *origin, struct peer *peer, uint32_t events)
{
    ssize_t bytes = 0;

    if (!peer->is_at_end && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !look_for_end(origin, peer)) {
        return;
    }
    bytes = peer->is_at_end ? leg_flush(&peer->leg, origin->buffer)
                            : leg_send(&peer->leg, origin->buffer, sizeof origin->buffer);
    if (bytes < 0) {
        peer_fail(peer);
        return;
    }
    peer->bytes += (uint64_t)bytes;
    if (peer->is_at_end) {
        peer_send_trailer(origin, peer);
    }
}

static void peer_serve(struct origin *origin, struct peer *peer, uint32_t events)
{
    if (peer->held_size > 0 && !peer_flush(origin, peer)) {
        return;
    }
    switch (origin->options->mode) {
    case ORIGIN_RESPOND:
        peer_respond(origin, peer);
        break;
    case ORIGIN_ECHO:
    case ORIGIN_MIXED:
        peer_echo(origin, peer);
        break;
    case ORIGIN_SINK:
        peer_sink(origin, peer);
        break;
    case ORIGIN_SOURCE:
        peer_source(origin, peer, events);
        break;
    }
}

static void accept_peers(struct origin *origin)
{
    uint32_t events = origin->options->mode == ORIGIN_SOURCE ? EPOLLIN | EPOLLOUT : EPOLLIN;

    for (;;) {
        int fd = accept4(origin->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct peer *peer = NULL;

        if (fd < 0) {
            return;
        }
        peer = calloc(1, sizeof *peer);
        if (peer == NULL || !leg_open(&peer->leg, fd)) {
            (void)close(fd);
            free(peer);
        } else if (!net_watch(origin->epoll, fd, events, peer)) {
            peer_close(peer);
        }
    }
}

static bool print_port(const struct origin *origin)
{
    struct sockaddr_in address = {0};
    socklen_t size = sizeof address;

    if (getsockname(origin->listener, (struct sockaddr *)&address, &size) != 0) {
        return false;
    }
    (void)printf("{\"port\": %u}\n", (unsigned)ntohs(address.sin_port));
    return fflush(stdout) == 0;
}

static void serve(struct origin *origin)
{
    struct epoll_event events[64];
    uint64_t end = clock_now() + (uint64_t)(origin->options->seconds * (double)NANOSECONDS);
    char ignored[64];

    while (clock_now() < end) {
        int count = epoll_wait(origin->epoll, events, 64, 1000);

        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &origin->listener) {
                accept_peers(origin);
            } else if (events[i].data.ptr != origin) {
                peer_serve(origin, events[i].data.ptr, events[i].events);
            } else if (read(STDIN_FILENO, ignored, sizeof ignored) <= 0) {
                return;
            }
        }
    }
}

int origin_run(const struct options *options)
{
    static struct origin origin;

    origin.options = options;
    origin.epoll = epoll_create1(EPOLL_CLOEXEC);
    origin.listener = net_listen(options);
    if (origin.epoll < 0 || origin.listener < 0 ||
        !net_watch(origin.epoll, origin.listener, EPOLLIN, &origin.listener) || !print_port(&origin)) {
        perror("bitflow_bench_load: origin");
        return EXIT_FAILURE;
    }
    /* A regular file or /dev/null cannot be watched: the time is the only bound then. */
    (void)net_watch(origin.epoll, STDIN_FILENO, EPOLLIN, &origin);
    serve(&origin);
    return EXIT_SUCCESS;
}
