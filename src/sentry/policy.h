// What is sent, and when: how often one and the same error is reported, and what a server's answer means for what is
// sent next. No clock and no network of its own, and no lock: one thread at a time.
// https://develop.sentry.dev/sdk/expected-features/rate-limiting/

#ifndef BITFLOW_SRC_SENTRY_POLICY_H
#define BITFLOW_SRC_SENTRY_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/clock.h"

// An error is reported at once, and then at most once in SENTRY_LIMITER_INTERVAL, with the number of those that were
// not. A bounded table.
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

#define SENTRY_ATTEMPTS_MAX 8 // of one event, which takes about two minutes
#define SENTRY_BACKOFF_MIN NS_PER_S
#define SENTRY_BACKOFF_MAX (60 * NS_PER_S)
#define SENTRY_LIMIT_DEFAULT (60 * NS_PER_S) // what a 429 without a time means
#define SENTRY_LIMIT_MAX (INT64_C(24) * 3600 * NS_PER_S)

struct sentry_answer {
    int status;             // of HTTP; 0: there was no answer
    char error[256];        // what libcurl says about that
    char retry_after[64];   // headers' values; empty: it has none
    char rate_limits[2048]; // of all lines of that name, as one list
};

struct sentry_policy {
    int64_t limited_until; // clock_now(); the server wants nothing before
    int64_t retry_at;      // clock_now(); the server did not answer, or not well
    int64_t backoff;       // ns, of the last failure; 0: none since the last success
};

enum sentry_verdict {
    SENTRY_TAKEN,    // the server has it
    SENTRY_LIMITED,  // it has refused it, and counted it, as it wants none for now
    SENTRY_REFUSED,  // it refuses this event; another may be right
    SENTRY_TRY_AGAIN // the same event, at retry_at
};

// `now` is clock_now(), `wall` clock_wall().
enum sentry_verdict sentry_policy_judge(struct sentry_policy *policy, const struct sentry_answer *answer, int64_t now,
                                        int64_t wall);

// The value of Retry-After (RFC 9110, 10.2.3) as ns from now; -1: it is neither a number nor a date.
int64_t sentry_retry_after(const char *value, int64_t wall);

// The longest time, ns, for which X-Sentry-Rate-Limits bars errors; 0: it does not.
int64_t sentry_rate_limit(const char *value);

#endif
