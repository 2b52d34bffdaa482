// The inside of the relay, for the files of this folder alone.
//
// A relay has two directions, each of which reads from one side and writes to the other. Two engines drive them,
// through the same states and by the same reads and writes:
//   - relay_poll.c: both directions on one thread, which waits for both sockets in poll() and never in a read or a
//     write. Every relay begins with it.
//   - relay_pump.c: one direction on a thread of its own, which waits in its reads and writes.
// What differs is relay_shared.io_flags.
//
// relay_io.c is the path of a piece of data: recv() fills the input; what lies there is made into pieces that are ready
// to be written (plain to plain: the input itself; from TLS: decrypted in place; to TLS: sealed into the output);
// send() writes them. The next recv() comes when the input has nothing more for a piece. relay_close.c judges for all:
// everything that can end a direction (end of stream, error, silence, a peer that takes nothing) goes through it, and
// of these files it alone settles, or looks at, the connection's reason.

#ifndef BITFLOW_SRC_RELAY_RELAY_INTERNAL_H
#define BITFLOW_SRC_RELAY_RELAY_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"
#include "bitflow/relay/relay.h"
#include "bitflow/tls/tls_record.h"

// How long a connection may take to deliver what a side had sent before it was reset.
#define RELAY_GRACE (5 * NS_PER_S)

#define SMALL_READ ((size_t)16 * 1024) // what a read asks for at most, but for bulk
// The buffers that a direction begins with, on relay_run()'s stack: each holds a TLS record of any size, or what is
// read into that one when it is sealed. A message touches only the pages it fills.
#define INPUT_SIZE ((size_t)17 * 1024)
#define OUTPUT_SIZE TLS_SEALED_SIZE(INPUT_SIZE)
#define BULK_AFTER 2  // full buffers in a row make a bulk flow
#define PIECES_MAX 16 // written by one call

_Static_assert(INPUT_SIZE >= TLS_RECORD_MAX && INPUT_SIZE >= SMALL_READ, "any record fits");

#define CACHE_LINE 64

// What a direction does, or how it ended:
//
//               all is written
//           .--------------------.
//           v                    |     write failed or timed out, or the grace is over
//        READING --- bytes ---> WRITING --------------------------------------------------> TORN
//         | | |                                                                              ^
//         | | '--- end of stream, to TLS ---> CLOSING ---------------------------------------'
//         | |                                  |   |
//         | |                    all is written|   '--- the peer is gone ---> UNHEARD
//         | |                                  v                                 ^
//         | '--- end of stream ---------> FINISHED --- the peer of TLS is gone --'
//         |
//         '--- failed, timed out, or ended from outside ---> STOPPED
enum direction_state {
    DIRECTION_READING, // everything that was read is written, but for the part of a record
    DIRECTION_WRITING, // pieces are pending, or a pipe has bytes
    DIRECTION_CLOSING, // a close_notify is pending, and the end of the stream after it
    // From here on nothing is moved any more.
    DIRECTION_FINISHED, // the end of the stream is passed on
    DIRECTION_UNHEARD,  // the same, but its peer was gone before it could be told; all data had been written
    DIRECTION_STOPPED,  // ended before that, with nothing half-written
    DIRECTION_TORN,     // ended in the middle of a write: what it wrote may end within a record
};

struct buffers {
    uint8_t *input;
    size_t input_size;
    uint8_t *output; // NULL: the write side is plain
    size_t output_size;
};

struct relay_shared;

struct direction {
    struct relay_shared *shared;
    struct direction *opposite;
    enum relay_side side; // the one that is read from
    struct relay_socket *from;
    struct relay_socket *to;
    struct tls_receiver *receiver; // NULL: the read side is plain
    struct tls_sender *sender;     // NULL: the write side is plain
    size_t record_limit;           // plaintext bytes a record, with `sender`
    struct buffers buffers;        // in use
    struct buffers saved_buffers;  // those it began with, while bulk uses bigger ones; else none
    size_t consumed, filled;       // input[consumed .. filled) was read and not opened yet
    uint8_t *plaintext;            // what was opened and is not among the pieces yet
    size_t plaintext_length;
    struct iovec pieces[PIECES_MAX]; // what is ready to be written, from next_piece on
    unsigned next_piece, piece_count;
    size_t pending;                // bytes in them
    size_t pending_plaintext;      // the plaintext bytes that sealed pieces stand for
    unsigned full_reads;           // reads in a row that filled the input
    bool is_close_notify_received; // behind what is pending: to be acted upon when that is written
    bool is_reply_due;             // the read side has asked for something that its own TLS sender has to say
    bool can_splice;               // both sides are plain, and no socket has refused it
    bool has_failed;               // its failure ended the connection: the rest is given until shared->grace_end
    bool is_stalled;               // the write under way has been found waiting: the next two are set
    uint64_t acked;                // what the peer of `to` had taken when last looked at
    int64_t acked_at;              // when that last changed; coarse clock
    int64_t last_read;             // coarse clock; for relay_poll.c, and only if `from` has a read timeout
    int64_t stall_checked;         // when relay_poll.c last looked at the stalled write
    // What the opposite direction looks at, on cache lines of its own, since this one writes it for every message.
    // Padding in place of an alignment: gcc's AddressSanitizer does not give a stack frame one of 64.
    char padding_before[CACHE_LINE];
    // Stored with release, after what led to it was recorded; the opposite thread acquires it.
    _Atomic(enum direction_state) state;
    _Atomic int64_t last_write; // coarse clock; only kept if `to` has a read timeout
    char padding_after[CACHE_LINE];
};

