// The relay moves bytes between two connected sockets until both directions have ended. It begins on the
// calling thread alone, which serves both directions. When a write first has to wait for its peer, or a direction turns
// to bulk, each direction gets a thread: the calling one and one of the pool, which returns the work when both
// directions are quiet, and before relay_run() returns. Where no thread is to be had, the calling one goes on alone.
// How many threads a relay takes is its own business. While more relays are busy than there are processors, their small
// messages are moved by a few threads for all of them, and the calling thread of each waits.
//
// Small reads use recv/send and a buffer on the stack, larger ones of a plain relay one on the heap. A relay that has
// been silent for a few seconds gives back what it does not need, of the stack also what its caller has touched below
// relay_run()'s frame. A flow that turned to bulk moves through a pipe with splice(), as long as the pipe pool
// (relay/pipe_pool.h) has one.
// A side may be TLS: what is read from its socket are records then, and what is written to it is sealed, by the two
// halves of its session, each of which belongs to the thread of its direction while the relay runs. Nothing is spliced
// then.
//   - end of stream on one side: shutdown(SHUT_WR) on the other, after a close_notify where that is TLS; the other
//     direction goes on. A TLS side's end is its close_notify; without one it was cut, which counts as a reset does
//     (accepts_truncation: only where it was cut within a record).
//   - a plain client that ends, in whatever form, without having said or been told anything: an empty probe, which has
//     left rather than completed. That is a matter of the reason alone.
//   - reset on one side: what that side had sent is delivered within a bound, then the other side is to be reset. It is
//     noticed within half a second, even while what came before it waits for the other side to read.
//   - read timeout: nothing was read from the socket and nothing written to it for so long. Once the other side has
//     ended, half_close_timeout takes its place, where that is set; a side without a read timeout has the ended side's.
//   - write timeout: bytes wait to be written, and the peer has taken nothing for so long. A peer that reads slowly but
//     steadily is not cut. It expires up to three eighths late, at most a second and a half. For a side that has ended
//     the half_close_timeout, or else its read timeout, is one, too.
//   - keepalive interval: where that is set, a peer that owes an acknowledgement is lost when it has given no sign for
//     as long as keepalive would have waited, which does not run then. It is found up to an interval later.
// The relay never closes the sockets: relay_result tells its caller how each is to be closed. After a failure on one
// side relay_run() may take a few seconds more to deliver what that side had sent.
//
// The relay sets the sockets' SO_RCVTIMEO and SO_SNDTIMEO. Others who share an inherited socket may set O_NONBLOCK. The
// calling thread must have SIGPIPE blocked or ignored (splice() has no MSG_NOSIGNAL), and a stack of RELAY_STACK_SIZE;
// its name is left alone.

#ifndef BITFLOW_RELAY_RELAY_H
#define BITFLOW_RELAY_RELAY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/thread.h"
#include "bitflow/relay/close_reason.h"
#include "bitflow/tls/tls_session.h"

// With TLS four buffers of 17 KiB lie on it, of which a connection touches only what it fills.
#define RELAY_STACK_SIZE ((size_t)96 * 1024)

enum relay_side { RELAY_CLIENT, RELAY_TARGET };

struct relay_socket {
    int fd;
    bool is_nonblocking;        // O_NONBLOCK, and ours alone: made blocking once a thread waits in its calls
    bool is_closed_next;        // the caller closes it at once after the relay, and nobody else has it
    bool is_own_tcp;            // TCP, and ours alone: a read that gets less than it asks for has got all that came
    bool is_unprepared;         // new TCP without TCP_NODELAY and keepalive: the relay sets both when it needs them
    struct tls_session *tls;    // NULL: plain; borrowed
    bool accepts_truncation;    // of TLS: a FIN between two records is an end of stream, without a close_notify, too
    int64_t read_timeout;       // ns, 0: none
    int64_t write_timeout;      // ns, 0: none
    int64_t keepalive_interval; // ns, 0: peers that owe an acknowledgement are left to the kernel
    // Bytes read from this socket and given to the other one, without what TLS adds. Written by one thread, read by
    // anyone.
    _Atomic uint64_t bytes;
    // Its TLS stream ended without a close_notify, whatever that was taken for. Likewise.
    _Atomic bool is_truncated;
};

struct relay {
    struct relay_socket sockets[2]; // by enum relay_side
    int64_t half_close_timeout;     // ns, 0: none
    struct thread_pool *threads;
    // Of the thread that reads from the target, once there is one.
    char second_thread_name[THREAD_NAME_SIZE];
    // The connection's reason to end, CLOSE_NONE while it runs. Whoever ends it from outside (lifetime, drain) calls
    // close_reason_settle() and then shuts both sockets down, as a direction that fails does. The first one stands.
    _Atomic(enum close_reason) *settled_reason;
    // How long it is to have been silent before it rests (see relay_run()), ns; 0: it never does. The relay changes it
    // with how long rests turn out to be.
    int64_t rest_after;
    bool is_always_carried; // for tests: not only when it and others are busy
    struct handoff *rest;   // its state while no thread runs it; NULL: it does not rest. The relay's own
    // When the target's first byte was given to the client, CLOCK_MONOTONIC; 0: none was yet. Anyone may read it.
    _Atomic int64_t first_byte;
};

struct relay_result {
    enum ended_by ended_by;
    bool reset[2]; // by enum relay_side: close it with RST rather than with FIN
};

// True: both directions have ended. `failure` has the connection's reason then, and an error where a call or TLS
// failed; the direction that fails writes it, maybe on the second thread.
//
// False: it has been silent for long, and rests. relay_run() is to be called again, best of all on a new thread: what
// the calling one keeps of what it has done (stack, malloc's cache, the kernel's page for what it sends) goes only with
// the thread. Nothing is lost meanwhile, nobody need hurry, and where there is no new thread, this one goes on.
bool relay_run(struct relay *relay, struct relay_result *result, struct failure *failure);

// Whether relays that are busy may be served by carriers, threads of their pool that each serve many of them; else each
// is always served by its own. At first they may. Those that are carried stay so until they are less busy. Any thread.
void relay_allow_carriers(bool are_allowed);

#endif
