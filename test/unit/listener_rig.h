// Listeners for tests.

#ifndef BITFLOW_TEST_LISTENER_RIG_H
#define BITFLOW_TEST_LISTENER_RIG_H

#include "bitflow/net/listener.h"
#include "net_rig.h"

static inline struct listener rig_listener(const char *text)
{
    struct address address = rig_address(text, ADDRESS_TO_LISTEN);
    struct listener listener;
    struct error error = ERROR_INIT;
    if (!listener_open(&address, &listener, &error))
        fail_msg("%s: %s", text, error.text);
    return listener;
}

static inline uint16_t rig_listener_port(const struct listener *listener, size_t index)
{
    struct endpoint endpoint;
    assert_true(socket_local(listener->sockets[index], &endpoint));
    return rig_port(&endpoint);
}

#endif
