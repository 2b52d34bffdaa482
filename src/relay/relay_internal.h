// The inside of the relay, for the files of this folder alone.
//
// A relay has two directions, each of which reads from one side and writes to the other. Two engines drive them,
// through the same states and by the same reads and writes:
//   - relay_poll.c: both directions on one thread, which waits for both sockets in poll() and never in a read or a
//     write. Every relay begins with it, and goes back to it when it is quiet.
//   - relay_pump.c: one direction on a thread of its own, which waits in its reads and writes.
// While many relays are busy with small messages, relay_poll.c's is driven by a thread that serves many of them
// (relay_carrier.c), and its own thread waits.
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
// The input that each direction of a plain relay begins with. It lies beside the relay's state, in the page of stack
// that a connection has touched anyway. Whoever fills it gets SMALL_READ from the heap until the relay is quiet.
#define FIRST_INPUT_SIZE ((size_t)352)
// Where a side is TLS, a direction begins with these, on the stack: each holds a TLS record of any size, or what is
// read into that one when it is sealed. A message touches only the pages it fills.
#define INPUT_SIZE ((size_t)17 * 1024)
#define OUTPUT_SIZE TLS_SEALED_SIZE(INPUT_SIZE)
#define BULK_AFTER 2 // full buffers in a row make a bulk flow
// A flow silent for so long gives its pipe or big buffer back, and two silent ones their second thread.
#define QUIET_AFTER (1 * NS_PER_S)
// A relay on one thread that is silent for so long gives back the memory that it has touched and does not need.
#define RELEASE_AFTER_MS 3000
// A relay whose rests are shorter has to be silent for twice as long before the next one.
#define REST_WORTHWHILE (10 * NS_PER_S)
#define REST_AFTER_MAX (64 * NS_PER_S)
#define RELEASE_DEPTH ((size_t)80 * 1024) // of the stack, from relay_run()'s frame on: well within RELAY_STACK_SIZE
#define PIECES_MAX 16                     // written by one call

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
//         | |                                  v
//         | '--- end of stream ---------> FINISHED
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
    struct buffers saved_buffers;  // those before bulk, while bulk uses bigger ones; else none
    uint8_t *first_input;          // of FIRST_INPUT_SIZE; NULL: a side of the relay is TLS
    size_t consumed, filled;       // input[consumed .. filled) was read and not opened yet
    uint8_t *plaintext;            // what was opened and is not among the pieces yet
    size_t plaintext_length;
    struct iovec only_piece; // in place of an array, where there is never more than one
    struct iovec *pieces;    // what is ready to be written, from next_piece on
    unsigned next_piece, piece_count, pieces_max;
    size_t pending;                // bytes in them
    size_t pending_plaintext;      // the plaintext bytes that sealed pieces stand for
    unsigned full_reads;           // reads in a row that filled the input
    int last_write_flags;          // MSG_MORE: what is written is the last before the end, and goes out with that
    bool is_end_next;              // the end of the stream is there, behind what the next read gets
    bool is_close_notify_received; // behind what is pending: to be acted upon when that is written
    bool is_reply_due;             // the read side has asked for something that its own TLS sender has to say
    bool can_splice;               // both sides are plain, and no socket has refused it
    bool has_failed;               // its failure ended the connection: the rest is given until shared->grace_end
    bool is_stalled;               // the write under way has been found waiting: the next two are set
    uint64_t acked;                // what the peer of `to` had taken when last looked at
    int64_t acked_at;              // when that last changed; coarse clock
    // Coarse clock; only kept if shared->is_timed: by relay_poll.c, and by relay_pump.c once it is silent.
    int64_t last_read;
    bool is_silent;          // relay_pump.c's reads have begun to find nothing; the next four are of that time
    bool is_silence_sampled; // the next one is set
    uint64_t silence_acked;  // what the peer had taken when its silence was last judged
    uint64_t opposite_bytes; // what the opposite direction had moved when last looked at
    int64_t look_interval;   // ns until it is looked at again, if it is busy
    int64_t stall_checked;   // when relay_poll.c last looked at the stalled write
    // With so many bytes read from `from`, close() ends `to` as well as shutdown() would: relay_poll.c has seen that it
    // is in order, and nothing was written to it since, which the peer could answer by a reset. UINT64_MAX: it has not.
    uint64_t closable_at;
    // What the opposite direction looks at, on cache lines of its own, since this one writes it for every message.
    // Padding in place of an alignment: gcc's AddressSanitizer does not give a stack frame one of 64.
    char padding_before[CACHE_LINE];
    // Stored with release, after what led to it was recorded; the opposite thread acquires it.
    _Atomic(enum direction_state) state;
    _Atomic int64_t last_write; // coarse clock; only kept if shared->is_timed
    char padding_after[CACHE_LINE];
};

