#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/net/socket.h"
#include "relay_internal.h"

struct side_reasons {
    enum close_reason reset, lost, read_timeout, write_timeout, truncated, tls_error;
};

static const struct side_reasons reasons[2] = {
    [RELAY_CLIENT] = {CLOSE_CLIENT_RESET, CLOSE_CLIENT_LOST, CLOSE_CLIENT_READ_TIMEOUT, CLOSE_CLIENT_WRITE_TIMEOUT,
                      CLOSE_CLIENT_TRUNCATED, CLOSE_CLIENT_TLS_ERROR},
    [RELAY_TARGET] = {CLOSE_TARGET_RESET, CLOSE_TARGET_LOST, CLOSE_TARGET_READ_TIMEOUT, CLOSE_TARGET_WRITE_TIMEOUT,
                      CLOSE_TARGET_TRUNCATED, CLOSE_TARGET_TLS_ERROR},
};

static bool has_reason(const struct direction *direction)
{
    return atomic_load(direction->shared->relay->settled_reason) != CLOSE_NONE;
}

// --- failures --------------------------------------------------------------------------------------------------------

// `culprit` is gone, or has broken its stream: what it had sent is still delivered, and then the other side is reset.
// The opposite direction, which reads `to`, delivers what `to` has sent so far and then finds the end of the stream:
// SHUT_RD ends the reading without a byte on the wire, so that neither side takes this for an orderly end. `os_errno`:
// 0 if no call has failed. False: another reason stands already.
static bool fail(struct direction *direction, enum relay_side culprit, enum close_reason reason, int os_errno)
{
    struct relay_shared *shared = direction->shared;
    if (!close_reason_settle(shared->relay->settled_reason, reason))
        return false;
    direction->has_failed = true;
    if (os_errno != 0)
        error_set_errno(&shared->failure->error, os_errno, "%s", close_reason_text(reason));
    shared->grace_end = deadline_after(RELAY_GRACE);
    shared->deliver_to = reason == CLOSE_OUT_OF_MEMORY ? NULL : &shared->relay->sockets[relay_other(culprit)];
    shared->reset[relay_other(culprit)] = true;
    // It is still there, and has not got all.
    shared->reset[culprit] = reason == CLOSE_OUT_OF_MEMORY || reason == reasons[culprit].write_timeout;
    (void)shutdown(direction->to->fd, SHUT_RD);
    return true;
}

static enum close_reason reason_of_errno(enum relay_side side, int os_errno)
{
    switch (os_errno) {
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case ENOTCONN:
    case ESHUTDOWN:
        return reasons[side].reset;
    case ENOMEM:
    case ENOBUFS:
        return CLOSE_OUT_OF_MEMORY;
    default:
        return reasons[side].lost;
    }
}

void direction_read_failed(struct direction *direction, int os_errno)
{
    (void)fail(direction, direction->side, reason_of_errno(direction->side, os_errno), os_errno);
    direction_enter(direction, DIRECTION_STOPPED);
}

void direction_write_failed(struct direction *direction, int os_errno)
{
    enum relay_side to = direction->opposite->side;
    enum direction_state state = direction_state(direction);
    enum close_reason reason = os_errno == EAGAIN ? reasons[to].write_timeout : reason_of_errno(to, os_errno);
    // TLS peers that have said their own close_notify may close at once, without waiting for ours, and their kernels
    // answer it by a reset. Nothing is lost by that; whether the peer's stream was whole is for the opposite direction
    // to tell.
    if (direction->sender != NULL && reason == reasons[to].reset && state != DIRECTION_WRITING) {
        direction_enter(direction, DIRECTION_UNHEARD);
        return;
    }
    (void)fail(direction, to, reason, os_errno == EAGAIN ? ETIMEDOUT : os_errno);
    // After fail(): is_orderly_end() waits until this direction is no longer writing, and then looks for a reason.
    if (state != DIRECTION_FINISHED)
        direction_tear(direction);
}

