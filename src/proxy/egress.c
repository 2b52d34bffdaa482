#include "bitflow/proxy/egress.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/inherited.h"
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

static void drop_session(struct egress *egress)
{
    if (egress->tls != NULL)
        tls_session_release(egress->tls);
    free(egress->tls);
    egress->tls = NULL;
}

// A borrowed target has been spoken to: it is of no use to anybody any more.
static void drop_socket(struct dial_result *dialled)
{
    if (dialled->is_borrowed)
        inherited_return(dialled->fd, true);
    else
        (void)close(dialled->fd);
    dialled->fd = -1;
}

// The name that a target's certificate is to be for. NULL: its address has none.
static const char *host_of(const struct target_config *target)
{
    return target->address.kind == ADDRESS_TCP ? target->address.host : NULL;
}

static bool connect_tls(struct egress *egress, const struct target_config *target, const struct tls_context *context,
                        struct patience *patience, int64_t deadline, struct error *error)
{
    int64_t own = deadline_after(target->tls->handshake_timeout);
    egress->tls = calloc(1, sizeof *egress->tls);
    if (egress->tls == NULL)
        error_set_errno(error, ENOMEM, "cannot begin a TLS handshake");
    else if (tls_connect(context, egress->dialled.fd, host_of(target), patience, own < deadline ? own : deadline,
                         egress->tls, error))
        return true;
    egress->is_tls_failure = true;
    drop_socket(&egress->dialled);
    return false;
}

// TCP's part of an attempt, which a shortage of descriptors delays at first.
static bool connect_socket(struct egress *egress, const struct target_config *target, struct patience *patience,
                           int64_t deadline, struct error *error)
{
    const struct dial_terms terms = {.deadline = deadline};
    for (unsigned tried = 1;; tried++) {
        *error = ERROR_INIT;
        bool connected = dial(&target->address, &terms, patience, &egress->dialled, error);
        egress->resolve_time += egress->dialled.resolve_time;
        egress->connect_time += egress->dialled.connect_time;
        if (connected)
            return true;
        if (error->code != ERROR_NO_DESCRIPTORS || !wait_out_shortage(tried, patience))
            return false;
    }
}

static bool attempt(struct egress *egress, const struct target_config *target, const struct tls_context *context,
                    struct patience *patience, struct error *error)
{
    int64_t deadline = deadline_after(target->connect_timeout);
    egress->attempts++;
    egress->is_tls_failure = false;
    drop_session(egress);
    return connect_socket(egress, target, patience, deadline, error) &&
           (context == NULL || connect_tls(egress, target, context, patience, deadline, error));
}

// All attempts at one target. `error` is the last attempt's.
static bool connect_target(struct egress *egress, const struct egress_plan *plan, size_t index,
                           struct patience *patience, const struct log_context *context, struct error *error)
{
    const struct target_config *target = &plan->settings->targets[index];
    egress->target = target;
    for (int64_t number = 1; number <= target->connect_attempts; number++) {
        *error = ERROR_INIT;
        if (!wait_before(target, number, patience, error))
            return false;
        if (attempt(egress, target, plan->tls[index], patience, error))
            return true;
        if (error->code != ERROR_CANCELLED)
            log_failure(target, number, error, context);
        if (!is_worth_another(error))
            return false;
    }
    return false;
}

static size_t candidate(const struct egress_plan *plan, size_t n)
{
    if (plan->chosen != BALANCER_NO_MORE)
        return n == 0 ? plan->chosen : BALANCER_NO_MORE;
    return balancer_candidate(plan->settings->balancer, plan->settings->target_count, plan->turn, n);
}

bool egress_connect(struct egress *egress, const struct egress_plan *plan, struct patience *patience,
                    const struct log_context *context, struct error *error)
{
    struct error last = ERROR_INIT;
    for (size_t n = 0;; n++) {
        size_t index = candidate(plan, n);
        if (index == BALANCER_NO_MORE)
            break;
        if (connect_target(egress, plan, index, patience, context, &last))
            return true;
        if (!is_worth_another(&last))
            break;
    }
    error_pass(error, &last);
    return false;
}

void egress_release(struct egress *egress)
{
    drop_session(egress);
}
