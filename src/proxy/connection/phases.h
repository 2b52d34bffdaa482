// The phases of a connection, and how long each took: one table, one array of times. phases_enter() alone enters a
// phase, or a step within it. Phases come in the table's order and are passed over where nothing is to be done; a step
// may be entered anew with each attempt, and its times add up. A phase takes until the next one is entered; a step
// until the next one is, or until it is left, unless whoever did it has told how long it took.
//
//   accepting -> admitting -> dialling -> relaying -> closing
//                    \____________\___________/
//
// The connection's own thread enters phases. Others may read what is atomic; the rest only while nothing is entered.
// Who reads `current` with acquire sees all that was set before that phase was entered.

#ifndef BITFLOW_SRC_PROXY_CONNECTION_PHASES_H
#define BITFLOW_SRC_PROXY_CONNECTION_PHASES_H

#include <stdatomic.h>
#include <stdint.h>

#include "bitflow/proxy/metrics.h"

#define PHASE_NO_TIMER PROXY_TIME_COUNT

// PHASE: a phase as a whole. STEP: of the phase above it. TOLD: never entered, the relay tells how long it took.
// X(constant, kind, name in the records, step within it, key of its duration in the records, timer of the metrics)
#define CONNECTION_PHASES(X)                                                                                          \
    X(PHASE_ACCEPTING, PHASE, "accepting", NULL, "wait_ms", PHASE_NO_TIMER) /* it waits for a worker */               \
    X(PHASE_ADMITTING, PHASE, "admitting", NULL, "admit_ms", PHASE_NO_TIMER)                                          \
    X(PHASE_CLIENT_HEADER, STEP, "admitting", "proxy_header", "client_header_ms", PHASE_NO_TIMER)                     \
    X(PHASE_CLIENT_HELLO, STEP, "admitting", "client_hello", "client_hello_ms", PHASE_NO_TIMER)                       \
    X(PHASE_CLIENT_HANDSHAKE, STEP, "admitting", "tls_handshake", "client_handshake_ms", PROXY_TIME_CLIENT_HANDSHAKE) \
    X(PHASE_DIALLING, PHASE, "dialling", NULL, "dial_ms", PHASE_NO_TIMER) /* with the pauses between attempts */      \
    X(PHASE_RESOLVE, STEP, "dialling", "resolve", "resolve_ms", PROXY_TIME_RESOLVE)                                   \
    X(PHASE_CONNECT, STEP, "dialling", "connect", "connect_ms", PROXY_TIME_CONNECT)                                   \
    X(PHASE_SOCKS, STEP, "dialling", "socks", "socks_ms", PHASE_NO_TIMER)                                             \
    X(PHASE_TARGET_HEADER, STEP, "dialling", "proxy_header", NULL, PHASE_NO_TIMER)                                    \
    X(PHASE_TARGET_HANDSHAKE, STEP, "dialling", "tls_handshake", "target_handshake_ms", PHASE_NO_TIMER)               \
    X(PHASE_AWAIT_FIRST_BYTE, STEP, "dialling", "first_byte", NULL, PHASE_NO_TIMER) /* where the target is lent */    \
    X(PHASE_RELAYING, PHASE, "relaying", NULL, "relay_ms", PHASE_NO_TIMER)                                            \
    X(PHASE_FIRST_BYTE, TOLD, "relaying", NULL, "first_byte_ms", PROXY_TIME_FIRST_BYTE) /* the target's */            \
    X(PHASE_CLOSING, PHASE, "closing", NULL, NULL, PHASE_NO_TIMER)

#define PHASE_CONSTANT(constant, kind, name, step, key, timer) constant,
enum phase { CONNECTION_PHASES(PHASE_CONSTANT) PHASE_COUNT };
#undef PHASE_CONSTANT

enum phase_kind { PHASE_KIND_PHASE, PHASE_KIND_STEP, PHASE_KIND_TOLD };

struct phase_row {
    enum phase_kind kind;
    const char *name;
    const char *step; // NULL: it is not a step
    const char *key;  // NULL: its duration is not told
    enum proxy_time timer;
};

extern const struct phase_row phase_rows[PHASE_COUNT];

// Times are clock_now()'s, in ns. A client that was rejected never began: all of it is zero.
struct phases {
    _Atomic(enum phase) current; // the phase that it is in
    enum phase reached;          // the same, but for PHASE_CLOSING: the one that it ended in
    _Atomic(enum phase) step;    // the last one that was entered, maybe of an earlier phase; PHASE_ACCEPTING: none yet
    int64_t started;             // when it was accepted
    _Atomic int64_t since;       // when `reached` was entered
    int64_t step_since;          // when `step` was entered; 0: it is over
    int64_t ended;               // when PHASE_CLOSING was entered; 0: not yet
    int64_t spent[PHASE_COUNT];  // in the phases and steps that are over; 0: it did not get there
};

// Enters PHASE_ACCEPTING. The rest must be zeros.
void phases_begin(struct phases *phases);

// A phase as a whole ends the one before it, and any step.
void phases_enter(struct phases *phases, enum phase phase);

// The step is over, if one is under way, and took as long as the clock says.
void phases_leave_step(struct phases *phases);

// The step is over, and its time is told by phases_add() instead. `step`: what it turned out to be, since what is
// entered as PHASE_CONNECT may not get beyond resolving the name.
void phases_leave_told_step(struct phases *phases, enum phase step);

// Adds to the time of a step what whoever did it has measured.
void phases_add(struct phases *phases, enum phase step, int64_t duration);

// How long each took, with those that are not over as of `now`; returns the connection's age. `first_byte`: when the
// target's first byte was given to the client; 0: it was not yet.
int64_t phases_durations(const struct phases *phases, int64_t first_byte, int64_t now, int64_t durations[PHASE_COUNT]);

#endif
