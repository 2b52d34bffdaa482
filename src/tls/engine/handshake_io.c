// The socket below mbedTLS, as its BIO callbacks: one deadline for the whole handshake, an eye on the client, flights
// in one piece, and the records that come in followed on their way.

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include <mbedtls/net_sockets.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"
#include "handshake_internal.h"

// Takes note of how a call on the socket failed. True: it is to be made again.
static bool goes_on(struct tls_handshake *handshake, int os_errno)
{
    if (os_errno == EINTR)
        return true;
    handshake->end = SOCKET_FAILED;
    handshake->os_errno = os_errno;
    return false;
}

// Waits until the socket is ready. The whole handshake has one deadline: a peer that sends byte by byte gains nothing
// by it.
static bool wait_for(struct tls_handshake *handshake, short events)
{
    struct pollfd poller = {.fd = handshake->fd, .events = events};
    switch (client_watch_poll(handshake->watch, &poller, 1, handshake->deadline)) {
    case CLIENT_WATCH_READY:
        return true;
    case CLIENT_WATCH_DEADLINE:
        handshake->end = SOCKET_TIMEOUT;
        return false;
    case CLIENT_WATCH_GONE:
        handshake->end = SOCKET_CANCELLED;
        return false;
    case CLIENT_WATCH_FAILED:
        break;
    }
    handshake->end = SOCKET_FAILED;
    handshake->os_errno = errno;
    return false;
}

// A peer that always has something to say never makes us wait.
static bool is_in_time(struct tls_handshake *handshake)
{
    if (deadline_left(handshake->deadline) > 0)
        return true;
    handshake->end = SOCKET_TIMEOUT;
    return false;
}

static bool send_all(struct tls_handshake *handshake, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t sent = send(handshake->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            if (!wait_for(handshake, POLLOUT))
                return false;
        } else if (sent < 0 && !goes_on(handshake, errno)) {
            return false;
        } else if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        }
    }
    return true;
}

bool handshake_flush(struct tls_handshake *handshake)
{
    size_t length = handshake->pending;
    handshake->pending = 0;
    return handshake->end == SOCKET_FINE && send_all(handshake, handshake->flight, length);
}

int handshake_socket_status(const struct tls_handshake *handshake, int otherwise)
{
    return handshake->end == SOCKET_TIMEOUT ? MBEDTLS_ERR_SSL_TIMEOUT : otherwise;
}

// mbedTLS sends record by record; a flight goes out in one piece, when its answer is waited for.
int handshake_transmit(void *argument, const unsigned char *bytes, size_t length)
{
    struct tls_handshake *handshake = argument;
    INVARIANT(handshake->pending <= sizeof handshake->flight);
    handshake->transmitted = length;
    handshake->has_alerted = handshake->has_alerted || (length > 0 && bytes[0] == MBEDTLS_SSL_MSG_ALERT);
    if (length > sizeof handshake->flight - handshake->pending && !handshake_flush(handshake))
        return handshake_socket_status(handshake, MBEDTLS_ERR_NET_SEND_FAILED);
    if (length > sizeof handshake->flight) {
        if (!send_all(handshake, bytes, length))
            return handshake_socket_status(handshake, MBEDTLS_ERR_NET_SEND_FAILED);
    } else {
        memcpy(handshake->flight + handshake->pending, bytes, length);
        handshake->pending += length;
    }
    return (int)length;
}

int handshake_receive(void *argument, unsigned char *buffer, size_t room)
{
    struct tls_handshake *handshake = argument;
    struct server_hello *hello = handshake->context->role == TLS_CLIENT ? &handshake->server_hello : NULL;
    if (handshake->pending > 0 && !handshake_flush(handshake))
        return handshake_socket_status(handshake, MBEDTLS_ERR_NET_SEND_FAILED);
    while (is_in_time(handshake)) {
        ssize_t got = recv(handshake->fd, buffer, room, MSG_DONTWAIT);
        if (got > 0) {
            record_follower_take(&handshake->records, hello, buffer, (size_t)got);
            handshake->received += (uint64_t)got;
            // mbedTLS passes over the version where it speaks both: a ServerHello that says 1.3 here, and gives a suite
            // of 1.3's without choosing that version, would have it finish a handshake without keys.
            return handshake->server_hello.is_refused ? MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION : (int)got;
        }
        if (got == 0) {
            handshake->end = SOCKET_EOF;
            return MBEDTLS_ERR_SSL_CONN_EOF;
        }
        if (errno == EAGAIN) {
            if (!wait_for(handshake, POLLIN))
                break;
        } else if (!goes_on(handshake, errno)) {
            break;
        }
    }
    return handshake_socket_status(handshake, MBEDTLS_ERR_NET_RECV_FAILED);
}