// What the two directions share. Lives on the stack of relay_run().
struct relay_shared {
    struct relay *relay;
    struct direction directions[2]; // by the side that is read from
    int io_flags;                   // recv()'s and send()'s: MSG_DONTWAIT for relay_poll.c, 0 for relay_pump.c
    _Atomic int first_finished;     // enum relay_side; -1: neither side has sent an end of stream
    // Written by the direction that settled the reason, read when both have ended.
    struct failure *failure;
    int64_t grace_end;                     // DEADLINE_NONE: no side failed
    const struct relay_socket *deliver_to; // what was written to it is waited for; NULL: nothing is
    bool reset[2];                         // by enum relay_side
    unsigned due_alert; // enum tls_alert, to be sent to `due_alert_to`; 0 (which is no failure): none
    enum relay_side due_alert_to;
    _Atomic bool is_tls_broken; // by one side: what is under way to it is the last that it gets
};

static inline enum relay_side relay_other(enum relay_side side)
{
    return side == RELAY_CLIENT ? RELAY_TARGET : RELAY_CLIENT;
}

static inline enum direction_state direction_state(const struct direction *direction)
{
    return atomic_load_explicit(&direction->state, memory_order_acquire);
}

static inline bool direction_is_writing(const struct direction *direction)
{
    enum direction_state state = direction_state(direction);
    return state == DIRECTION_WRITING || state == DIRECTION_CLOSING;
}

static inline bool direction_is_over(const struct direction *direction)
{
    return direction_state(direction) >= DIRECTION_FINISHED;
}

// Whether its end of stream was passed on. Of the opposite direction it is asked after a system call on the socket: the
// state is changed before the socket is shut down.
static inline bool direction_has_finished(const struct direction *direction)
{
    enum direction_state state = direction_state(direction);
    return state == DIRECTION_FINISHED || state == DIRECTION_UNHEARD;
}

// The only function that changes a direction's state. Only the thread that drives it may.
static inline void direction_enter(struct direction *direction, enum direction_state next)
{
    static const unsigned successors[] = {
        [DIRECTION_READING] =
            1U << DIRECTION_WRITING | 1U << DIRECTION_CLOSING | 1U << DIRECTION_FINISHED | 1U << DIRECTION_STOPPED,
        [DIRECTION_WRITING] = 1U << DIRECTION_READING | 1U << DIRECTION_TORN,
        [DIRECTION_CLOSING] = 1U << DIRECTION_FINISHED | 1U << DIRECTION_UNHEARD | 1U << DIRECTION_TORN,
        [DIRECTION_FINISHED] = 1U << DIRECTION_UNHEARD,
        [DIRECTION_UNHEARD] = 0,
        [DIRECTION_STOPPED] = 0,
        [DIRECTION_TORN] = 0,
    };
    INVARIANT((successors[direction_state(direction)] >> next & 1U) != 0);
    direction->is_stalled = false;
    atomic_store_explicit(&direction->state, next, memory_order_release);
}

// --- relay_poll.c: the engine for one thread. Without a second thread it can carry anything, only not as fast.

#define ROUNDS_PER_REFUSAL 256

struct poll_engine {
    struct relay_shared *shared;
    bool has_read_timeout;  // one of the sockets
    bool is_begun;          // the client's first bytes have been asked for
    bool hung_up[2];        // poll() has said so: the socket is left alone unless it is to be read or written
    unsigned refusals_left; // rounds before a second thread is asked for again; ROUNDS_PER_REFUSAL after a refusal
};

