// Passive health of a target, as nginx has it: after `max_fails` failures within `fail_timeout` it is out for
// `fail_timeout`; then one connection tries it, and it is back, or out for as long again. Successes in between do not
// make up for failures: those are forgotten once `fail_timeout` is over. One atomic word, no lock; any thread.

#ifndef BITFLOW_SRC_PROXY_UPSTREAM_HEALTH_H
#define BITFLOW_SRC_PROXY_UPSTREAM_HEALTH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/shared.h"

// Zeroed: nothing has failed.
struct health {
    struct shared shared; // where it is found again by who reaches a target by the same route (proxy/target.h)
    // The failures so far, in the lower 16 bits; above them, in ms of CLOCK_MONOTONIC, since when: the first of them,
    // or when it went out, or was last tried.
    _Atomic uint64_t state;
};

struct health_rule {
    int64_t max_fails;    // up to HEALTH_MAX_FAILS; 0: it is never out
    int64_t fail_timeout; // ns, above 0
};

#define HEALTH_MAX_FAILS 1000

enum health_verdict {
    HEALTH_GOOD,
    HEALTH_DUE, // it is out, but may be tried: health_claim() it first
    HEALTH_OUT,
};

// `now` as clock_now() has it, here and below.
enum health_verdict health_judge(const struct health *health, const struct health_rule *rule, int64_t now);

// Of the connections that find it due, one gets true; for the others it is out.
bool health_claim(struct health *health, const struct health_rule *rule, int64_t now);

// Returns whether it went out by this failure, having been good before.
bool health_note_failure(struct health *health, const struct health_rule *rule, int64_t now);

// Returns whether it was out until now.
bool health_note_success(struct health *health, const struct health_rule *rule, int64_t now);

#endif
