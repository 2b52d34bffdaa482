#include "upstream.h"

#include <stdlib.h>

#include "balancer.h"
#include "bitflow/base/clock.h"
#include "upstream_attempt.h"

#define JITTER_PERCENT 20

int64_t upstream_backoff(int64_t backoff, int64_t attempt, uint32_t random)
{
    if (backoff > INT64_MAX / 2)
        backoff = INT64_MAX / 2; // room for the variation; 146 years
    int64_t most = backoff > UPSTREAM_BACKOFF_MAX ? backoff : UPSTREAM_BACKOFF_MAX;
    int64_t wait = backoff;
    for (int64_t doubled = 2; doubled < attempt && wait < most; doubled++)
        wait = wait > most / 2 ? most : wait * 2;
    int64_t spread = wait / 100 * JITTER_PERCENT;
    // -spread .. +spread, in 2^16 steps
    return wait - spread + 2 * spread / UINT16_MAX * (int64_t)(random & UINT16_MAX);
}

static bool wait_before(const struct target_config *target, int64_t attempt, struct client_watch *watch,
                        struct failure *failure)
{
    if (attempt == 1)
        return true;
    // Without a backoff, the client is still looked at.
    int64_t wait = target->connect_backoff == 0 ? 0 : upstream_backoff(target->connect_backoff, attempt, arc4random());
    if (client_watch_poll(watch, NULL, 0, clock_now() + wait) != CLIENT_WATCH_GONE)
        return true;
    error_set(&failure->error, ERROR_CANCELLED, "the client left");
    return failure_set(failure, CLOSE_CLIENT_LEFT);
}

static void log_failure(const struct target_config *target, int64_t attempt, const struct error *error,
                        const struct log_context *context)
{
    char number[LOG_NUMBER_SIZE];
    log_warn(context, "cannot connect to the target", "target", target->name, "attempt", log_number(number, attempt),
             "error", error->text, NULL);
}

// Being out of descriptors, ports, threads or memory is our own trouble, which another attempt would only add to.
static bool is_worth_another(const struct error *error)
{
    switch (error->code) {
    case ERROR_CANCELLED:
    case ERROR_NO_DESCRIPTORS:
    case ERROR_NO_PORTS:
    case ERROR_NO_THREADS:
    case ERROR_NO_MEMORY:
        return false;
    default:
        return true;
    }
}

static void drop_session(struct upstream *upstream)
{
    if (upstream->tls != NULL)
        tls_session_release(upstream->tls);
    free(upstream->tls);
    upstream->tls = NULL;
}

static void count_attempt(const struct upstream *upstream, const struct failure *failure, enum phase step)
{
    struct target_metrics *metrics = upstream->target->metrics;
    metric_add(&metrics->attempts, 1);
    if (failure->reason == CLOSE_NONE)
        return;
    metric_add(&metrics->failed[failure->reason], 1);
    if (step != PHASE_TARGET_HANDSHAKE)
        return;
    enum tls_failure why = upstream->tls != NULL ? upstream->tls->info.failure : TLS_FAILURE_OUT_OF_MEMORY;
    metric_add(&metrics->handshake_failed[why], 1);
}

// All attempts at one target. `failure` is the last attempt's.
static bool connect_target(struct upstream *upstream, const struct upstream_terms *terms, struct phases *phases,
                           struct failure *failure)
{
    const struct target_config *target = upstream->target->settings;
    for (int64_t number = 1; number <= target->connect_attempts; number++) {
        *failure = (struct failure){.reason = CLOSE_NONE};
        if (!wait_before(target, number, terms->watch, failure))
            return false;
        drop_session(upstream);
        bool is_connected = upstream_attempt(upstream, terms, phases, failure);
        if (metrics_are_on(terms->generation->proxy->metrics))
            count_attempt(upstream, failure, phases->step);
        if (is_connected)
            return true;
        if (failure->error.code != ERROR_CANCELLED)
            log_failure(target, number, &failure->error, terms->context);
        if (!is_worth_another(&failure->error))
            return false;
    }
    return false;
}

void upstream_leave(struct upstream *upstream)
{
    if (upstream->is_counted)
        target_leave(upstream->target);
    upstream->is_counted = false;
}

static void enter_target(struct upstream *upstream, struct target *target)
{
    upstream_leave(upstream);
    target_enter(target);
    upstream->target = target;
    upstream->is_counted = true;
}

static void note_success(const struct upstream *upstream, struct balancer *balancer, const struct log_context *context)
{
    if (balancer_note_success(balancer, clock_now()))
        log_info(context, "the target is back", "target", upstream->target->settings->name, NULL);
}

static void note_failure(const struct upstream *upstream, struct balancer *balancer, const struct log_context *context)
{
    const struct target_config *target = upstream->target->settings;
    char number[LOG_NUMBER_SIZE], time[LOG_NUMBER_SIZE];
    if (balancer_note_failure(balancer, clock_now()))
        log_warn(context, "the target is passed over for now", "target", target->name, "failures",
                 log_number(number, target->max_fails), "for_ms", log_number(time, target->fail_timeout / NS_PER_MS),
                 NULL);
}

bool upstream_connect(struct upstream *upstream, const struct upstream_terms *terms, struct phases *phases,
                      struct failure *failure)
{
    const struct generation *generation = terms->generation;
    struct balancer balancer;
    struct target *target;
    struct failure last = {.reason = CLOSE_NONE};
    bool is_connected = false;
    size_t failed = 0;
    balancer_init(&balancer, generation->settings, generation->targets,
                  atomic_fetch_add_explicit(&generation->proxy->rr_counter, 1, memory_order_relaxed), terms->chosen);
    while ((target = balancer_next(&balancer, clock_now())) != NULL) {
        enter_target(upstream, target);
        is_connected = connect_target(upstream, terms, phases, &last);
        if (is_connected) {
            note_success(upstream, &balancer, terms->context);
            break;
        }
        failed++;
        if (last.error.code == ERROR_NO_PORTS) // to another target there may be some
            continue;
        // What is our own trouble, or the client's, says nothing about the target.
        if (!is_worth_another(&last.error))
            break;
        note_failure(upstream, &balancer, terms->context);
    }
    balancer_release(&balancer);
    if (is_connected)
        return true;
    upstream_leave(upstream);
    if (failed > 1 && is_worth_another(&last.error))
        error_wrap(&failure->error, &last.error, "all %zu targets failed, the last", failed);
    else
        error_pass(&failure->error, &last.error);
    return failure_set(failure, last.reason);
}

void upstream_release(struct upstream *upstream)
{
    drop_session(upstream);
}