void relay_poll_init(struct poll_engine *engine, struct relay_shared *shared);

// True: both directions have ended. False: it is worth going on by relay_pump(), with a thread for each direction that
// is not over.
bool relay_poll(struct poll_engine *engine);

// --- relay_pump.c: the engine for a thread a direction.

// Moves bytes until the direction is over, what is pending first. SO_RCVTIMEO of `from` is the read timeout,
// SO_SNDTIMEO of `to` is direction_write_slice().
void relay_pump(struct direction *direction);

// --- relay_io.c: reads and writes.

// Reads once, at most `most` bytes, and writes what came as far as it goes: with MSG_DONTWAIT some of it may have to
// wait (the state tells), else all is written, or the direction is over. Nothing may be pending. Returns what recv()
// did: 0 at the end of the stream; -1 where nothing came (in time, for a socket that blocks) or the direction is over.
// `may_be_reset`: see direction_end_of_stream().
ssize_t direction_move(struct direction *direction, size_t most, bool may_be_reset);

// Writes what is pending, and what else was read. False: the direction is over, or with MSG_DONTWAIT some has to wait.
bool direction_forward(struct direction *direction);

// All that was to be written is. False: the direction is over.
bool direction_written(struct direction *direction);

// For a thread that blocks: a write has not taken everything for a slice. True: try on. False: the direction is over.
bool direction_await_peer(struct direction *direction);

// Bytes of the read side were given to the other one.
void direction_account(struct direction *direction, size_t size);

// Ends the direction in the middle of a write. Of what is sealed, the records that are out as a whole count.
void direction_tear(struct direction *direction);

// Sends the peer of `to` what its TLS sender owes it besides data, if anything. Nothing may be pending.
void direction_reply(struct direction *direction);

// Makes a close_notify pending, by which the direction is CLOSING.
void direction_close_with_notify(struct direction *direction);

// Goes on with other buffers; what the input still has must fit. The old ones stay their owner's.
void direction_change_buffers(struct direction *direction, const struct buffers *buffers);

// --- relay_close.c: ends and timeouts.

// recv() has found the end of the read side: passes it on, unless it was no orderly end. `may_be_reset`: false only if
// poll() has just said that it has not hung up, and no other thread may have taken an error from it. The direction is
// over then, or CLOSING.
void direction_end_of_stream(struct direction *direction, bool may_be_reset);

// The peer has said by close_notify that its stream ends here: the same.
void direction_close_notified(struct direction *direction);

// Nothing is left to be written: passes the end of the stream on.
void direction_finish(struct direction *direction);

// The read side broke TLS (`alert` is owed to it; 0: it sent one itself). `what`: a constant for the log, the peer's
// alert's name or what it did.
void direction_tls_failed(struct direction *direction, unsigned alert, const char *what);

// The sender cannot go on: no memory, or its key is used up.
void direction_seal_failed(struct direction *direction);

// A read, or a write, has failed with this errno (never EINTR; for a write EAGAIN is the write timeout): the direction
// is over.
void direction_read_failed(struct direction *direction, int os_errno);
void direction_write_failed(struct direction *direction, int os_errno);

// The read timeout of the read side has expired: the direction is over.
void direction_read_timed_out(struct direction *direction);

// Nothing has come from the read side for `idle` ns. True: go on reading, its read timeout has not expired. False: it
// has, and the direction is over. Waits out what is left of the timeout.
bool direction_check_read_timeout(struct direction *direction, int64_t idle);

// How long a write may wait before it is looked at, ns.
int64_t direction_write_slice(const struct direction *direction);

// A write has not taken everything for a slice. True: try on. False: the direction is over, since the write timeout has
// expired without the peer having taken anything, or the peer has broken TLS and takes nothing, or the read side was
// reset and the grace is over. Does not wait.
bool direction_check_write_timeout(struct direction *direction);

// The read side is not being read, or is at its end: has it been reset meanwhile? Its reset is recorded then; what it
// had sent may still be written within the grace.
void direction_check_reset(struct direction *direction);

// False: its failure ended the connection, and the time to deliver what had been sent is over.
bool direction_within_grace(const struct direction *direction);

// Both directions are over, or the grace is: settles the reason, unless one stands, delivers what can be delivered, and
// says how the sockets are to be closed.
void relay_conclude(struct relay_shared *shared, struct relay_result *result);

// Whoever shares an inherited socket may have set O_NONBLOCK: then EAGAIN tells nothing of a timeout.
bool relay_is_nonblocking(int fd);

#endif
