#include "bitflow/proxy/metrics.h"

#include "bitflow/base/compiler.h"
#include "bitflow/base/invariant.h"

void metrics_init(struct metrics *metrics)
{
    atomic_init(&metrics->is_on, false);
    mutex_init(&metrics->lock);
    mutex_lock(&metrics->lock);
    LIST_INIT(&metrics->proxies);
    metrics->is_sent = false;
    mutex_unlock(&metrics->lock);
}

static bool are_settled(const struct metric_counter *counters, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!metric_is_settled(&counters[i]))
            return false;
    return true;
}

static bool is_target_settled(const struct target_metrics *target)
{
    return metric_is_settled(&target->attempts) && are_settled(target->failed, CLOSE_REASON_COUNT) &&
           are_settled(target->handshake_failed, TLS_FAILURE_COUNT);
}

static bool is_proxy_settled(const struct proxy_metrics *proxy)
{
    for (size_t i = 0; i < PROXY_TIME_COUNT; i++)
        if (!metric_timer_is_empty(&proxy->times[i]))
            return false;
    return metric_is_settled(&proxy->accepted) && are_settled(proxy->rejected, CLOSE_REASON_COUNT) &&
           are_settled(proxy->closed, CLOSE_REASON_COUNT) && are_settled(proxy->bytes, 2) &&
           are_settled(proxy->handshake_failed, TLS_FAILURE_COUNT);
}

static void settle_all(struct metric_counter *counters, size_t count)
{
    for (size_t i = 0; i < count; i++)
        metric_settle(&counters[i]);
}

static void settle_target(struct target_metrics *target)
{
    metric_settle(&target->attempts);
    settle_all(target->failed, CLOSE_REASON_COUNT);
    settle_all(target->handshake_failed, TLS_FAILURE_COUNT);
}

static void settle_proxy(struct proxy_metrics *proxy)
{
    struct metric_times times;
    for (size_t i = 0; i < PROXY_TIME_COUNT; i++)
        metric_timer_take(&proxy->times[i], &times);
    metric_settle(&proxy->accepted);
    settle_all(proxy->rejected, CLOSE_REASON_COUNT);
    settle_all(proxy->closed, CLOSE_REASON_COUNT);
    settle_all(proxy->bytes, ARRAY_LENGTH(proxy->bytes));
    settle_all(proxy->handshake_failed, TLS_FAILURE_COUNT);
}

// Frees those of the targets that are nobody's and have nothing to be sent.
static void tidy_targets(const struct metrics *metrics, struct proxy_metrics *proxy) REQUIRES(metrics->lock)
{
    struct shared *next;
    for (struct shared *at = LIST_FIRST(&proxy->targets); at != NULL; at = next) {
        next = LIST_NEXT(at, link);
        if (at->references == 0 && (!metrics->is_sent || is_target_settled((struct target_metrics *)at)))
            shared_free(at);
    }
}

// The same of a proxy.
static void tidy_proxy(const struct metrics *metrics, struct proxy_metrics *proxy) REQUIRES(metrics->lock)
{
    tidy_targets(metrics, proxy);
    if (proxy->shared.references > 0 || !LIST_EMPTY(&proxy->targets) || (metrics->is_sent && !is_proxy_settled(proxy)))
        return;
    shared_free(proxy);
}

// What was counted while nothing was sent is not to come as one lump.
static void begin_sending(struct metrics *metrics) REQUIRES(metrics->lock)
{
    struct shared *at, *target;
    LIST_FOREACH(at, &metrics->proxies, link) {
        struct proxy_metrics *proxy = (struct proxy_metrics *)at;
        settle_proxy(proxy);
        LIST_FOREACH(target, &proxy->targets, link)
            settle_target((struct target_metrics *)target);
    }
}

