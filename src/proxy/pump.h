// The inside of the relay: one pump moves the bytes of one direction. Only src/proxy/relay.c and the pump's own files
// include this.
//
// pump.c moves: stages that hand over to one another as the flow changes. pump_end.c judges: everything that can stop a
// stage (end of stream, error, silence) goes through it, and it alone touches the connection's reason.

#ifndef BITFLOW_SRC_PROXY_PUMP_H
#define BITFLOW_SRC_PROXY_PUMP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/clock.h"
#include "bitflow/proxy/relay.h"

// How long a connection may take to deliver what a side had sent before it was reset.
#define PUMP_GRACE (5 * NS_PER_S)

#define CACHE_LINE 64

struct relay_state;

struct pump {
    struct relay_state *state;
    enum relay_side side; // it reads from this side and writes to the other
    int from;
    int to;
    bool splice_unsupported;
    bool saw_failure; // this pump's failure ended the connection: its twin is given until state->grace_end
    // What the twin looks at, on a cache line of its own, since this pump writes it for every message.
    _Alignas(CACHE_LINE) _Atomic bool writing; // inside a write to `to`; a failed one is left once it is recorded
    _Atomic bool finished;                     // the end of the stream is passed on, nothing is written any more
    _Atomic int64_t last_write;                // coarse clock; only kept if `to` has a read timeout
};

// What the two pumps of a relay share. Lives on the stack of relay_run().
struct relay_state {
    struct relay *relay;
    struct pump pumps[2];       // by the side that the pump reads from
    _Atomic int first_finished; // enum relay_side; -1: neither side has sent an end of stream
    // Written by the pump that recorded the reason, read when both have ended.
    int os_errno;
    int64_t grace_end; // DEADLINE_NONE: no side failed
};

// Moves bytes until the direction has ended.
void pump_run(struct pump *pump);

// The rest is between pump.c and pump_end.c.

static inline struct pump *pump_twin(const struct pump *pump)
{
    return &pump->state->pumps[pump->side == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT];
}

static inline struct relay_socket *pump_from(const struct pump *pump)
{
    return &pump->state->relay->sockets[pump->side];
}

static inline struct relay_socket *pump_to(const struct pump *pump)
{
    return &pump->state->relay->sockets[pump->side == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT];
}

// The read side has ended: passes it on, unless it was no orderly end.
void pump_end_of_stream(struct pump *pump);

// A read, or a write, has failed with this errno (never EINTR; for a write EAGAIN is the write timeout).
void pump_read_failed(struct pump *pump, int os_errno);
void pump_write_failed(struct pump *pump, int os_errno);

// Nothing has come from the read side for `silence` ns. True: go on reading, its read timeout has not expired.
// False: it has, and the connection is ended. Waits out what is left of the timeout.
bool pump_outlasts_silence(struct pump *pump, int64_t silence);

#endif
