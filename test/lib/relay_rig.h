// A relay between two sockets whose far ends the test holds. The relay runs on a thread of its own; what it said is in
// `result` after rig_join(), which also closes its sockets the way the result asks for.

#ifndef BITFLOW_TEST_RELAY_RIG_H
#define BITFLOW_TEST_RELAY_RIG_H

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "at_once.h"
#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"
#include "bitflow/relay/pipe_pool.h"
#include "bitflow/relay/relay.h"
#include "lateness.h"

#define PATIENCE (20 * NS_PER_S) // after this a condition that has not come about never will

enum rig_kind { RIG_TCP, RIG_UNIX };

struct rig {
    int client; // the test's ends
    int target;
    struct relay relay;
    _Atomic(enum close_reason) reason;
    pthread_t runner;
    char runner_name[THREAD_NAME_SIZE];
    bool started;
    _Atomic unsigned rests; // each was followed by a new thread
    struct relay_result result;
    struct failure failure;
    _Atomic bool ran;
    int64_t began, ended; // clock_now()
};

void must(bool condition, const char *what);

#define MUST(condition) must(condition, #condition)

// A connected pair; `near` is for the relay. `buffer` bounds both ends' socket buffers, 0 leaves them alone.
void rig_connect_pair(enum rig_kind kind, int buffer, int *near, int *far);

// A pool whose only thread is busy until `until` is posted.
struct thread_pool *rig_exhausted_threads(sem_t *until);

// From here on no relay of this program gets a second thread.
struct thread_pool **rig_only_threads(void);

// The pool that relays have otherwise. Their first threads are none of it.
struct thread_pool *rig_threads(void);

void rig_go_without_threads(void);

void rig_init(struct rig *rig, enum rig_kind client, enum rig_kind target, int buffer);

void *rig_run(void *argument);

void rig_start(struct rig *rig);

void rig_close_side(struct rig *rig, enum relay_side side, bool reset);

// A relay that never ends is the alarm's: see rig_prepare().
void rig_join(struct rig *rig);

// splice() has no MSG_NOSIGNAL, so SIGPIPE is ignored here as in the program; a test that hangs dies of the alarm.
void rig_prepare(void);

// The same, and no relay of this program gets a second thread.
void rig_prepare_one_thread(void);

void rig_close_far(int *fd);

void rig_release(struct rig *rig);

// Ends the relay from outside, as a lifetime or a drain does.
void rig_end(struct rig *rig, enum close_reason reason);

void rig_reset_far(int *fd);

// --- bytes -----------------------------------------------------------------------------------------------------------

void rig_fill(unsigned char *out, size_t size, unsigned stream, uint64_t at);

// Sends bytes [from, from + size) of a stream, all of them unless the other side is gone. Returns how many went.
uint64_t rig_send(int fd, unsigned stream, uint64_t from, uint64_t size);

enum rig_end { RIG_MORE, RIG_EOF, RIG_RESET };

// Receives up to `size` bytes of a stream and checks each. Tells in `end` what stopped it; RIG_MORE: nothing did.
uint64_t rig_receive(int fd, unsigned stream, uint64_t from, uint64_t size, enum rig_end *end);

#define RIG_ALL UINT64_MAX

// One message through the relay: sent here, expected there.
void rig_pass(int from, int to, const char *text);

// The same. False: the relay has ended.
bool rig_try_pass(int from, int to, const char *text);

enum rig_end rig_next(int fd);

// --- the relay's view ----------

uint64_t rig_bytes(struct rig *rig, enum relay_side side);

void rig_assert_ended(const struct rig *rig, enum close_reason reason, enum ended_by by);

void rig_assert_resets(const struct rig *rig, bool client, bool target);

bool rig_wait_bytes(struct rig *rig, enum relay_side side, uint64_t at_least);

// Sends until nothing goes any more, not even late: the relay is then stuck in a write to the other side.
uint64_t rig_stuff(struct rig *rig, enum relay_side side);

// Goes on sending until the relay has a reason to end.
void rig_stuff_until_ended(struct rig *rig, enum relay_side side);

// --- trials ----------------------------------------------------------------------------------------------------------

// Whether a trial that went wrong says nothing: the machine was late since then, by more than a little of the time that
// the trial has for each step.
bool rig_is_excused(int64_t since, int64_t step);

// The end of a relay whose trial says nothing.
void rig_abandon(struct rig *rig);

#define RIG_TRIES_MAX 20

// Repeats a trial that returns false, which is that it says nothing.
#define RIG_TRY(trial)                          \
    for (unsigned tries = 1; !(trial); tries++) \
    MUST(tries < RIG_TRIES_MAX)

// --- where a thread is -----------------------------------------------------------------------------------------------

// The same file of the thread that has this name now.
bool rig_read_thread(const char *thread, const char *file, char *out, int size);

// Waits, at most for `watch`, until the relay's thread is blocked in that system call with `fd` as its argument
// number `argument`.
bool rig_blocks(const struct rig *rig, enum relay_side thread, long call, int argument, int fd, int64_t watch);

void rig_wait_blocked(const struct rig *rig, enum relay_side thread, long call, int argument, int fd);

// Waits until it is blocked in a poll(), of one socket or of both: a second thread that was there may have left.
void rig_wait_polling(const struct rig *rig, enum relay_side thread);

#endif