// What was received before it is delivered already: next_plaintext() holds a failure back until then.
void direction_tls_failed(struct direction *direction, unsigned alert, const char *what)
{
    struct relay_shared *shared = direction->shared;
    enum close_reason reason = reasons[direction->side].tls_error;
    if (fail(direction, direction->side, reason, 0)) {
        error_set(&shared->failure->error, ERROR_INVALID, "the %s %s %s", ended_by_name(close_reason_ended_by(reason)),
                  alert == 0 ? "ended TLS by the alert" : "sent", what);
        shared->due_alert = alert;
        shared->due_alert_to = direction->side;
        // TLS ends both ways at once then (RFC 8446 6.2); the alert must not wait for what the other side still sends.
        atomic_store(&shared->is_tls_broken, true);
    }
    direction_enter(direction, DIRECTION_STOPPED);
}

void direction_seal_failed(struct direction *direction)
{
    (void)fail(direction, direction->side, CLOSE_OUT_OF_MEMORY, ENOMEM);
    direction_enter(direction, DIRECTION_STOPPED);
}

bool direction_within_grace(const struct direction *direction)
{
    return !direction->has_failed || deadline_left(direction->shared->grace_end) > 0;
}

// --- the end of the stream -------------------------------------------------------------------------------------------

// What poll() says of the read side means a reset: an error, or a socket that has hung up although neither this process
// has closed its sending direction nor the peer is a Unix socket's, whose orderly close looks like that. (The error
// itself may have been taken by another call.)
static bool is_reset(const struct direction *direction, short revents)
{
    if ((revents & POLLERR) != 0)
        return true;
    return (revents & POLLHUP) != 0 && !direction_has_finished(direction->opposite) &&
           !socket_is_unix(direction->from->fd);
}

void direction_check_reset(struct direction *direction)
{
    int fd = direction->from->fd;
    struct pollfd poller = {.fd = fd};
    // As in direction_write_failed(): the close_notify may be among what is not read yet, which tells.
    if (direction->receiver != NULL && direction_has_finished(direction->opposite))
        return;
    if (has_reason(direction) || poll(&poller, 1, 0) <= 0 || !is_reset(direction, poller.revents))
        return;
    int os_errno = 0;
    socklen_t size = sizeof os_errno;
    (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &os_errno, &size);
    if (os_errno == 0 || os_errno == EPIPE) // a reset that another call has taken, or one after the end of the stream
        os_errno = ECONNRESET;
    (void)fail(direction, direction->side, reason_of_errno(direction->side, os_errno), os_errno);
}

// A reset makes one call on the socket fail. If that is the opposite direction's write, this one's read returns 0, as
// at an orderly end; such a socket has hung up, though neither this process nor (as far as recv() tells) the peer has
// closed both ways.
static bool is_orderly_end(struct direction *direction, bool may_be_reset)
{
    const struct direction *opposite = direction->opposite;
    if (has_reason(direction))
        return false;
    if (direction_has_finished(opposite)) // both directions are closed: that it has hung up means nothing,
        return true;                      // and the opposite one's writes have all gone well
    if (!may_be_reset)
        return true;
    struct pollfd poller = {.fd = direction->from->fd};
    if (poll(&poller, 1, 0) <= 0 || (poller.revents & POLLHUP) == 0 || direction_has_finished(opposite))
        return !has_reason(direction);
    bool is_reset = (poller.revents & POLLERR) != 0 || !socket_is_unix(direction->from->fd);
    // A write to a socket that has hung up cannot block: if the other thread is in one, it is on its way out with the
    // error.
    while (direction->shared->io_flags == 0 && direction_is_writing(opposite))
        (void)sched_yield();
    if (has_reason(direction))
        return false;
    if (is_reset) // after the end of the stream
        (void)fail(direction, direction->side, reasons[direction->side].reset, ECONNRESET);
    return !is_reset;
}

