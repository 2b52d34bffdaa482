// One attempt to connect to one target, the inside of upstream_connect().

#ifndef BITFLOW_SRC_PROXY_UPSTREAM_ATTEMPT_H
#define BITFLOW_SRC_PROXY_UPSTREAM_ATTEMPT_H

#include "upstream.h"

// All steps to upstream->target, within its connect_timeout. On failure the socket is closed.
bool upstream_attempt(struct upstream *upstream, const struct upstream_terms *terms, struct phases *phases,
                      struct failure *failure);

#endif
