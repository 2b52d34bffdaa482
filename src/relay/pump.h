// The inside of the relay: one pump moves the bytes of one direction. Only src/proxy/relay.c, solo.c and the pump's own
// files include this.
//
// solo.c moves both directions on one thread, which is how every relay begins. pump.c moves one direction on a thread
// of its own: stages that hand over to one another as the flow changes. pump_io.c is what both read and write by:
// single reads and writes, and between them TLS records, where a side has them. pump_end.c judges for all: everything
// that can stop a direction (end of stream, error, silence, a peer that takes nothing) goes through it, and it alone
// touches the connection's reason.
//
// A direction's bytes go through it like this: recv() fills the input; pump_take() makes pieces of it, which are ready
// to be written (plain to plain: the input itself; from TLS: decrypted in place; to TLS: sealed into the output);
// pump_send() writes them. The next recv() comes when pump_take() finds nothing more in the input.

#ifndef BITFLOW_SRC_RELAY_PUMP_H
#define BITFLOW_SRC_RELAY_PUMP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "bitflow/base/clock.h"
#include "bitflow/relay/relay.h"
#include "bitflow/tls/tls_record.h"

// How long a connection may take to deliver what a side had sent before it was reset.
#define PUMP_GRACE (5 * NS_PER_S)

#define PUMP_BUFFER ((size_t)16 * 1024) // what a small read asks for at most
// The buffers that a direction begins with, on relay_run()'s stack: room for a TLS record of any size, and for what
// is read into that when it is sealed. A message touches only the pages it fills.
#define PUMP_ROOM ((size_t)17 * 1024)
#define PUMP_SEALED_ROOM TLS_SEALED_SIZE(PUMP_ROOM)
#define PUMP_BULK_AFTER 2 // full buffers in a row make a bulk flow
#define PUMP_PIECES 16    // written by one call

_Static_assert(PUMP_ROOM >= TLS_RECORD_MAX && PUMP_ROOM >= PUMP_BUFFER, "any record fits");

#define CACHE_LINE 64

struct relay_state;

struct pump_buffers {
    uint8_t *input;
    size_t input_size;
    uint8_t *output; // NULL: the write side is plain
    size_t output_size;
};

struct pump {
    struct relay_state *state;
    enum relay_side side; // it reads from this side and writes to the other
    int from;
    int to;
    struct tls_receiver *receiver; // NULL: the read side is plain
    struct tls_sender *sender;     // NULL: the write side is plain
    size_t record_limit;           // plaintext bytes a record, with `sender`
    struct pump_buffers buffers;   // in use: those it began with, or a bulk stage's
    struct pump_buffers laid_by;   // those it began with, while a bulk stage's are in use; else none
    size_t used, filled;           // input[used .. filled) was read and not looked at yet
    uint8_t *plain;                // what was looked at and is not among the pieces yet
    size_t plain_length;
    struct iovec pieces[PUMP_PIECES]; // what is ready to be written, from piece_at on
    unsigned piece_at, piece_count;
    size_t pending;  // bytes in them
    size_t carried;  // plaintext bytes that sealed pieces stand for
    unsigned full;   // reads in a row that filled the input
    bool has_closed; // the peer's close_notify came behind what is pending
    bool is_closing; // what is pending is a close_notify: the end of the stream follows it
    bool owes_reply; // the read side has asked for something that its own TLS sender has to say
    bool over;       // nothing is moved any more
    bool is_torn;    // it was over with pieces unwritten
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
    _Atomic bool writing; // inside a write to `to`; a failed one is left once it is recorded
    // All the data was written, but the peer of a TLS side was gone when the end of the stream was to be told to it.
    _Atomic bool end_unheard;
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
    struct failure *failure;
    int64_t grace_end;   // DEADLINE_NONE: no side failed
    unsigned owed_alert; // enum tls_alert, to be sent to `owed_to`; 0 (which is no failure): none
    enum relay_side owed_to;
    _Atomic bool is_tls_broken; // by one side: what is under way to it is the last that it gets
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

// One recv() of at most `most` bytes into the input, whose result it returns (-1 with errno). `flags`: recv()'s. There
// must be nothing pending, and pump_take() must have said that there is nothing more.
ssize_t pump_receive(struct pump *pump, size_t most, int flags);

// For a write that waits: gives the pages of the buffers that hold nothing back to the system. The buffers remain, and
// have pages again as they are filled.
void pump_release_pages(const struct pump *pump);

// Makes pieces of what was read. True: they are pending; write them, and call again. False: there is nothing more in
// the input, or the direction is over. May end it: the peer's close_notify, an alert, a broken record.
bool pump_take(struct pump *pump);

// One write of what is pending (send()'s result); `flags`: send()'s besides MSG_NOSIGNAL.
ssize_t pump_send(struct pump *pump, int flags);

// Makes a close_notify pending.
void pump_close_with_notify(struct pump *pump);

// Makes what the sender owes its peer besides data pending, if anything. The pump must have nothing pending.
void pump_reply(struct pump *pump);

// Goes on with other buffers; what the input still has must fit. The old ones stay their owner's.
void pump_change_buffers(struct pump *pump, const struct pump_buffers *buffers);

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

// recv() has found the end of the read side: passes it on, unless it was no orderly end. `may_be_reset`: false only if
// poll() has just said that it has not hung up, and no other thread may have taken an error from it. If something is
// pending then, it is a close_notify that is to be written first.
void pump_end_of_stream(struct pump *pump, bool may_be_reset);

// The peer has said by close_notify that its stream ends here: the same.
void pump_close_notified(struct pump *pump);

// All that was pending with `is_closing` is written: the end of the stream goes out.
void pump_finish(struct pump *pump);

// The read side broke TLS (`alert` is owed to it; 0: it sent one itself). `what`: a constant for the log, the peer's
// alert's name or what it did.
void pump_tls_failed(struct pump *pump, unsigned alert, const char *what);

// The sender cannot go on: no memory, or its key is used up.
void pump_seal_failed(struct pump *pump);

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
// having taken anything, or has broken TLS and takes nothing, or the read side was reset and the grace is over. Does
// not wait.
bool pump_outlasts_stall(struct pump *pump);

// The read side is not being read, or is at its end: has it been reset meanwhile? Its reset is recorded then; what it
// had sent may still be written within the grace.
void pump_look_back(struct pump *pump);

// False: the read side was reset, and the time to deliver what it had sent is over.
bool pump_within_grace(const struct pump *pump);

// Whoever shares an inherited socket may have set O_NONBLOCK: then EAGAIN tells nothing of a timeout.
bool pump_is_nonblocking(int fd);

#endif
