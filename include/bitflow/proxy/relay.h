// The relay moves bytes between two connected blocking sockets until both directions have ended: two pumps, one run by
// the calling thread, the other by a thread of the pool, which has returned the work before relay_run() returns. How
// many threads a relay takes is its own business.
//
// A pump reads from one socket and writes to the other. Small reads use recv/send and a buffer on the stack; a flow that
// turned to bulk moves through a pipe with splice(), as long as the pipe pool (proxy/pipe_pool.h) has one.
//   - end of stream on one side: shutdown(SHUT_WR) on the other; the other direction goes on.
//   - reset on one side: what that side had sent is delivered within a bound, then the other side is to be reset.
//   - timeouts are the sockets' SO_RCVTIMEO and SO_SNDTIMEO; data written to a socket refreshes its read timeout.
// The relay never closes the sockets: relay_result tells its caller how each is to be closed. After a failure on one side
// relay_run() may take a few seconds more to deliver what that side had sent.
//
// The sockets come without O_NONBLOCK and without timeouts. The calling thread must have SIGPIPE blocked or ignored
// (splice() has no MSG_NOSIGNAL), and room on its stack for a buffer of 16 KiB.

#ifndef BITFLOW_PROXY_RELAY_H
#define BITFLOW_PROXY_RELAY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/base/thread.h"
#include "bitflow/proxy/close_reason.h"

enum relay_side { RELAY_CLIENT, RELAY_TARGET };

struct relay_socket {
    int fd;
    int64_t read_timeout;  // ns, 0: none; the relay sets SO_RCVTIMEO and SO_SNDTIMEO
    int64_t write_timeout; // ns, 0: none
    // Bytes read from this socket and given to the other one. Written by one pump in bulk steps, read by anyone.
    _Atomic uint64_t bytes;
};

struct relay {
    struct relay_socket sockets[2]; // by enum relay_side
    struct thread_pool *threads;
    // The names of the two threads: [RELAY_CLIENT] for the pump that reads from the client. The calling thread runs that one.
    char thread_names[2][THREAD_NAME_SIZE];
    // The connection's reason to end, CLOSE_NONE while it runs. Whoever ends it from outside (lifetime, drain) sets it by
    // compare and swap and then shuts both sockets down; a pump that fails sets it the same way. The first one stands.
    _Atomic(enum close_reason) *reason;
};

struct relay_result {
    enum close_reason reason;
    enum ended_by ended_by;
    bool reset_client; // close with RST rather than with FIN
    bool reset_target;
    int os_errno; // what the failing call said, 0 if none failed
};

// Blocks until both pumps have ended. False: no thread could be had for the second pump and nothing was relayed
// (ERROR_NO_THREADS, ERROR_NO_MEMORY).
bool relay_run(struct relay *relay, struct relay_result *result, struct error *error);

#endif
