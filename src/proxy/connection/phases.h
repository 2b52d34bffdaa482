// The phases of a connection, and how long each took: one table, one array of times, and phases_enter() alone enters a
// phase and stamps it. Phases come in the table's order and are passed over where nothing is to be done. A phase with a
// step lies within the phase above it that has none, and may be entered anew with each attempt; its times add up.
//
//   accepting -> admitting -> dialling -> relaying -> closing
//                    \____________\___________/
//
// The connection's own thread enters phases. Others may read `current`; the rest only while nothing is entered.

#ifndef BITFLOW_SRC_PROXY_CONNECTION_PHASES_H
#define BITFLOW_SRC_PROXY_CONNECTION_PHASES_H

#include <stdatomic.h>
#include <stdint.h>

#include "bitflow/proxy/metrics.h"

#define PHASE_NO_TIMER PROXY_TIME_COUNT

// X(constant, name in the records, step within it, key of its duration in the records, timer of the metrics)
#define CONNECTION_PHASES(X)                                                                                          \
    X(PHASE_ACCEPTING, "accepting", NULL, "wait_ms", PHASE_NO_TIMER) /* it waits for a worker */                      \
    X(PHASE_ADMITTING, "admitting", NULL, "admit_ms", PHASE_NO_TIMER)                                                 \
    X(PHASE_CLIENT_HEADER, "admitting", "proxy_header", "client_header_ms", PHASE_NO_TIMER)                           \
    X(PHASE_CLIENT_HELLO, "admitting", "client_hello", "client_hello_ms", PHASE_NO_TIMER)                             \
    X(PHASE_CLIENT_HANDSHAKE, "admitting", "tls_handshake", "client_handshake_ms", PROXY_TIME_CLIENT_HANDSHAKE)       \
    X(PHASE_DIALLING, "dialling", NULL, "dial_ms", PHASE_NO_TIMER) /* with the pauses between attempts */             \
    X(PHASE_RESOLVE, "dialling", "resolve", "resolve_ms", PROXY_TIME_RESOLVE)                                         \
    X(PHASE_CONNECT, "dialling", "connect", "connect_ms", PROXY_TIME_CONNECT)                                         \
    X(PHASE_SOCKS, "dialling", "socks", "socks_ms", PHASE_NO_TIMER)                                                   \
    X(PHASE_TARGET_HEADER, "dialling", "proxy_header", NULL, PHASE_NO_TIMER)                                          \
    X(PHASE_TARGET_HANDSHAKE, "dialling", "tls_handshake", "target_handshake_ms", PHASE_NO_TIMER)                     \
    X(PHASE_AWAIT_FIRST_BYTE, "dialling", "first_byte", NULL, PHASE_NO_TIMER) /* from either side; a lent target's */ \
    X(PHASE_RELAYING, "relaying", NULL, "relay_ms", PHASE_NO_TIMER)                                                   \
    X(PHASE_FIRST_BYTE, "relaying", NULL, "first_byte_ms", PROXY_TIME_FIRST_BYTE) /* the relay tells when */          \
    X(PHASE_CLOSING, "closing", NULL, NULL, PHASE_NO_TIMER)

#define PHASE_CONSTANT(constant, name, step, key, timer) constant,
enum phase { CONNECTION_PHASES(PHASE_CONSTANT) PHASE_COUNT };
#undef PHASE_CONSTANT

struct phase_row {
    const char *name;
    const char *step; // NULL: it is a phase as a whole
    const char *key;  // NULL: its duration is not told
    enum proxy_time timer;
};

extern const struct phase_row phase_rows[PHASE_COUNT];

// Times are clock_now()'s, in ns; all zeros is a connection that was turned away before it began.
struct phases {
    _Atomic(enum phase) current; // as a whole
    enum phase reached;          // the same, but for PHASE_CLOSING: the phase that it has ended in
    enum phase step;             // that it came to last, maybe in a phase before; PHASE_ACCEPTING: none
    int64_t started;             // it was accepted
    int64_t since;               // `reached` was entered
    int64_t step_since;          // 0: the step is over
    int64_t ended;               // 0: it is not closing yet
    int64_t spent[PHASE_COUNT];  // in what is over; 0: it did not come to that
};

void phases_begin(struct phases *phases);
void phases_enter(struct phases *phases, enum phase phase);

// The step is over. It stays the one that the connection came to last.
void phases_leave_step(struct phases *phases);

// The step is over, and whoever did it has told how long it took; what was begun as one step may turn out to be two, of
// which the one told of last is the one that the connection came to.
void phases_add(struct phases *phases, enum phase phase, int64_t duration);

// `first_byte`: when the target's first byte was given to the client; 0: none was yet. Those that are not over count
// until `now`. Returns the connection's age.
int64_t phases_durations(const struct phases *phases, int64_t first_byte, int64_t now, int64_t durations[PHASE_COUNT]);

#endif
