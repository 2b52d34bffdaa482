// Datagram receivers for the tests of statsd.

#ifndef BITFLOW_TEST_STATSD_RIG_H
#define BITFLOW_TEST_STATSD_RIG_H

#include "net_rig.h"

// A receiver at a literal (port 0: any) or a Unix address; `text` is its address as the configuration writes it.
int rig_receiver(const char *address, char text[ENDPOINT_TEXT_SIZE]);

// The next datagram that says something, as a text.
const char *rig_datagram(int fd);

bool rig_is_silent(int fd);

#endif
