// A listener's admission for tests: real sockets on the loopback, a target, a pool of threads. The test's thread is the
// acceptor. Workers wait for a client as long as the test needs them to, unless it says otherwise (fake_epoll.h). Every
// function fails the running test where it cannot deliver.

#ifndef BITFLOW_TEST_ADMISSION_RIG_H
#define BITFLOW_TEST_ADMISSION_RIG_H

#include "bitflow/proxy/admission.h"
#include "fake_epoll.h"
#include "listener_rig.h"

// Options of a proxy.
#define ROOM_FOR_TWO "connection_limit: 2, source_connection_limit: 2"

extern struct runtime door_runtime;

// One listener, and the target behind it.
#define WAITING_MAX 8 // workers of a listener, as in admission.c

struct door {
    struct listener listener;
    struct endpoint address, target_address;
    int target, bell;
    bool is_shared; // and has an epoll instance for each worker that has waited beside others
    struct proxy *proxy;
    struct admission *admission;
};

// The two ends of a connection.
struct pair {
    int client, target;
};

// A test's setup: metrics that are on, no connection, no thread yet.
int door_setup(void **state);

// The same with a pool that never has more than one thread.
int door_setup_one_thread(void **state);

int door_teardown(void **state);

// From now on its proxy leads to `target`, and its listener and options have these keys.
void door_update(const struct door *door, const struct endpoint *target, const char *listener, const char *options);

// With room for two clients; nobody shares it yet.
void door_open(struct door *door);

void door_open_shared(struct door *door);

// Until so many workers wait for a client, at all doors.
void door_await_waiting(int count);

// Until so many threads of the pool have something to do; those that wait for a client count.
unsigned door_occupied(void);
void door_await_occupied(unsigned count);

// All of its clients have gone.
void door_close(struct door *door);

// The same, for the last one that is open: waits until its clients have gone, and no place is taken any more.
void door_close_last(struct door *door);

// Since it was last asked.
bool door_has_rung(const struct door *door);

// Whether a client has connected that nobody has accepted.
bool door_has_queue(const struct door *door);

// As the acceptor does. False: there is nobody.
bool door_accept(const struct door *door);

// The same for a client who is there or on the way.
void door_let_in(const struct door *door);

// A byte, from one socket to the other.
void pair_pass(int from, int to);

// Accepts at the target, which must be the other end of that client, in both directions.
struct pair pair_of(int client, int target);

// A client that the acceptor lets in.
struct pair door_begin(const struct door *door);

// One that a worker accepts: nobody else does.
struct pair door_begin_awaited(const struct door *door);

void pair_end(const struct pair *pair);

// The acceptor lets a client in, whose worker then waits.
void door_bring_worker(const struct door *door);

// Since the start: a door that opens again finds what was counted of its proxy.
uint64_t door_turned_away(const struct door *door, enum close_reason reason);

// Its client sees the end of the stream, and that was the reason; `times`: how often it has happened by then. Closes
// the client.
void door_assert_turned_away(const struct door *door, int client, enum close_reason reason, uint64_t times);

#endif
