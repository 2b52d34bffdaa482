// How often one and the same error is reported: at once, and then at most once in SENTRY_LIMITER_INTERVAL, with the
// number of those that were not. A bounded table; the caller locks.

#ifndef BITFLOW_SRC_SENTRY_LIMITER_H
#define BITFLOW_SRC_SENTRY_LIMITER_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/clock.h"

#define SENTRY_LIMITER_INTERVAL (60 * NS_PER_S)
#define SENTRY_LIMITER_SIZE 128

struct sentry_limiter_entry {
    uint64_t fingerprint; // 0: free
    int64_t reported;     // when
    uint64_t repeated;    // since then
};

// All zero: empty.
struct sentry_limiter {
    struct sentry_limiter_entry entries[SENTRY_LIMITER_SIZE];
};

enum sentry_limit { SENTRY_REPORT, SENTRY_REPEATED, SENTRY_TOO_MANY };

// Whether an error with that fingerprint, which is not 0, is to be reported now (clock_now()); then `*repeated` is how
// often it came since the last report. SENTRY_TOO_MANY: there are more different errors than the table holds.
enum sentry_limit sentry_limiter_pass(struct sentry_limiter *limiter, uint64_t fingerprint, int64_t now,
                                      uint64_t *repeated);

// A hash of the strings (base/hash.h), NULL is as empty; never 0.
uint64_t sentry_fingerprint(const char *const *parts, unsigned count);

#endif
