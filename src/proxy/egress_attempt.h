// One attempt to connect to one target, the inside of egress_connect().

#ifndef BITFLOW_SRC_PROXY_EGRESS_ATTEMPT_H
#define BITFLOW_SRC_PROXY_EGRESS_ATTEMPT_H

#include "bitflow/proxy/egress.h"

// All steps, within the target's connect_timeout. On failure the socket is closed, and the error is set.
bool egress_attempt(struct egress *egress, const struct egress_plan *plan, size_t index, struct patience *patience,
                    struct error *error);

#endif
