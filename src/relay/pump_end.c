#include "pump.h"

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
#include "bitflow/net/socket.h"

// A write that waits is looked at so often within the shorter one of its socket's timeouts, and at least so often.
#define SLICES 8
#define SLICE_MAX (NS_PER_S / 2)

struct side_reasons {
    enum close_reason reset, lost, read_timeout, write_timeout, truncated, tls_error;
};

static const struct side_reasons reasons[2] = {
    [RELAY_CLIENT] = {CLOSE_CLIENT_RESET, CLOSE_CLIENT_LOST, CLOSE_CLIENT_READ_TIMEOUT, CLOSE_CLIENT_WRITE_TIMEOUT,
                      CLOSE_CLIENT_TRUNCATED, CLOSE_CLIENT_TLS_ERROR},
    [RELAY_TARGET] = {CLOSE_TARGET_RESET, CLOSE_TARGET_LOST, CLOSE_TARGET_READ_TIMEOUT, CLOSE_TARGET_WRITE_TIMEOUT,
                      CLOSE_TARGET_TRUNCATED, CLOSE_TARGET_TLS_ERROR},
};

static bool has_reason(const struct pump *pump)
{
    return atomic_load(pump->state->relay->reason) != CLOSE_NONE;
}

// False: another reason stands already.
static bool record(struct pump *pump, enum close_reason reason)
{
    return close_reason_settle(pump->state->relay->reason, reason);
}

// One side is gone. The twin, which reads `to`, delivers what `to` has sent so far and then finds the end of the
// stream: SHUT_RD ends the reading without a byte on the wire, so that neither side takes this for an orderly end.
// False: another reason stands already.
static bool fail(struct pump *pump, enum close_reason reason, int os_errno)
{
    if (!record(pump, reason))
        return false;
    pump->saw_failure = true;
    pump->state->os_errno = os_errno;
    pump->state->grace_end = deadline_after(PUMP_GRACE);
    (void)shutdown(pump->to, SHUT_RD);
    return true;
}

static enum close_reason reason_of_errno(const struct side_reasons *of, int os_errno)
{
    switch (os_errno) {
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case ENOTCONN:
    case ESHUTDOWN:
        return of->reset;
    case ENOMEM:
    case ENOBUFS:
        return CLOSE_OUT_OF_MEMORY;
    default:
        return of->lost;
    }
}

void pump_read_failed(struct pump *pump, int os_errno)
{
    (void)fail(pump, reason_of_errno(&reasons[pump->side], os_errno), os_errno);
}

// What was received before it is delivered already: pump_take() holds a failure back until then.
void pump_tls_failed(struct pump *pump, unsigned alert, const char *what)
{
    struct relay_state *state = pump->state;
    pump->over = true;
    if (!fail(pump, reasons[pump->side].tls_error, 0))
        return;
    state->tls_failure = what;
    state->is_peer_alert = alert == 0;
    state->owed_alert = alert;
    state->owed_to = pump->side;
    // TLS ends both ways at once then (RFC 8446 6.2); the alert must not wait for what the other side still sends.
    atomic_store(&state->is_tls_broken, true);
}

void pump_seal_failed(struct pump *pump)
{
    pump->over = true;
    if (fail(pump, CLOSE_OUT_OF_MEMORY, ENOMEM))
        pump->state->tls_failure = "the TLS sender could not go on";
}

// TLS peers that have said their own close_notify may close at once, without waiting for ours, and their kernels answer
// it by a reset. Nothing is lost by that; whether the peer's stream was whole is the twin's to tell.
static bool is_end_unheard(const struct pump *pump, enum close_reason reason)
{
    return pump->sender != NULL && reason == reasons[pump_twin(pump)->side].reset &&
           (pump->is_closing || atomic_load(&pump->finished));
}