// What the two directions share. Lives on the stack of relay_run().
struct relay_shared {
    struct relay *relay;
    struct direction directions[2]; // by the side that is read from
    uint8_t *stack_buffers;         // all buffers that the directions of a relay with TLS begin with; NULL: it has none
    size_t stack_buffers_size;
    uintptr_t stack_floor;      // RELEASE_DEPTH below relay_run()'s frame
    bool is_timed;              // a side's silence may end the relay: a read timeout or the half-close timeout is set
    int io_flags;               // recv()'s and send()'s: MSG_DONTWAIT for relay_poll.c, 0 for relay_pump.c
    _Atomic int first_finished; // enum relay_side; -1: neither side has sent an end of stream
    bool was_silent;            // the client's end came before a word of anybody; set before its direction has finished
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

// What the opposite direction has moved so far.
static inline uint64_t direction_opposite_bytes(const struct direction *direction)
{
    return atomic_load_explicit(&direction->to->bytes, memory_order_relaxed);
}

// The only function that changes a direction's state. Only the thread that drives it may.
static inline void direction_enter(struct direction *direction, enum direction_state next)
{
    static const unsigned successors[] = {
        [DIRECTION_READING] =
            1U << DIRECTION_WRITING | 1U << DIRECTION_CLOSING | 1U << DIRECTION_FINISHED | 1U << DIRECTION_STOPPED,
        [DIRECTION_WRITING] = 1U << DIRECTION_READING | 1U << DIRECTION_TORN,
        [DIRECTION_CLOSING] = 1U << DIRECTION_FINISHED | 1U << DIRECTION_UNHEARD | 1U << DIRECTION_TORN,
        [DIRECTION_FINISHED] = 0,
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
// A silence that follows upon rounds that came as fast as these, and not one timeout of a millisecond apart, is not
// noticed: to wait with a time limit costs a timer for each message.
#define ROUNDS_PER_PACE 64
#define PACE_MIN (64 * NS_PER_MS)

// A relay with so many messages within that time is busy. It is carried until it has had fewer within QUIET_AFTER.
#define BUSY_ROUNDS 16
#define BUSY_WITHIN (500 * NS_PER_MS)

struct poll_engine {
    struct relay_shared *shared;
    int64_t look_interval; // ns, the shorter keepalive interval; 0: there is none
    int64_t look_due;      // when peers that owe an acknowledgement are looked at, coarse clock; 0: none is known to
    uint64_t confirmed[2]; // by the side that is written to: what of the relay's progress it has acknowledged
    bool is_begun;         // the client's first bytes have been asked for
    bool hung_up[2];       // poll() has said so: the socket is left alone unless it is to be read or written
    bool is_fast;          // the last ROUNDS_PER_PACE took less than PACE_MIN: no silence is waited for
    bool is_busy;          // the last BUSY_ROUNDS took at most BUSY_WITHIN, and it is counted among those
    bool wants_carrier;    // to be carried, if nothing stands against it
    uint8_t busy_rounds;   // since busy_began, coarse clock; at most BUSY_ROUNDS
    unsigned rounds;       // since pace_began, coarse clock
    int64_t pace_began;
    int64_t busy_began;
    int silent_ms;            // so long nothing has come; only what was waited with a time limit counts
    bool has_more_to_release; // for relay_release()
    bool rests;               // rest_after is set, and nothing has stood against it since something came
    int64_t rested_at;        // when it last began to rest, coarse clock; 0: something has come since
    unsigned refusals_left;   // rounds before a second thread is asked for again; ROUNDS_PER_REFUSAL after a refusal
};

void relay_poll_init(struct poll_engine *engine, struct relay_shared *shared);

enum relay_poll_result {
    RELAY_POLL_ENDED, // both directions have
    RELAY_POLL_BUSY,  // it is worth going on by relay_pump(), with a thread for each direction that is not over
    RELAY_POLL_RESTS, // it has been silent for relay->rest_after, and holds nothing that lies on the stack
};

enum relay_poll_result relay_poll(struct poll_engine *engine);

// For relay_carrier.c. Both directions are READING, with nothing pending; who calls these has the relay to itself.

// Moves what `side` has sent. False: its own thread is to go on with it, since a direction is over, or waits, or has
// turned to bulk.
bool relay_poll_carry(struct poll_engine *engine, enum relay_side side);

// When its own thread is to look after it; a deadline, base/clock.h.
int64_t relay_poll_next_look(struct poll_engine *engine);

// Its own thread's look: timeouts, and whether it is still busy. False: it is to go on by itself.
bool relay_poll_look(struct poll_engine *engine);

// --- relay_carrier.c: threads that each serve many busy relays ("carriers").
//
// A small message costs a relay's thread three system calls and a switch. Where more relays are busy than there are
// processors, the switches only take from each other: so a few threads, at most one a processor, each wait for many
// relays in one epoll instance and move their messages, by relay_poll.c's own reads and writes, without waiting. The
// relay's own thread waits meanwhile, looks after its timeouts, and has the relay back for all that is not a small
// message passed on in full: an end, an error, a write that has to wait, bulk, silence. It may also take it back at any
// time between two messages.
//
// A carrier is a task on a thread of the relays' pool; it begins with the first relay and ends with the last. Any
// thread may call these.

// A relay has begun, or ceased, to be busy.
void relay_carrier_note_busy(bool is_busy);

// Whether more are busy than there are processors, and carriers are allowed.
bool relay_carrier_is_worthwhile(void);

// Has a carrier serve the relay, and returns when its own thread is to go on. False: it was not carried, for want of a
// thread, memory or descriptors.
bool relay_carrier_carry(struct poll_engine *engine);

// --- relay_pump.c: the engine for a thread a direction.

// Moves bytes, what is pending first. True: the direction is over. False: relay_stay_quiet() has said that the relay
// goes on on one thread. SO_RCVTIMEO of `from` is pump_patience(), SO_SNDTIMEO of `to` is direction_write_slice().
bool relay_pump(struct direction *direction);

// How long a read may wait before it is looked at, ns.
int64_t pump_patience(const struct direction *direction);

// --- relay.c: the hand-over between a relay's threads.

enum quiet {
    QUIET_ENDS,      // to be read from again, with a call that may wait
    QUIET_LASTS,     // its read timeout is to be looked at
    QUIET_ONE_THREAD // the relay goes on by relay_poll(): a second thread must not touch it any more
};

// Of a direction that is READING, with nothing pending, and was silent for QUIET_AFTER. `left`: until its read timeout
// expires, ns. Waits until something is there to be read, at most so long.
enum quiet relay_stay_quiet(struct direction *direction, int64_t left);

// --- relay_io.c: reads and writes.

// Reads at most `most` bytes, and writes what came as far as it goes: with MSG_DONTWAIT some of it may have to
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

// The relay is on one thread and has been silent for RELEASE_AFTER_MS, with no write that waits: gives back the buffers
// on the heap, and the pages of the stack that hold nothing.
void relay_release(struct relay_shared *shared);

// Neither direction has anything in its buffers, or owes anything to a peer, and nothing has failed.
bool relay_may_rest(const struct relay_shared *shared);

// There is a buffer on the heap, or the stack's have been written to.
bool relay_has_more_to_release(const struct relay_shared *shared);

// Goes back to the input that a direction of a plain relay began with, which is empty.
void direction_shrink(struct direction *direction);

// Goes on with other buffers; what the input still has must fit. The old ones stay their owner's.
void direction_change_buffers(struct direction *direction, const struct buffers *buffers);

// --- relay_close.c: ends and timeouts.

// recv() has found the end of the read side: passes it on, unless it was no orderly end. `may_be_reset`: false only if
// the last poll() has said that it had not hung up, and no other thread may have taken an error from it. (It may have
// been reset since, by the reads and writes that came between: then the next poll() tells.) The direction is over then,
// or CLOSING.
void direction_end_of_stream(struct direction *direction, bool may_be_reset);

// The same where all that came before the end has just been written, with MSG_MORE.
void direction_end_with_data(struct direction *direction);

// The peer has said by close_notify that its stream ends here: the same.
void direction_close_notified(struct direction *direction);

// Nothing is left to be written: passes the end of the stream on.
void direction_finish(struct direction *direction);

// The read side broke TLS (`alert` is owed to it; 0: it sent one itself). `what`: a constant for the log, the peer's
// alert's name or what it did.
void direction_tls_failed(struct direction *direction, unsigned alert, const char *what);

// The sender cannot go on: no memory, or its key is used up.
void direction_seal_failed(struct direction *direction);

// A read has failed with this errno (never EINTR or EAGAIN), after one whose bytes are not written yet: they may still
// be within the grace. The next read finds the end of the stream.
void direction_read_broken(struct direction *direction, int os_errno);

// A read, or a write, has failed with this errno (never EINTR; for a write EAGAIN is the write timeout): the direction
// is over.
void direction_read_failed(struct direction *direction, int os_errno);
void direction_write_failed(struct direction *direction, int os_errno);

// The read timeout of the read side, or what stands for it once the other side has ended, has expired: the direction is
// over.
void direction_read_timed_out(struct direction *direction);

// The shortest time after which the silence of the read side may end the relay, now or when the other side has ended,
// ns; INT64_MAX: none.
int64_t direction_least_silence(const struct direction *direction);

// How long until the read timeout expires, ns, by last_read and the opposite direction's last_write; INT64_MAX: there
// is none, or the side is not being read.
int64_t direction_read_timeout_left(const struct direction *direction, int64_t now);

// The same for a silent direction of relay_pump.c. 0: it has expired, and the direction is over.
int64_t direction_check_read_timeout(struct direction *direction);

// How long a write may wait before it is looked at, ns.
int64_t direction_write_slice(const struct direction *direction);

// A write has not taken everything for a slice. True: try on. False: the direction is over, since the write timeout has
// expired without the peer having taken anything, or the peer has broken TLS and takes nothing, or the read side was
// reset and the grace is over. Does not wait.
bool direction_check_write_timeout(struct direction *direction);

// The read side is not being read, or is at its end: has it been reset meanwhile? Its reset is recorded then; what it
// had sent may still be written within the grace.
void direction_check_reset(struct direction *direction);

// The read side's peer may owe an acknowledgement, and has a keepalive interval: is it lost? The direction fails then.
// False: it owes none, or is lost.
bool direction_look_at_peer(struct direction *direction);

// False: its failure ended the connection, and the time to deliver what had been sent is over.
bool direction_within_grace(const struct direction *direction);

// Both directions are over, or the grace is: settles the reason, unless one stands, delivers what can be delivered, and
// says how the sockets are to be closed.
void relay_conclude(struct relay_shared *shared, struct relay_result *result);

// The relay turns out to be more than a request and its answer: gives a target's socket that is_unprepared what it
// lacks. At the latest before a second write to it, which would otherwise wait for the acknowledgement of the first
// one, and when the relay has first been silent.
void relay_prepare_target(struct relay_shared *shared);

// Whoever shares an inherited socket may have set O_NONBLOCK: then EAGAIN tells nothing of a timeout.
bool relay_is_nonblocking(int fd);

#endif