static void pass_end_on(struct direction *direction)
{
    int nobody = -1;
    (void)atomic_compare_exchange_strong(&direction->shared->first_finished, &nobody, (int)direction->side);
    if (direction->sender != NULL)
        direction_close_with_notify(direction);
    else
        direction_finish(direction);
}

void direction_end_of_stream(struct direction *direction, bool may_be_reset)
{
    if (!is_orderly_end(direction, may_be_reset)) {
        direction_enter(direction, DIRECTION_STOPPED);
    } else if (direction->receiver == NULL) {
        pass_end_on(direction);
    } else {
        // Whoever can cut a TCP connection could make a whole stream of half of one: without a close_notify it has not
        // ended (RFC 8446 6.1).
        if (direction_state(direction->opposite) == DIRECTION_UNHEARD) // whose write has taken the error of a reset
            (void)fail(direction, direction->side, reasons[direction->side].reset, ECONNRESET);
        else if (fail(direction, direction->side, reasons[direction->side].truncated, 0))
            error_set(&direction->shared->failure->error, ERROR_INVALID,
                      "the stream was cut: it ended without a close_notify");
        direction_enter(direction, DIRECTION_STOPPED);
    }
}

void direction_close_notified(struct direction *direction)
{
    if (has_reason(direction))
        direction_enter(direction, DIRECTION_STOPPED);
    else
        pass_end_on(direction);
}

void direction_finish(struct direction *direction)
{
    direction_enter(direction, DIRECTION_FINISHED);
    // A TCP connection that is gone before its sending direction was closed has been reset.
    if (shutdown(direction->to->fd, SHUT_WR) != 0)
        direction_write_failed(direction, errno);
}

// --- timeouts --------------------------------------------------------------------------------------------------------

// A write that waits is looked at so often within the shorter one of its socket's timeouts, and at least so often.
#define SLICES 8
#define SLICE_MAX (NS_PER_S / 2)

bool relay_is_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_NONBLOCK) != 0;
}

// How much of what was written to the socket its peer has taken, in a number that changes when that does.
static uint64_t bytes_acked(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0)
        return info.tcpi_bytes_acked;
    int queued = 0;
    (void)ioctl(fd, SIOCOUTQ, &queued);
    return (uint64_t)queued;
}

// `duration` in ns, 0: without end. True also after an error: the read tells.
static bool wait_readable(int fd, int64_t duration)
{
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    return deadline_poll(&poller, 1, deadline_after(duration)) != 0;
}

void direction_read_timed_out(struct direction *direction)
{
    // Orderly for both sides.
    if (close_reason_settle(direction->shared->relay->settled_reason, reasons[direction->side].read_timeout)) {
        (void)shutdown(direction->from->fd, SHUT_RDWR);
        (void)shutdown(direction->to->fd, SHUT_RDWR);
    }
    direction_enter(direction, DIRECTION_STOPPED);
}

bool direction_check_read_timeout(struct direction *direction, int64_t idle)
{
    const struct direction *opposite = direction->opposite;
    int fd = direction->from->fd;
    int64_t timeout = direction->from->read_timeout;
    if (timeout == 0)
        return wait_readable(fd, 0);
    int64_t left = relay_is_nonblocking(fd) ? timeout : timeout - idle;
    uint64_t acked = 0;
    for (bool is_sampled = false;; left = 0) {
        int64_t since_write = clock_now_coarse() - atomic_load_explicit(&opposite->last_write, memory_order_relaxed);
        if (timeout - since_write > left)
            left = timeout - since_write;
        // A write that blocks for longer than the timeout has not been stamped: it counts while the peer takes of it.
        if (left <= 0 && direction_is_writing(opposite)) {
            uint64_t acked_now = bytes_acked(fd);
            if (!is_sampled || acked_now != acked)
                left = timeout;
            is_sampled = true;
            acked = acked_now;
        }
        if (left <= 0)
            break;
        if (wait_readable(fd, left))
            return true;
    }
    direction_read_timed_out(direction);
    return false;
}