void pump_write_failed(struct pump *pump, int os_errno)
{
    const struct side_reasons *to = &reasons[pump_twin(pump)->side];
    enum close_reason reason = os_errno == EAGAIN ? to->write_timeout : reason_of_errno(to, os_errno);
    if (is_end_unheard(pump, reason)) {
        atomic_store(&pump->end_unheard, true);
        atomic_store(&pump->finished, true);
    } else {
        (void)fail(pump, reason, os_errno == EAGAIN ? ETIMEDOUT : os_errno);
    }
    // Only now: see is_orderly_end().
    atomic_store_explicit(&pump->writing, false, memory_order_release);
}

// What poll() says of the read side means a reset: an error, or a socket that has hung up although neither this process
// has closed its sending direction nor the peer is a Unix socket's, whose orderly close looks like that. (The error
// itself may have been taken by another call.) To be asked after that poll(): `finished` is set before the shutdown.
static bool is_reset(const struct pump *pump, short revents)
{
    if ((revents & POLLERR) != 0)
        return true;
    return (revents & POLLHUP) != 0 && !atomic_load(&pump_twin(pump)->finished) && !socket_is_unix(pump->from);
}

// A reset makes one call on the socket fail. If that is the twin's write, this pump's read returns 0, as at an orderly
// end; such a socket has hung up, though neither this process nor (as far as recv() tells) the peer has closed both
// ways.
static bool is_orderly_end(struct pump *pump, bool may_be_reset)
{
    struct pump *twin = pump_twin(pump);
    if (has_reason(pump))
        return false;
    if (atomic_load(&twin->finished)) // both directions are closed: that it has hung up means nothing,
        return true;                  // and the twin's writes have all gone well
    if (!may_be_reset)
        return true;
    struct pollfd poller = {.fd = pump->from};
    if (poll(&poller, 1, 0) <= 0 || (poller.revents & POLLHUP) == 0 || atomic_load(&twin->finished))
        return !has_reason(pump);
    bool reset = (poller.revents & POLLERR) != 0 || !socket_is_unix(pump->from);
    // A write to a socket that has hung up cannot block: if the twin is in one, it is on its way out with the error.
    while (atomic_load_explicit(&twin->writing, memory_order_acquire))
        (void)sched_yield();
    if (has_reason(pump))
        return false;
    if (reset) // after the end of the stream
        pump_read_failed(pump, ECONNRESET);
    return !reset;
}

void pump_look_back(struct pump *pump)
{
    struct pollfd poller = {.fd = pump->from};
    // As in is_end_unheard(): the close_notify may be among what is not read yet, which tells.
    if (pump->receiver != NULL && atomic_load(&pump_twin(pump)->finished))
        return;
    if (has_reason(pump) || poll(&poller, 1, 0) <= 0 || !is_reset(pump, poller.revents))
        return;
    int os_errno = 0;
    socklen_t size = sizeof os_errno;
    (void)getsockopt(pump->from, SOL_SOCKET, SO_ERROR, &os_errno, &size);
    // EPIPE is a reset after the end of the stream.
    pump_read_failed(pump, os_errno != 0 && os_errno != EPIPE ? os_errno : ECONNRESET);
}

bool pump_within_grace(const struct pump *pump)
{
    return !pump->saw_failure || deadline_left(pump->state->grace_end) > 0;
}

// Whoever can cut a TCP connection could make a whole stream of half of one: without a close_notify it is no end (RFC
// 8446 6.1).
static void truncated(struct pump *pump)
{
    pump->over = true;
    if (atomic_load(&pump_twin(pump)->end_unheard)) // the twin's write has taken the error
        pump_read_failed(pump, ECONNRESET);
    else if (fail(pump, reasons[pump->side].truncated, 0))
        pump->state->tls_failure = "the stream was cut: it ended without a close_notify";
}

static void pass_end_on(struct pump *pump)
{
    int nobody = -1;
    (void)atomic_compare_exchange_strong(&pump->state->first_finished, &nobody, (int)pump->side);
    if (pump->sender != NULL)
        pump_close_with_notify(pump);
    else
        pump_finish(pump);
}

