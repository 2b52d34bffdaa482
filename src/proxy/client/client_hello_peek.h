// Looks at a client's ClientHello without consuming it: what is relayed, or shaken hands with, afterwards begins with
// it. Waits without spinning until as much has come as is needed (SO_RCVLOWAT), in any number of segments and records,
// up to CLIENT_HELLO_MAX bytes and until the deadline. Blocks; the connection's own thread.

#ifndef BITFLOW_SRC_PROXY_CLIENT_CLIENT_HELLO_PEEK_H
#define BITFLOW_SRC_PROXY_CLIENT_CLIENT_HELLO_PEEK_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/wire/client_hello.h"

// False: ERROR_TIMEOUT, ERROR_INVALID (it is no ClientHello, or not a whole one; the text says what came instead),
// ERROR_CANCELLED (the client left without a byte), ERROR_NO_MEMORY, ERROR_SYSTEM.
bool client_hello_peek(int fd, int64_t deadline, struct client_hello *hello, struct error *error);

#endif