void metrics_set_on(struct metrics *metrics, bool is_on, bool is_sent)
{
    mutex_lock(&metrics->lock);
    bool was_on = atomic_exchange_explicit(&metrics->is_on, is_on, memory_order_relaxed);
    if (was_on && is_sent && !metrics->is_sent)
        begin_sending(metrics);
    metrics->is_sent = is_sent;
    struct shared *next;
    for (struct shared *at = LIST_FIRST(&metrics->proxies); at != NULL; at = next) {
        next = LIST_NEXT(at, link);
        tidy_proxy(metrics, (struct proxy_metrics *)at);
    }
    mutex_unlock(&metrics->lock);
}

void metrics_release(struct metrics *metrics)
{
    metrics_set_on(metrics, false, false);
    mutex_lock(&metrics->lock);
    INVARIANT(LIST_EMPTY(&metrics->proxies));
    mutex_unlock(&metrics->lock);
    mutex_release(&metrics->lock);
}

struct proxy_metrics *proxy_metrics_hold(struct metrics *metrics, const char *name)
{
    mutex_lock(&metrics->lock);
    struct proxy_metrics *proxy = shared_hold(&metrics->proxies, name, sizeof *proxy);
    if (proxy != NULL && proxy->all == NULL) // a new one; what is found is being read without the lock
        proxy->all = metrics;
    mutex_unlock(&metrics->lock);
    return proxy;
}

void proxy_metrics_drop(struct proxy_metrics **proxy)
{
    struct proxy_metrics *dropped = *proxy;
    *proxy = NULL;
    if (dropped == NULL)
        return;
    struct metrics *metrics = dropped->all;
    mutex_lock(&metrics->lock);
    (void)shared_drop(dropped);
    tidy_proxy(metrics, dropped);
    mutex_unlock(&metrics->lock);
}

struct target_metrics *target_metrics_hold(struct proxy_metrics *proxy, const char *name)
{
    mutex_lock(&proxy->all->lock);
    struct target_metrics *target = shared_hold(&proxy->targets, name, sizeof *target);
    mutex_unlock(&proxy->all->lock);
    return target;
}

void target_metrics_drop(struct proxy_metrics *proxy, struct target_metrics **target)
{
    struct target_metrics *dropped = *target;
    *target = NULL;
    if (dropped == NULL)
        return;
    mutex_lock(&proxy->all->lock);
    (void)shared_drop(dropped);
    tidy_targets(proxy->all, proxy);
    mutex_unlock(&proxy->all->lock);
}

// The one after `before` in the list, or its first, with a reference.
static void *hold_next(const struct shared_list *list, const void *before)
{
    struct shared *next = before == NULL ? LIST_FIRST(list) : LIST_NEXT((const struct shared *)before, link);
    if (next != NULL)
        next->references++;
    return next;
}

struct proxy_metrics *metrics_next_proxy(struct metrics *metrics, struct proxy_metrics *before)
{
    mutex_lock(&metrics->lock);
    struct proxy_metrics *next = hold_next(&metrics->proxies, before);
    if (next != NULL)
        next->readers++;
    if (before != NULL) {
        before->readers--;
        if (shared_drop(before))
            tidy_proxy(metrics, before);
    }
    mutex_unlock(&metrics->lock);
    return next;
}

struct target_metrics *metrics_next_target(struct proxy_metrics *proxy, struct target_metrics *before)
{
    mutex_lock(&proxy->all->lock);
    struct target_metrics *next = hold_next(&proxy->targets, before);
    if (next != NULL)
        next->readers++;
    if (before != NULL) {
        before->readers--;
        if (shared_drop(before))
            tidy_targets(proxy->all, proxy);
    }
    mutex_unlock(&proxy->all->lock);
    return next;
}

bool proxy_metrics_are_used(struct proxy_metrics *proxy)
{
    mutex_lock(&proxy->all->lock);
    bool are_used = proxy->shared.references > proxy->readers;
    mutex_unlock(&proxy->all->lock);
    return are_used;
}

bool target_metrics_are_used(struct proxy_metrics *proxy, const struct target_metrics *target)
{
    mutex_lock(&proxy->all->lock);
    bool are_used = target->shared.references > target->readers;
    mutex_unlock(&proxy->all->lock);
    return are_used;
}
