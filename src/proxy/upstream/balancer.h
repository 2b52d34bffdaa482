// Which targets a connection tries, in which order: the policy, and what is known of the targets' health. Of the
// targets only atomics are touched; a struct balancer belongs to one connection's thread.
//
// A target that is out (health.h) is passed over while there is another one; when all others have failed it is
// tried nevertheless. Where there is no other target to go to, failures mean nothing.

#ifndef BITFLOW_SRC_PROXY_UPSTREAM_BALANCER_H
#define BITFLOW_SRC_PROXY_UPSTREAM_BALANCER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/config/config.h"
#include "bitflow/proxy/proxy.h"

struct balancer {
    enum balancer_policy policy;
    struct target *targets;
    size_t target_count;
    uint64_t rr_counter;
    struct target *chosen;
    struct target *last; // that was tried; NULL: none yet
    bool *tried;         // by the target's index; NULL until one has failed
};

// `targets`: as many as `settings` has. `rr_counter` numbers the connections that choose a target, which is what
// round-robin goes by. `chosen`: the one target that there is to be tried where the policy is to choose by name; NULL:
// none. All of it is borrowed.
void balancer_init(struct balancer *balancer, const struct proxy_config *settings, struct target *targets,
                   uint64_t rr_counter, struct target *chosen);
void balancer_release(struct balancer *balancer);

// The next target to try, at first and after each failure; NULL: there is none, or no memory. `now` as clock_now() has
// it, here and below.
struct target *balancer_next(struct balancer *balancer, int64_t now);

// What became of the one tried last. They return whether it is out from now on, or is back.
bool balancer_note_failure(struct balancer *balancer, int64_t now);
bool balancer_note_success(struct balancer *balancer, int64_t now);

// The target that serves a client's server name (lower case; empty: it sent none), or NULL. A target's name is that
// server name, in any case, else *.example.com for one label more, else * for all.
struct target *balancer_by_name(struct target *targets, size_t target_count, const char *server_name);

#endif
