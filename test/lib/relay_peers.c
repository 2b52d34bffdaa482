#include "relay_peers.h"

unsigned peer_random(struct peer *peer)
{
    peer->random = peer->random * 1103515245U + 12345U;
    return peer->random >> 16;
}

static void peer_send_some(struct peer *peer)
{
    unsigned char buffer[32768];
    size_t part = 1 + peer_random(peer) % sizeof buffer;
    if (part > peer->size - peer->sent)
        part = (size_t)(peer->size - peer->sent);
    rig_fill(buffer, part, peer->sends_stream, peer->sent);
    ssize_t n = send(*peer->fd, buffer, part, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0)
        peer->sent += (uint64_t)n;
    else if (errno != EAGAIN)
        peer->size = peer->sent; // the relay is gone: no more can be sent
}

static void peer_receive_some(struct peer *peer)
{
    unsigned char buffer[32768], expected[32768];
    ssize_t n = recv(*peer->fd, buffer, 1 + peer_random(peer) % sizeof buffer, MSG_DONTWAIT);
    if (n > 0) {
        rig_fill(expected, (size_t)n, peer->receives_stream, peer->received);
        MUST(memcmp(buffer, expected, (size_t)n) == 0);
        peer->received += (uint64_t)n;
    } else if (n == 0) {
        peer->end = RIG_EOF;
    } else if (errno != EAGAIN) {
        MUST(errno == ECONNRESET);
        peer->end = RIG_RESET;
    }
}

static bool peer_is_done(struct peer *peer, bool *finished)
{
    if (peer->sent == peer->size && !*finished && peer->manner == PEER_RESETS) {
        rig_reset_far(peer->fd);
        return true;
    }
    bool may_finish = peer->manner == PEER_FINISHES || peer->end != RIG_MORE;
    if (peer->sent == peer->size && !*finished && may_finish) {
        (void)shutdown(*peer->fd, SHUT_WR);
        *finished = true;
    }
    if (peer->manner == PEER_STOPS_READING && peer->sent == peer->size && peer->received >= peer->reads)
        return true;
    return *finished && peer->end != RIG_MORE;
}

void *peer_run(void *argument)
{
    struct peer *peer = argument;
    bool finished = false;
    while (!peer_is_done(peer, &finished)) {
        short events = 0;
        if (peer->sent < peer->size)
            events |= POLLOUT;
        if (peer->end == RIG_MORE)
            events |= POLLIN;
        struct pollfd poller = {.fd = *peer->fd, .events = events};
        MUST(poll(&poller, 1, (int)(PATIENCE / NS_PER_MS)) == 1);
        if (peer->sent < peer->size && (poller.revents & ~POLLIN) != 0)
            peer_send_some(peer);
        if (peer->end == RIG_MORE && (poller.revents & ~POLLOUT) != 0)
            peer_receive_some(peer);
    }
    if (*peer->fd >= 0)
        rig_close_far(peer->fd);
    return NULL;
}

void peer_start(struct peer *peer)
{
    MUST(thread_start(&peer->thread, (size_t)256 * 1024, peer_run, peer, NULL));
}

void peer_join(struct peer *peer)
{
    MUST(pthread_join(peer->thread, NULL) == 0);
}
