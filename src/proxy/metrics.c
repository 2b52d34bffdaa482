#include "bitflow/proxy/metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void metrics_init(struct metrics *metrics)
{
    atomic_init(&metrics->is_on, false);
    mutex_init(&metrics->lock);
    mutex_lock(&metrics->lock);
    LIST_INIT(&metrics->proxies);
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

static bool is_on(const struct metrics *metrics)
{
    return atomic_load_explicit(&metrics->is_on, memory_order_relaxed);
}

// Frees those of the targets that are nobody's and have nothing to be reported; `all`: every one.
static void tidy_targets(const struct metrics *metrics, struct proxy_metrics *proxy, bool all) REQUIRES(metrics->lock)
{
    struct target_metrics *target = LIST_FIRST(&proxy->targets);
    while (target != NULL) {
        struct target_metrics *next = LIST_NEXT(target, link);
        if (all || (target->references == 0 && (!is_on(metrics) || is_target_settled(target)))) {
            LIST_REMOVE(target, link);
            free(target->name);
            free(target);
        }
        target = next;
    }
}

// The same of a proxy.
static void tidy_proxy(const struct metrics *metrics, struct proxy_metrics *proxy) REQUIRES(metrics->lock)
{
    if (proxy->references > 0 || (is_on(metrics) && !(LIST_EMPTY(&proxy->targets) && is_proxy_settled(proxy))))
        return;
    tidy_targets(metrics, proxy, true);
    LIST_REMOVE(proxy, link);
    free(proxy->name);
    free(proxy);
}

void metrics_set_on(struct metrics *metrics, bool on)
{
    mutex_lock(&metrics->lock);
    atomic_store_explicit(&metrics->is_on, on, memory_order_relaxed);
    struct proxy_metrics *proxy = LIST_FIRST(&metrics->proxies);
    while (proxy != NULL) {
        struct proxy_metrics *next = LIST_NEXT(proxy, link);
        tidy_proxy(metrics, proxy);
        proxy = next;
    }
    mutex_unlock(&metrics->lock);
}

void metrics_release(struct metrics *metrics)
{
    metrics_set_on(metrics, false);
    mutex_release(&metrics->lock);
}

static struct proxy_metrics *create_proxy(struct metrics *metrics, const char *name)
{
    struct proxy_metrics *proxy = calloc(1, sizeof *proxy);
    char *own_name = strdup(name);
    if (proxy == NULL || own_name == NULL) {
        free(proxy);
        free(own_name);
        return NULL;
    }
    proxy->all = metrics;
    proxy->name = own_name;
    return proxy;
}

struct proxy_metrics *proxy_metrics_hold(struct metrics *metrics, const char *name, struct error *error)
{
    struct proxy_metrics *proxy;
    mutex_lock(&metrics->lock);
    LIST_FOREACH(proxy, &metrics->proxies, link)
    if (strcmp(proxy->name, name) == 0)
        break;
    if (proxy == NULL) {
        proxy = create_proxy(metrics, name);
        if (proxy != NULL)
            LIST_INSERT_HEAD(&metrics->proxies, proxy, link);
    }
    if (proxy != NULL)
        proxy->references++;
    mutex_unlock(&metrics->lock);
    if (proxy == NULL)
        error_set_errno(error, ENOMEM, "cannot count for the proxy %s", name);
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
    dropped->references--;
    tidy_proxy(metrics, dropped);
    mutex_unlock(&metrics->lock);
}

static struct target_metrics *create_target(const char *name)
{
    struct target_metrics *target = calloc(1, sizeof *target);
    char *own_name = strdup(name);
    if (target == NULL || own_name == NULL) {
        free(target);
        free(own_name);
        return NULL;
    }
    target->name = own_name;
    return target;
}

struct target_metrics *target_metrics_hold(struct proxy_metrics *proxy, const char *name, struct error *error)
{
    struct target_metrics *target;
    mutex_lock(&proxy->all->lock);
    LIST_FOREACH(target, &proxy->targets, link)
    if (strcmp(target->name, name) == 0)
        break;
    if (target == NULL) {
        target = create_target(name);
        if (target != NULL)
            LIST_INSERT_HEAD(&proxy->targets, target, link);
    }
    if (target != NULL)
        target->references++;
    mutex_unlock(&proxy->all->lock);
    if (target == NULL)
        error_set_errno(error, ENOMEM, "cannot count for the target %s", name);
    return target;
}

void target_metrics_drop(struct proxy_metrics *proxy, struct target_metrics **target)
{
    struct target_metrics *dropped = *target;
    *target = NULL;
    if (dropped == NULL)
        return;
    struct metrics *metrics = proxy->all;
    mutex_lock(&metrics->lock);
    dropped->references--;
    tidy_targets(metrics, proxy, false);
    mutex_unlock(&metrics->lock);
}

struct proxy_metrics *metrics_next_proxy(struct metrics *metrics, struct proxy_metrics *before)
{
    mutex_lock(&metrics->lock);
    struct proxy_metrics *next = before == NULL ? LIST_FIRST(&metrics->proxies) : LIST_NEXT(before, link);
    if (next != NULL)
        next->references++;
    if (before != NULL) {
        before->references--;
        tidy_proxy(metrics, before);
    }
    mutex_unlock(&metrics->lock);
    return next;
}

struct target_metrics *metrics_next_target(struct proxy_metrics *proxy, struct target_metrics *before)
{
    struct metrics *metrics = proxy->all;
    mutex_lock(&metrics->lock);
    struct target_metrics *next = before == NULL ? LIST_FIRST(&proxy->targets) : LIST_NEXT(before, link);
    if (next != NULL)
        next->references++;
    if (before != NULL) {
        before->references--;
        if (before->references == 0)
            tidy_targets(metrics, proxy, false);
    }
    mutex_unlock(&metrics->lock);
    return next;
}
