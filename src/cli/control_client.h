// One request to a control socket, by libcurl.

#ifndef BITFLOW_SRC_CLI_CONTROL_CLIENT_H
#define BITFLOW_SRC_CLI_CONTROL_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/address.h"

struct control_answer {
    long status; // HTTP's
    char *body;  // zero-terminated; to be freed
    size_t length;
};

// `path` with its query. False: nobody answered, or not as a control socket does, and the error says so for people.
bool control_ask(const struct address *address, const char *method, const char *path, int64_t timeout,
                 struct control_answer *answer, struct error *error);

// Where to look for it: --socket, --config, the environment's BITFLOW_CONTROL, or else where packages have it. The
// first that is not NULL counts.
bool control_locate(const char *socket, const char *config, struct address *address, struct error *error);

#define CONTROL_DEFAULT_SOCKET "unix:///run/bitflow/control.sock"

#endif
