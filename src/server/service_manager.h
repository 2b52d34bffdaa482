// Tells the service manager that started the process, such as systemd, how it is: ready, reloading, ending, how many
// connections it has, and that nothing in it hangs. The protocol is sd_notify(3)'s, datagrams to the socket that
// NOTIFY_SOCKET names; there is no need of its library. Without NOTIFY_SOCKET nothing is done.
//
// No call waits. What the manager does not take (its socket is full, or gone) is kept, in order, and sent again by
// service_manager_attend(); of more than a few messages the oldest are lost. The main thread's.

#ifndef BITFLOW_SRC_SERVER_SERVICE_MANAGER_H
#define BITFLOW_SRC_SERVER_SERVICE_MANAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bitflow/net/address.h"
#include "bitflow/proxy/proxy.h"
#include "listeners.h"

#define SERVICE_MANAGER_STATUS_SIZE 160
#define SERVICE_MANAGER_MESSAGE_SIZE (SERVICE_MANAGER_STATUS_SIZE + 160)
#define SERVICE_MANAGER_MESSAGES_MAX 4

enum service_phase {
    SERVICE_STARTING,
    SERVICE_RUNNING,
    SERVICE_RELOADING,
    SERVICE_UPGRADING, // another process stands in for this one, which the manager knows
    SERVICE_ENDING,
};

struct service_manager {
    const struct runtime *runtime; // NULL, like `listeners`: this process serves nobody
    struct listeners *listeners;
    struct endpoint endpoint; // length 0: there is none
    int fd;
    enum service_phase phase;
    bool is_reload_refused;                   // the last one
    bool has_successor;                       // which speaks for the service now
    bool is_failing;                          // it did not take the last message
    bool is_unanswered;                       // a listener's thread has not answered
    int64_t watchdog_time;                    // within which it wants to hear of us, ns; 0: it does not
    int64_t watchdog_due;                     // base/clock.h
    int64_t status_due;                       // base/clock.h
    char status[SERVICE_MANAGER_STATUS_SIZE]; // what it knows
    // What it has not taken yet, the oldest first.
    char messages[SERVICE_MANAGER_MESSAGES_MAX][SERVICE_MANAGER_MESSAGE_SIZE];
    size_t message_count;
};

// By NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. The last one is taken out of the environment, so that a successor,
// which inherits the rest, does not take itself for another. Before there are other threads; `runtime` and `listeners`
// need not be ready yet; both may be NULL.
void service_manager_init(struct service_manager *manager, const struct runtime *runtime, struct listeners *listeners);
void service_manager_release(struct service_manager *manager);

// The listeners serve. `is_successor`: of a process that has not ended yet, and says so for us when it hands over.
void service_manager_ready(struct service_manager *manager, bool is_successor);

// A reload begins, and is over: `is_refused` is told until the next one, as the old configuration is in force.
void service_manager_reloading(struct service_manager *manager);
void service_manager_reloaded(struct service_manager *manager, bool is_refused);

// Another process stands in for this one, which goes on telling the watchdog.
void service_manager_upgrading(struct service_manager *manager);

// This process is about to become the program anew. It says service_manager_returned() when that serves; in between
// nobody can tell that it goes on, so the watchdog waits for longer. service_manager_upgrading(), if it fails.
void service_manager_returning(struct service_manager *manager);
void service_manager_returned(struct service_manager *manager);

// The process was told to end. However long that takes, the manager is to wait for it: it is asked for more time again
// and again, as long as service_manager_attend() is called. May be called twice.
void service_manager_ending(struct service_manager *manager);

// `successor` is the service's main process from now on, and serves. Nothing more is said by this one. To be called
// before the successor sends anything, since the manager listens to the main process only.
void service_manager_hand_over(struct service_manager *manager, pid_t successor);

// Does what is due, and returns when it is to be called again (base/clock.h).
int64_t service_manager_attend(struct service_manager *manager);

// The next signal (base/signals.h), or 0 at the deadline. Meanwhile the manager is told what is due, and so is the log
// of lines that were left out. A signal that tells the process to end is told to the manager.
int service_manager_wait(struct service_manager *manager, int64_t deadline);

#endif