int64_t direction_write_slice(const struct direction *direction)
{
    int64_t slice = SLICE_MAX;
    const int64_t timeouts[] = {direction->to->write_timeout, direction->to->read_timeout};
    for (unsigned i = 0; i < ARRAY_LENGTH(timeouts); i++)
        if (timeouts[i] > 0 && timeouts[i] / SLICES < slice)
            slice = timeouts[i] / SLICES;
    return slice > NS_PER_MS ? slice : NS_PER_MS;
}

bool direction_check_write_timeout(struct direction *direction)
{
    const struct relay_socket *to = direction->to;
    direction_check_reset(direction);
    if (direction->has_failed) {
        if (direction_within_grace(direction))
            return true;
        direction_tear(direction);
        return false;
    }
    int64_t now = clock_now_coarse();
    uint64_t acked = bytes_acked(to->fd);
    if (!direction->is_stalled || acked != direction->acked) {
        // How long it has waited before the first look is not known: in favour of the peer.
        direction->is_stalled = true;
        direction->acked = acked;
        direction->acked_at = now;
        if (to->read_timeout > 0)
            atomic_store_explicit(&direction->last_write, now, memory_order_relaxed);
        return true;
    }
    if (atomic_load(&direction->shared->is_tls_broken)) { // takes no more: not the alert either
        direction_tear(direction);
        return false;
    }
    if (to->write_timeout == 0 || now - direction->acked_at < to->write_timeout)
        return true;
    direction_write_failed(direction, EAGAIN);
    return false;
}

// --- the end of the relay --------------------------------------------------------------------------------------------

// How long a side that broke TLS may take to make room for the alert.
#define ALERT_WAIT (1 * NS_PER_S)

// Tells the side that broke TLS by an alert, unless the half of a record is on its way there.
static void send_due_alert(const struct relay_shared *shared)
{
    const struct relay_socket *socket = &shared->relay->sockets[shared->due_alert_to];
    enum direction_state writer = direction_state(shared->directions[shared->due_alert_to].opposite);
    if (shared->due_alert == 0 || (writer != DIRECTION_READING && writer != DIRECTION_STOPPED))
        return;
    uint8_t record[TLS_ALERT_RECORD_MAX];
    size_t size = tls_sender_alert(socket->tls->sender, (enum tls_alert)shared->due_alert, record, sizeof record);
    struct pollfd poller = {.fd = socket->fd, .events = POLLOUT};
    (void)deadline_poll(&poller, 1, deadline_after(ALERT_WAIT));
    if (size > 0 && send(socket->fd, record, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size)
        socket_end_and_drain(socket->fd);
}

void relay_conclude(struct relay_shared *shared, struct relay_result *result)
{
    (void)close_reason_settle(shared->relay->settled_reason, CLOSE_COMPLETED);
    enum close_reason reason = atomic_load(shared->relay->settled_reason);
    shared->failure->reason = reason;
    for (unsigned i = 0; i < ARRAY_LENGTH(shared->directions); i++) // where the grace was over first
        if (direction_is_writing(&shared->directions[i]))
            direction_tear(&shared->directions[i]);
    send_due_alert(shared); // before the flush, which may take a while
    if (shared->deliver_to != NULL)
        socket_flush(shared->deliver_to->fd, shared->grace_end);
    *result = (struct relay_result){.ended_by = close_reason_ended_by(reason),
                                    .reset = {shared->reset[RELAY_CLIENT], shared->reset[RELAY_TARGET]}};
    if (reason == CLOSE_COMPLETED)
        result->ended_by = atomic_load(&shared->first_finished) == RELAY_TARGET ? ENDED_BY_TARGET : ENDED_BY_CLIENT;
}
