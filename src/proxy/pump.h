// The inside of the relay: one pump moves the bytes of one direction. Only src/proxy/relay.c, solo.c and the pump's own
// files include this.
//
// solo.c moves both directions on one thread, which is how every relay begins. pump.c moves one direction on a thread
// of its own: stages that hand over to one another as the flow changes. pump_end.c judges for both: everything that can
// stop a direction (end of stream, error, silence, a peer that takes nothing) goes through it, and it alone touches the
// connection's reason.

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

#define PUMP_BUFFER \
    ((size_t)16 * 1024)   // on relay_run()'s stack, one a direction; a message touches only the pages it fills
#define PUMP_BULK_AFTER 2 // full buffers in a row make a bulk flow

#define CACHE_LINE 64

struct relay_state;

struct pump {
    struct relay_state *state;
    enum relay_side side; // it reads from this side and writes to the other
    int from;
    int to;
    unsigned char *buffer; // PUMP_BUFFER bytes
    size_t pending;        // so many bytes in the buffer, from pending_at on, are read but not yet written
    size_t pending_at;
    unsigned full; // full buffers read in a row
    bool over;     // nothing is moved any more; kept by solo.c only
    bool splice_unsupported;
    bool saw_failure;  // this pump's failure ended the connection: what goes on is given until state->grace_end
    bool stalled;      // the write under way has been found waiting: `taken` and `progress` are set
    uint64_t taken;    // what the peer of `to` had taken when last looked at
    int64_t progress;  // when that last changed; coarse clock
    int64_t last_read; // coarse clock; only in the solo stage, and if `from` has a read timeout
    int64_t checked;   // when solo.c last looked at the stalled write
    // What the twin looks at, on cache lines of its own, since this pump writes it for every message. Room in place of
    // an alignment: gcc's AddressSanitizer does not give a stack frame one of 64.
    char apart_from_above[CACHE_LINE];
    _Atomic bool writing;       // inside a write to `to`; a failed one is left once it is recorded
    _Atomic bool finished;      // the end of the stream is passed on, nothing is written any more
    _Atomic int64_t last_write; // coarse clock; only kept if `to` has a read timeout
    char apart_from_below[CACHE_LINE];
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

// The solo stage: both directions on the calling thread, which waits for both sockets in poll() and never blocks in a
// read or a write. Without a second thread it can carry anything, only not as fast.
struct solo {
    struct relay_state *state;
    bool is_timed;          // one of the sockets has a read timeout
    bool hung_up[2];        // poll() has said so: the socket is left alone unless it is to be read or written
    unsigned refusals_left; // rounds before a second thread is asked for again
};

void solo_init(struct solo *solo, struct relay_state *state);

// True: both directions have ended. False: it is worth to go on by pump_run(), a thread for each direction that is not
// over; where none is to be had, solo_refused(), and run again.
bool solo_run(struct solo *solo);
void solo_refused(struct solo *solo);

// Moves bytes until the direction has ended, what is pending first. SO_RCVTIMEO of `from` is the read timeout,
// SO_SNDTIMEO of `to` is pump_slice().
void pump_run(struct pump *pump);

// The rest is between these files.

// The pump has given `size` bytes of the read side to the other one.
void pump_account(struct pump *pump, size_t size);

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

// The read side has ended: passes it on, unless it was no orderly end. `may_be_reset`: false only if poll() has just
// said that it has not hung up, and no other thread may have taken an error from it.
void pump_end_of_stream(struct pump *pump, bool may_be_reset);

// A read, or a write, has failed with this errno (never EINTR; for a write EAGAIN is the write timeout).
void pump_read_failed(struct pump *pump, int os_errno);
void pump_write_failed(struct pump *pump, int os_errno);

// Nothing has come from the read side for `silence` ns. True: go on reading, its read timeout has not expired.
// False: it has, and the connection is ended. Waits out what is left of the timeout.
bool pump_outlasts_silence(struct pump *pump, int64_t silence);

// The read timeout of the read side has expired.
void pump_read_timed_out(struct pump *pump);

// How long a write may wait before it is looked at, ns.
int64_t pump_slice(const struct pump *pump);

// A write has not taken everything for a slice. True: try on. False: the write timeout has expired without the peer
// having taken anything, or the read side was reset and the grace is over. Does not wait.
bool pump_outlasts_stall(struct pump *pump);

// The read side is not being read, or is at its end: has it been reset meanwhile? Its reset is recorded then; what it
// had sent may still be written within the grace.
void pump_look_back(struct pump *pump);

// False: the read side was reset, and the time to deliver what it had sent is over.
bool pump_within_grace(const struct pump *pump);

// Whoever shares an inherited socket may have set O_NONBLOCK: then EAGAIN tells nothing of a timeout.
bool pump_is_nonblocking(int fd);

#endif
