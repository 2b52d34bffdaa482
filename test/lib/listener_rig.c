#include "listener_rig.h"

struct listener rig_listener(const char *text)
{
    struct address address = rig_address(text, ADDRESS_TO_LISTEN);
    struct listener listener;
    struct error error = ERROR_INIT;
    if (!listener_open(&address, NULL, &listener, &error))
        fail_msg("%s: %s", text, error.text);
    return listener;
}

uint16_t rig_listener_port(const struct listener *listener, size_t index)
{
    struct endpoint endpoint;
    assert_true(socket_local(listener->sockets[index], &endpoint));
    return rig_port(&endpoint);
}
