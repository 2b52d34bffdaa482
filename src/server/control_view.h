// What the control socket tells of the configuration in force: made by the main thread, and never written once made.
// Shared by reference count; any thread.

#ifndef BITFLOW_SRC_SERVER_CONTROL_VIEW_H
#define BITFLOW_SRC_SERVER_CONTROL_VIEW_H

#include <jansson.h>
#include <stddef.h>

#include "bitflow/config/config.h"
#include "bitflow/proxy/proxy.h"
#include "listeners.h"

struct control_view_proxy {
    struct generation *generation; // NULL: its listener's sockets failed, and are closed
    json_t *sockets;               // the addresses that it really listens on, as texts
};

struct control_view {
    _Atomic unsigned references;
    const struct config *config;
    struct control_view_proxy *proxies; // by the configuration's order
};

// The main thread's. With one reference, the caller's. NULL: no memory.
struct control_view *control_view_create(const struct config *config, const struct listeners *listeners);
struct control_view *control_view_hold(struct control_view *view);
// Nulls the pointer. Accepts NULL.
void control_view_drop(struct control_view **view);

#endif
