// Listeners for tests.

#ifndef BITFLOW_TEST_LISTENER_RIG_H
#define BITFLOW_TEST_LISTENER_RIG_H

#include "bitflow/net/listener.h"
#include "net_rig.h"

struct listener rig_listener(const char *text);

uint16_t rig_listener_port(const struct listener *listener, size_t index);

#endif
