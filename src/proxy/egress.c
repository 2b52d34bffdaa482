#include "bitflow/proxy/egress.h"

#include <stdlib.h>

#include "bitflow/base/clock.h"
#include "bitflow/proxy/balancer.h"

#define JITTER_PERCENT 20

int64_t egress_backoff(int64_t backoff, int64_t attempt, uint32_t random)
{
    if (backoff > INT64_MAX / 2)
        backoff = INT64_MAX / 2; // room for the variation; 146 years
    int64_t most = backoff > EGRESS_BACKOFF_MAX ? backoff : EGRESS_BACKOFF_MAX;
    int64_t wait = backoff;
    for (int64_t doubled = 2; doubled < attempt && wait < most; doubled++)
        wait = wait > most / 2 ? most : wait * 2;
    int64_t spread = wait / 100 * JITTER_PERCENT;
    // -spread .. +spread, in 2^16 steps
    return wait - spread + 2 * spread / UINT16_MAX * (int64_t)(random & UINT16_MAX);
}

static bool wait_before(const struct target_config *target, int64_t attempt, struct patience *patience,
                        struct error *error)
{
    if (attempt == 1)
        return true;
    // Without a backoff, the client is still looked at.
    int64_t wait = target->connect_backoff == 0 ? 0 : egress_backoff(target->connect_backoff, attempt, arc4random());
    if (patience_poll(patience, NULL, 0, clock_now() + wait) != PATIENCE_GONE)
        return true;
    error_set(error, ERROR_CANCELLED, "the client left");
    return false;
}

static void log_failure(const struct target_config *target, int64_t attempt, const struct error *error,
                        const struct log_context *context)
{
    char number[LOG_NUMBER_SIZE];
    log_warn(context, "cannot connect to the target", "target", target->name, "attempt", log_number(number, attempt),
             "error", error->text, NULL);
}

// Being out of descriptors, threads or memory is our own trouble, which another attempt would only add to.
static bool is_worth_another(const struct error *error)
{
    switch (error->code) {
    case ERROR_CANCELLED:
    case ERROR_NO_DESCRIPTORS:
    case ERROR_NO_THREADS:
    case ERROR_NO_MEMORY:
        return false;
    default:
        return true;
    }
}

// In a rush of clients, each has a descriptor and none is left for their targets. As some give up, others go on, so
// each waits a little and not equally long.
#define SHORTAGE_TRIES 5
#define SHORTAGE_WAIT_MIN (10 * NS_PER_MS)
#define SHORTAGE_WAIT_SPREAD 50 // ms

static bool wait_out_shortage(unsigned tried, struct patience *patience)
{
    int64_t wait = SHORTAGE_WAIT_MIN + (int64_t)arc4random_uniform(SHORTAGE_WAIT_SPREAD) * NS_PER_MS;
    return tried < SHORTAGE_TRIES && patience_poll(patience, NULL, 0, deadline_after(wait)) == PATIENCE_DEADLINE;
}

// One attempt, which a shortage of descriptors delays at first.
static bool attempt_dial(struct egress *egress, const struct target_config *target, struct patience *patience,
                         struct error *error)
{
    int64_t deadline = deadline_after(target->connect_timeout);
    egress->attempts++;
    for (unsigned tried = 1;; tried++) {
        *error = ERROR_INIT;
        bool connected = dial(&target->address, patience, deadline, &egress->dialled, error);
        egress->resolve_time += egress->dialled.resolve_time;
        egress->connect_time += egress->dialled.connect_time;
        if (connected)
            return true;
        if (error->code != ERROR_NO_DESCRIPTORS || !wait_out_shortage(tried, patience))
            return false;
    }
}

// All attempts at one target. `error` is the last attempt's.
static bool connect_target(struct egress *egress, const struct target_config *target, struct patience *patience,
                           const struct log_context *context, struct error *error)
{
    egress->target = target;
    for (int64_t attempt = 1; attempt <= target->connect_attempts; attempt++) {
        *error = ERROR_INIT;
        if (!wait_before(target, attempt, patience, error))
            return false;
        if (attempt_dial(egress, target, patience, error))
            return true;
        if (error->code != ERROR_CANCELLED)
            log_failure(target, attempt, error, context);
        if (!is_worth_another(error))
            return false;
    }
    return false;
}

bool egress_connect(struct egress *egress, const struct proxy_config *settings, uint64_t turn,
                    struct patience *patience, const struct log_context *context, struct error *error)
{
    struct error last = ERROR_INIT;
    for (size_t n = 0;; n++) {
        size_t index = balancer_candidate(settings->balancer, settings->target_count, turn, n);
        if (index == BALANCER_NO_MORE)
            break;
        if (connect_target(egress, &settings->targets[index], patience, context, &last))
            return true;
        if (!is_worth_another(&last))
            break;
    }
    error_pass(error, &last);
    return false;
}