void pump_end_of_stream(struct pump *pump, bool may_be_reset)
{
    if (!is_orderly_end(pump, may_be_reset))
        pump->over = true;
    else if (pump->receiver == NULL)
        pass_end_on(pump);
    else
        truncated(pump);
}

void pump_close_notified(struct pump *pump)
{
    if (has_reason(pump))
        pump->over = true;
    else
        pass_end_on(pump);
}

void pump_finish(struct pump *pump)
{
    pump->over = true;
    atomic_store(&pump->finished, true);
    // A TCP connection that is gone before its sending direction was closed has been reset.
    if (shutdown(pump->to, SHUT_WR) != 0)
        pump_write_failed(pump, errno);
}

// How much of what was written to the socket its peer has taken, in a number that changes when that does.
static uint64_t taken_by_peer(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0)
        return info.tcpi_bytes_acked;
    int queued = 0;
    (void)ioctl(fd, SIOCOUTQ, &queued);
    return (uint64_t)queued;
}

static bool wait_readable(int fd, int64_t duration)
{
    int64_t deadline = deadline_after(duration);
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    int ready = deadline_poll(&poller, 1, deadline);
    return ready != 0; // after an error, let the read tell
}

bool pump_is_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_NONBLOCK) != 0;
}

void pump_read_timed_out(struct pump *pump)
{
    // Orderly for both sides.
    if (record(pump, reasons[pump->side].read_timeout)) {
        (void)shutdown(pump->from, SHUT_RDWR);
        (void)shutdown(pump->to, SHUT_RDWR);
    }
}

bool pump_outlasts_silence(struct pump *pump, int64_t silence)
{
    struct pump *twin = pump_twin(pump);
    int64_t timeout = pump_from(pump)->read_timeout;
    if (timeout == 0)
        return wait_readable(pump->from, 0);
    int64_t left = pump_is_nonblocking(pump->from) ? timeout : timeout - silence;
    uint64_t taken = 0;
    for (bool sampled = false;; left = 0) {
        int64_t since_write = clock_now_coarse() - atomic_load_explicit(&twin->last_write, memory_order_relaxed);
        if (timeout - since_write > left)
            left = timeout - since_write;
        // A write that blocks for longer than the timeout has not been stamped: it counts while the peer takes of it.
        if (left <= 0 && atomic_load_explicit(&twin->writing, memory_order_relaxed)) {
            uint64_t now_taken = taken_by_peer(pump->from);
            if (!sampled || now_taken != taken)
                left = timeout;
            sampled = true;
            taken = now_taken;
        }
        if (left <= 0)
            break;
        if (wait_readable(pump->from, left))
            return true;
    }
    pump_read_timed_out(pump);
    return false;
}

static int64_t shorter(int64_t slice, int64_t timeout)
{
    return timeout > 0 && timeout / SLICES < slice ? timeout / SLICES : slice;
}

int64_t pump_slice(const struct pump *pump)
{
    const struct relay_socket *to = pump_to(pump);
    int64_t slice = shorter(shorter(SLICE_MAX, to->write_timeout), to->read_timeout);
    return slice > NS_PER_MS ? slice : NS_PER_MS;
}

bool pump_outlasts_stall(struct pump *pump)
{
    const struct relay_socket *to = pump_to(pump);
    pump_look_back(pump);
    if (pump->saw_failure)
        return pump_within_grace(pump);
    int64_t now = clock_now_coarse();
    uint64_t taken = taken_by_peer(pump->to);
    if (!pump->stalled || taken != pump->taken) {
        // How long it has waited before the first look is not known: in favour of the peer.
        pump->stalled = true;
        pump->taken = taken;
        pump->progress = now;
        if (to->read_timeout > 0)
            atomic_store_explicit(&pump->last_write, now, memory_order_relaxed);
        return true;
    }
    if (atomic_load(&pump->state->is_tls_broken)) // takes no more: not the alert either
        return false;
    if (to->write_timeout == 0 || now - pump->progress < to->write_timeout)
        return true;
    pump_write_failed(pump, EAGAIN);
    return false;
}
