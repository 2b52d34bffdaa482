// Where the control socket of the process with a configuration is, for commands that talk to that process. The rest of
// the file is not looked at: it may be about to be refused, which such a command is then to show.

#ifndef BITFLOW_CONFIG_CONTROL_ADDRESS_H
#define BITFLOW_CONFIG_CONTROL_ADDRESS_H

#include <stdbool.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"

// ERROR_INVALID: the file, or application.control.address in it, cannot be read, or is not there.
bool control_address_find(const char *path, struct address *address, struct error *error);

#endif
