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
#include "bitflow/net/local_ports.h"
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

// --- probes ----------------------------------------------------------------------------------------------------------

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

static uint64_t bytes_from(const struct relay_shared *shared, enum relay_side side)
{
    return atomic_load_explicit(&shared->relay->sockets[side].bytes, memory_order_relaxed);
}

// Whether the client has said nothing, and was told nothing before it ended: it only wanted to know whether somebody
// answers. Who has shaken hands has said something. What a client has sent before a reset may be still to be read; what
// a target sends to one that has closed already, its kernel does not take.
static bool is_probe(const struct relay_shared *shared)
{
    const struct direction *client = &shared->directions[RELAY_CLIENT];
    if (client->receiver != NULL || bytes_from(shared, RELAY_CLIENT) > 0 || direction_is_writing(client))
        return false;
    bool was_told = bytes_from(shared, RELAY_TARGET) > 0;
    if (direction_has_finished(client))
        return shared->was_silent && (!was_told || bytes_acked(client->from->fd) == 0);
    return !was_told && !socket_has_data(client->from->fd);
}

// --- failures --------------------------------------------------------------------------------------------------------

// `culprit` is gone, or has broken its stream: what it had sent is still delivered, and then the other side is reset.
// The opposite direction, which reads `to`, delivers what `to` has sent so far and then finds the end of the stream:
// SHUT_RD ends the reading without a byte on the wire, so that neither side takes this for an orderly end. `os_errno`:
// 0 if no call has failed. False: another reason stands already.
static bool fail(struct direction *direction, enum relay_side culprit, enum close_reason reason, int os_errno)
{
    struct relay_shared *shared = direction->shared;
    if (reason == CLOSE_CLIENT_RESET && is_probe(shared))
        reason = CLOSE_CLIENT_LEFT;
    if (!close_reason_settle(shared->relay->settled_reason, reason))
        return false;
    direction->has_failed = true;
    if (os_errno != 0 && reason != CLOSE_CLIENT_LEFT)
        error_set_errno(&shared->failure->error, os_errno, "%s", close_reason_text(reason));
    shared->grace_end = deadline_after(RELAY_GRACE);
    shared->deliver_to = reason == CLOSE_OUT_OF_MEMORY ? NULL : &shared->relay->sockets[relay_other(culprit)];
    shared->reset[relay_other(culprit)] = true;
    // It is still there, and has not got all; or the kernel would go on trying to give it that.
    shared->reset[culprit] =
        reason == CLOSE_OUT_OF_MEMORY || reason == reasons[culprit].write_timeout || reason == reasons[culprit].lost;
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

// The same of the read side. A target that has answered, and then takes the client's end as a reason to reset, as some
// servers do to be spared TIME_WAIT, has not failed. Whether its answer was whole it alone knows; so the reset is
// passed on like any other. Who has not answered has failed, unless there was nothing to answer, and who resets before
// the client's end was passed on, or within a record of TLS, too.
static enum close_reason reason_to_read_no_more(const struct direction *direction, int os_errno)
{
    enum close_reason reason = reason_of_errno(direction->side, os_errno);
    bool has_answered = atomic_load_explicit(&direction->from->bytes, memory_order_relaxed) > 0 ||
                        (direction->receiver == NULL && direction->filled > 0);
    bool is_cut = direction->receiver != NULL && direction->consumed < direction->filled;
    if (reason != CLOSE_TARGET_RESET || direction_state(direction->opposite) != DIRECTION_FINISHED)
        return reason;
    if (!has_answered && is_probe(direction->shared))
        return CLOSE_CLIENT_LEFT;
    return has_answered && !is_cut ? CLOSE_TARGET_RESET_AT_END : reason;
}

void direction_read_broken(struct direction *direction, int os_errno)
{
    (void)fail(direction, direction->side, reason_to_read_no_more(direction, os_errno), os_errno);
}

void direction_read_failed(struct direction *direction, int os_errno)
{
    direction_read_broken(direction, os_errno);
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
        if (state != DIRECTION_FINISHED) // else the close_notify was sent, and only the FIN behind it was not
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
    (void)fail(direction, direction->side, reason_to_read_no_more(direction, os_errno), os_errno);
}

bool direction_look_at_peer(struct direction *direction)
{
    int fd = direction->from->fd;
    switch (socket_look_at_peer(fd, socket_keepalive_patience(fd, direction->from->keepalive_interval))) {
    case SOCKET_PEER_HAS_ALL:
        return false;
    case SOCKET_PEER_IS_DUE:
        return true;
    case SOCKET_PEER_IS_LOST:
        break;
    }
    if (direction_state(direction) == DIRECTION_READING)
        direction_read_failed(direction, ETIMEDOUT);
    else
        direction_read_broken(direction, ETIMEDOUT);
    return false;
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
    if (direction->side == RELAY_CLIENT)
        direction->shared->was_silent = is_probe(direction->shared);
    if (direction->sender != NULL)
        direction_close_with_notify(direction);
    else
        direction_finish(direction);
}

// A TLS stream has come to its end without a close_notify. Whoever can cut a TCP connection could make a whole stream
// of half of one: it has not ended (RFC 8446 6.1), unless the operator accepts that of this side. False: it failed.
static bool is_accepted_without_notify(struct direction *direction)
{
    if (direction_state(direction->opposite) == DIRECTION_UNHEARD) { // whose write has taken the error of a reset
        (void)fail(direction, direction->side, reasons[direction->side].reset, ECONNRESET);
        return false;
    }
    atomic_store_explicit(&direction->from->is_truncated, true, memory_order_relaxed);
    if (direction->from->accepts_truncation && direction->consumed == direction->filled) // not within a record
        return true;
    if (fail(direction, direction->side, reasons[direction->side].truncated, 0))
        error_set(&direction->shared->failure->error, ERROR_INVALID,
                  "the stream was cut: it ended without a close_notify");
    return false;
}

void direction_end_of_stream(struct direction *direction, bool may_be_reset)
{
    if (is_orderly_end(direction, may_be_reset) &&
        (direction->receiver == NULL || is_accepted_without_notify(direction)))
        pass_end_on(direction);
    else
        direction_enter(direction, DIRECTION_STOPPED);
}

void direction_end_with_data(struct direction *direction)
{
    direction_end_of_stream(direction, false);
    if (direction_state(direction) == DIRECTION_STOPPED)
        socket_set_nodelay(direction->to->fd); // no end goes out: what waits for it does
}

void direction_close_notified(struct direction *direction)
{
    if (has_reason(direction))
        direction_enter(direction, DIRECTION_STOPPED);
    else
        pass_end_on(direction);
}

// Both directions end orderly by this, and `to`, whose own end has been read, is closed next: that tells its peer the
// same, and shutdown() could only tell of a reset that has come since poll().
static bool is_ended_by_close(const struct direction *direction)
{
    return direction->to->is_closed_next && direction->sender == NULL &&
           direction->closable_at == atomic_load_explicit(&direction->from->bytes, memory_order_relaxed);
}

void direction_finish(struct direction *direction)
{
    // From now on the other way's silence counts, maybe by another timeout.
    if (direction->shared->is_timed)
        atomic_store_explicit(&direction->last_write, clock_now_coarse(), memory_order_relaxed);
    if (direction->side == RELAY_CLIENT && !direction_has_finished(direction->opposite))
        local_ports_note_end(direction->to->fd);
    direction_enter(direction, DIRECTION_FINISHED);
    if (is_ended_by_close(direction))
        return;
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

// How long the read side may be silent, 0: for ever. When the other side has ended, that one's read timeout has nothing
// more to watch; but where the side that is left has none, it would be left for ever.
static int64_t silence_limit(const struct direction *direction, bool is_half_closed)
{
    int64_t own = direction->from->read_timeout, half_close = direction->shared->relay->half_close_timeout;
    if (!is_half_closed)
        return own;
    if (half_close > 0)
        return half_close;
    return own > 0 ? own : direction->to->read_timeout;
}

int64_t direction_least_silence(const struct direction *direction)
{
    int64_t now = silence_limit(direction, false), later = silence_limit(direction, true), least = INT64_MAX;
    if (now > 0)
        least = now;
    return later > 0 && later < least ? later : least;
}

void direction_read_timed_out(struct direction *direction)
{
    enum close_reason reason = reasons[direction->side].read_timeout;
    if (direction_has_finished(direction->opposite) &&
        (direction->shared->relay->half_close_timeout > 0 || direction->from->read_timeout == 0))
        reason = CLOSE_HALF_CLOSE_TIMEOUT;
    // Orderly for both sides.
    if (close_reason_settle(direction->shared->relay->settled_reason, reason)) {
        (void)shutdown(direction->from->fd, SHUT_RDWR);
        (void)shutdown(direction->to->fd, SHUT_RDWR);
    }
    direction_enter(direction, DIRECTION_STOPPED);
}

int64_t direction_read_timeout_left(const struct direction *direction, int64_t now)
{
    int64_t timeout = silence_limit(direction, direction_has_finished(direction->opposite));
    if (timeout == 0 || direction_state(direction) != DIRECTION_READING)
        return INT64_MAX;
    int64_t last = atomic_load_explicit(&direction->opposite->last_write, memory_order_relaxed);
    if (last < direction->last_read)
        last = direction->last_read;
    return timeout - (now - last);
}

int64_t direction_check_read_timeout(struct direction *direction)
{
    if (direction->from->keepalive_interval > 0) {
        (void)direction_look_at_peer(direction);
        if (direction_is_over(direction))
            return 0;
    }
    int64_t now = clock_now_coarse();
    int64_t left = direction_read_timeout_left(direction, now);
    if (left > 0)
        return left;
    // A write that blocks for longer than the timeout has not been stamped: it counts while the peer takes of it.
    if (direction_is_writing(direction->opposite)) {
        uint64_t acked = bytes_acked(direction->from->fd);
        bool is_alive = !direction->is_silence_sampled || acked != direction->silence_acked;
        direction->is_silence_sampled = true;
        direction->silence_acked = acked;
        if (is_alive) {
            direction->last_read = now;
            return direction->from->read_timeout; // the other side has not ended while it is written from
        }
    }
    direction_read_timed_out(direction);
    return 0;
}

int64_t direction_write_slice(const struct direction *direction)
{
    int64_t slice = SLICE_MAX;
    const int64_t timeouts[] = {direction->to->write_timeout, direction->to->read_timeout,
                                direction->shared->relay->half_close_timeout};
    for (unsigned i = 0; i < ARRAY_LENGTH(timeouts); i++)
        if (timeouts[i] > 0 && timeouts[i] / SLICES < slice)
            slice = timeouts[i] / SLICES;
    return slice > NS_PER_MS ? slice : NS_PER_MS;
}

// How long the write side may take nothing, 0: for ever. One that has ended is not read from any more: what has bounded
// its silence goes on to.
static int64_t write_limit(const struct direction *direction)
{
    const struct relay_socket *to = direction->to;
    int64_t half_close = direction->shared->relay->half_close_timeout;
    int64_t ended = half_close > 0 ? half_close : to->read_timeout;
    if (ended == 0 || !direction_has_finished(direction->opposite))
        return to->write_timeout;
    return to->write_timeout > 0 && to->write_timeout < ended ? to->write_timeout : ended;
}

// The writer's counterpart of direction_look_at_peer().
static bool is_write_side_lost(const struct direction *direction)
{
    int fd = direction->to->fd;
    int64_t interval = direction->to->keepalive_interval;
    return interval > 0 && socket_look_at_peer(fd, socket_keepalive_patience(fd, interval)) == SOCKET_PEER_IS_LOST;
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
        if (direction->shared->is_timed)
            atomic_store_explicit(&direction->last_write, now, memory_order_relaxed);
        return true;
    }
    if (atomic_load(&direction->shared->is_tls_broken)) { // takes no more: not the alert either
        direction_tear(direction);
        return false;
    }
    if (is_write_side_lost(direction)) {
        direction_write_failed(direction, ETIMEDOUT);
        return false;
    }
    int64_t limit = write_limit(direction);
    if (limit == 0 || now - direction->acked_at < limit)
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
    enum relay_side first = atomic_load(&shared->first_finished) == RELAY_TARGET ? RELAY_TARGET : RELAY_CLIENT;
    bool is_left = first == RELAY_CLIENT && bytes_from(shared, RELAY_TARGET) == 0 && is_probe(shared);
    (void)close_reason_settle(shared->relay->settled_reason, is_left ? CLOSE_CLIENT_LEFT : CLOSE_COMPLETED);
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
        result->ended_by = first == RELAY_TARGET ? ENDED_BY_TARGET : ENDED_BY_CLIENT;
}
