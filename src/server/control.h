// The control socket: by HTTP (control/http_server.h), whoever runs the process looks at it and tells it what to do.
// docs/control.md has what can be asked. Its address changes by a reload, all or nothing, as listeners do.
//
// The server's thread answers. What it tells of the configuration in force is published to it; what it is told to do
// goes to the main thread as an order (orders.h), but for the end of a connection. The functions below are the main
// thread's.

#ifndef BITFLOW_SRC_SERVER_CONTROL_H
#define BITFLOW_SRC_SERVER_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/base/mutex.h"
#include "bitflow/config/config.h"
#include "bitflow/control/http_server.h"
#include "bitflow/net/listener.h"
#include "bitflow/net/unix_access.h"

struct service;
struct control_view;
struct order;

enum control_stage { CONTROL_STARTING, CONTROL_SERVING, CONTROL_DRAINING };

// What is told of the process. Times are of base/clock.h.
struct control_process {
    enum control_stage stage;
    int64_t begin;
    int64_t since;       // when it came to that stage
    int64_t last_moment; // when it closes its connections, once its listeners are closed; 0: they are not
    pid_t successor;     // the process that has taken over; 0: none
};

struct control {
    struct service *service;
    struct http_server *server; // NULL: none was configured so far
    struct listener listener;   // the server's, which closes it; without a socket: off
    // Between control_prepare() and what follows:
    bool is_new; // `prepared` is to take the place of `listener`
    struct listener prepared;
    bool is_access_changed;
    struct unix_access access_before;

    struct mutex lock;
    struct control_view *view GUARDED; // by the lock; NULL: nothing is in force yet
    struct control_process process GUARDED;
    // The server's thread's own; the question is whether the main thread answers.
    unsigned waiting;       // clients that wait for what they have ordered
    struct order *question; // NULL: none is open
    int64_t asked;          // when it was given
};

void control_init(struct control *control, struct service *service);

// Does all that can fail before `config` is put in force; then one of the two below is due. False: the error begins
// with the key, and neither is due.
bool control_prepare(struct control *control, const struct config *config, struct error *error);
void control_commit(struct control *control);
void control_abandon(struct control *control);

// What is told from now on: the service's configuration, and its listeners as they are. Where there is no memory for
// it, what was told before.
void control_publish(struct control *control);

// A process that was to take over has failed, and may have left another access to the socket's file.
void control_reclaim(struct control *control);

// `successor` has taken the socket over, and is the one to be asked there. This process is asked beside it from now on,
// at path.PID, and drains; where it cannot be asked, the log says why.
void control_leave(struct control *control, pid_t successor);

// What is told of the process: starting at first, then serving, draining. /ready says yes while it serves.
void control_set_stage(struct control *control, enum control_stage stage);
void control_set_last_moment(struct control *control, int64_t deadline);

// Answers who has asked, and ends. What it has looked at may be freed.
void control_release(struct control *control);

#endif
