// One process takes another one's place, and no client notices: SIGUSR2 has this one start the program anew, with the
// listening sockets (net/handover.h). While the new one starts, this one serves. When the new one serves, it says so,
// and this one drains. If it does not get that far, nothing has changed.
//
// Where the process must stay the same one, since its end would be everybody's (process 1 of a container, or
// server.upgrade_in_place), the new process is a stand-in. Once this one has drained, it becomes the program anew by
// exec, and takes over from the stand-in in the same way, which then drains and ends. So no client waits for a drain.
// What becomes of a process that cannot take its place back: it remains the stand-in's parent, and passes signals on.
//
// The processes talk over a channel (SOCK_SEQPACKET), which tells the main thread by its notice (base/signals.h) that
// something has come, or that the other one has ended. All is the main thread's.

#ifndef BITFLOW_SRC_SERVER_UPGRADE_H
#define BITFLOW_SRC_SERVER_UPGRADE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/error.h"
#include "bitflow/net/handover.h"
#include "service_manager.h"

// How long the new process may take until it serves. Each name of a listener's may take 10 s.
#define UPGRADE_TIME (60 * NS_PER_S)

// How this process has come to be.
enum upgrade_role {
    UPGRADE_FIRST,     // nobody was there before it
    UPGRADE_SUCCESSOR, // of a process that ends
    UPGRADE_STAND_IN,  // for a process that comes back
    UPGRADE_RETURNED,  // it is back
};

enum upgrade_state { UPGRADE_NONE, UPGRADE_UNDER_WAY, UPGRADE_DONE };

struct upgrade {
    int64_t time; // UPGRADE_TIME
    // The process that is to take over, or has:
    enum upgrade_state state;
    int channel; // -1: none
    pid_t successor;
    bool is_child;       // we have started it
    bool is_in_place;    // we come back in its place
    bool is_reload_due;  // SIGHUP has come meanwhile
    bool is_reopen_due;  // or SIGUSR1
    bool is_told_to_end; // during the drain
    bool is_successor_lost;
    int successor_status; // as waitpid() has it, once it is lost
    int64_t deadline;
    struct handover_offer offer;
    // The process that we have taken over from:
    enum upgrade_role role;
    int origin; // -1: it has ended
    pid_t former;
    unsigned ends_passed_on; // how often it told us to end
    unsigned ends_told;      // and how often others did
};

// ---- Taking over, at the start.

// Receives the sockets, if the process has a role to play in an upgrade; before listeners are opened.
bool upgrade_take_over(struct upgrade *upgrade, struct error *error);

// All is open: from now on the other process serves no more. The one place where the process knows from which it has
// taken over: upgrade->former, unless it is UPGRADE_FIRST. (For a stand-in, `former` stays the main process.)
void upgrade_announce(struct upgrade *upgrade);

// It could not start: the other process goes on.
void upgrade_decline(struct upgrade *upgrade);

// ---- Handing over.

// Starts the new process, or says in the log why not.
void upgrade_begin(struct upgrade *upgrade, bool is_in_place);

// Until when something is to be looked at; DEADLINE_NONE.
int64_t upgrade_deadline(const struct upgrade *upgrade);

enum upgrade_news { UPGRADE_NO_NEWS, UPGRADE_SERVES /* the other process; drain */, UPGRADE_FAILED };

// After each notice, and at the deadline.
enum upgrade_news upgrade_look(struct upgrade *upgrade);

bool upgrade_is_under_way(const struct upgrade *upgrade);

// SIGHUP has come. True: it is done later, by whichever process serves then.
bool upgrade_postpones_reload(struct upgrade *upgrade);

// This process has opened the logs anew. If another one is about to take over, it does so, too, once it serves; and the
// one that this one has taken over from, while it drains.
void upgrade_pass_reopening_on(struct upgrade *upgrade);

// After each signal during the drain: whether the process that has taken over asks for the logs to be opened anew.
bool upgrade_is_to_reopen(const struct upgrade *upgrade, int number);

// The process is to end. The new one, if it does not serve yet, ends at once; otherwise it is told to end, too.
void upgrade_give_up(struct upgrade *upgrade);

// Whether the signal that signals_wait() has just returned only tells once more what is known. Who stops a group of
// processes (a service manager, a terminal) sends each of them a signal, and the process that everyone knows passes its
// own on to the other one: that is one end, not two. To be asked once for each signal.
bool upgrade_is_echo(struct upgrade *upgrade, int number);

// What a signal means while this process drains. Why the drain is over at once; NULL: it goes on.
const char *upgrade_hear_in_drain(struct upgrade *upgrade, int number);

// All connections are over. Comes back in the place of the stand-in, and then does not return; or waits for the end of
// the process that stood in, or stands in, for this one, while `manager` is told that this one goes on. False: that one
// failed.
bool upgrade_end(struct upgrade *upgrade, struct service_manager *manager, struct error *error);

#endif
