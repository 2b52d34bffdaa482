// Which targets a connection tries, in which order: pure policy, no state, any thread.

#ifndef BITFLOW_PROXY_BALANCER_H
#define BITFLOW_PROXY_BALANCER_H

#include <stddef.h>
#include <stdint.h>

#include "bitflow/config/config.h"

#define BALANCER_NO_MORE SIZE_MAX

// The index of the n-th target (from 0) to try, or BALANCER_NO_MORE. `turn` numbers the proxy's connections, which is
// what round-robin goes by.
size_t balancer_candidate(enum balancer_policy policy, size_t target_count, uint64_t turn, size_t n);

// The index of the target that serves a client's server name (lower case; empty: it sent none), or BALANCER_NO_MORE. A
// target's name is that server name, in any case, else *.example.com for one label more, else * for all.
size_t balancer_by_name(const struct target_config *targets, size_t target_count, const char *server_name);

#endif
