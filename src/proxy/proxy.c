#include "bitflow/proxy/proxy.h"

#include <errno.h>
#include <stdlib.h>

#include "bitflow/base/invariant.h"

struct proxy *proxy_create(const char *name, struct metrics *metrics, struct error *error)
{
    struct proxy *proxy = calloc(1, sizeof *proxy);
    struct proxy_metrics *own_metrics = proxy_metrics_hold(metrics, name);
    if (proxy == NULL || own_metrics == NULL) {
        free(proxy);
        proxy_metrics_drop(&own_metrics);
        error_set_errno(error, ENOMEM, "cannot create the proxy %s", name);
        return NULL;
    }
    proxy->metrics = own_metrics;
    proxy->name = own_metrics->shared.name;
    mutex_init(&proxy->lock);
    mutex_lock(&proxy->lock);
    LIST_INIT(&proxy->loads);
    LIST_INIT(&proxy->healths);
    mutex_unlock(&proxy->lock);
    source_counts_init(&proxy->sources);
    atomic_init(&proxy->references, 1);
    return proxy;
}

// Returns whether it was the last one.
static bool drop_reference(_Atomic unsigned *references)
{
    unsigned before = atomic_fetch_sub_explicit(references, 1, memory_order_acq_rel);
    INVARIANT(before > 0);
    return before == 1;
}

struct proxy *proxy_hold(struct proxy *proxy)
{
    atomic_fetch_add_explicit(&proxy->references, 1, memory_order_relaxed);
    return proxy;
}

void proxy_drop(struct proxy **proxy)
{
    struct proxy *dropped = *proxy;
    *proxy = NULL;
    if (dropped == NULL || !drop_reference(&dropped->references))
        return;
    INVARIANT(atomic_load(&dropped->active) == 0);
    mutex_lock(&dropped->lock);
    INVARIANT(LIST_EMPTY(&dropped->loads) && LIST_EMPTY(&dropped->healths));
    mutex_unlock(&dropped->lock);
    mutex_release(&dropped->lock);
    source_counts_release(&dropped->sources);
    proxy_metrics_drop(&dropped->metrics);
    free(dropped);
}

bool proxy_enter(struct proxy *proxy, int64_t limit)
{
    if (atomic_fetch_add(&proxy->active, 1) < (uint64_t)limit || limit == 0)
        return true;
    proxy_leave(proxy);
    return false;
}

void proxy_leave(struct proxy *proxy)
{
    uint64_t before = atomic_fetch_sub(&proxy->active, 1);
    INVARIANT(before > 0);
}

// All but the TLS contexts, which are taken over when nothing can fail any more.
static bool init_targets(struct generation *generation, struct tls_context *const *tls, struct error *error)
{
    const struct proxy_config *settings = generation->settings;
    generation->targets = calloc(settings->target_count, sizeof *generation->targets);
    if (generation->targets == NULL) {
        error_set_errno(error, ENOMEM, "cannot watch %zu targets", settings->target_count);
        return false;
    }
    for (size_t i = 0; i < settings->target_count; i++)
        if (!target_init(&generation->targets[i], generation->proxy, settings, &settings->targets[i], tls[i], error))
            return false;
    return true;
}

static void destroy(struct generation *generation)
{
    connection_log_close(&generation->log);
    tls_context_destroy(&generation->tls);
    for (size_t i = 0; generation->targets != NULL && i < generation->settings->target_count; i++)
        target_release(&generation->targets[i], generation->proxy);
    free(generation->targets);
    config_drop(&generation->config);
    proxy_drop(&generation->proxy);
    free(generation);
}

struct generation *generation_create(struct proxy *proxy, const struct config *config,
                                     const struct proxy_config *settings, struct tls_contexts *tls_contexts,
                                     struct error *error)
{
    struct generation *generation = calloc(1, sizeof *generation);
    if (generation == NULL) {
        error_set_errno(error, ENOMEM, "cannot configure the proxy %s", settings->name);
        return NULL;
    }
    atomic_init(&generation->references, 1);
    generation->proxy = proxy_hold(proxy);
    generation->config = config_hold(config);
    generation->settings = settings;
    generation->periodic_records.interval = settings->connection_log_interval;
    bool is_complete = init_targets(generation, tls_contexts->targets, error);
    if (is_complete && settings->connection_log != NULL) {
        generation->log = connection_log_open(settings->connection_log, error);
        is_complete = generation->log != NULL;
    }
    if (!is_complete) {
        destroy(generation);
        return NULL;
    }
    generation->tls = tls_contexts->listener;
    tls_contexts->listener = NULL;
    for (size_t i = 0; i < settings->target_count; i++) {
        generation->targets[i].tls = tls_contexts->targets[i];
        tls_contexts->targets[i] = NULL;
    }
    return generation;
}

struct generation *generation_hold(struct generation *generation)
{
    atomic_fetch_add_explicit(&generation->references, 1, memory_order_relaxed);
    return generation;
}

void generation_drop(struct generation **generation)
{
    struct generation *dropped = *generation;
    *generation = NULL;
    if (dropped == NULL || !drop_reference(&dropped->references))
        return;
    destroy(dropped);
}

static void publish_tls(_Atomic bool *speaks_tls, _Atomic int64_t *expiry, const struct tls_context *tls)
{
    atomic_store_explicit(speaks_tls, tls != NULL, memory_order_relaxed);
    atomic_store_explicit(expiry, tls == NULL ? 0 : tls_context_expiry(tls), memory_order_relaxed);
}

void generation_publish(const struct generation *generation)
{
    struct proxy_metrics *metrics = generation->proxy->metrics;
    publish_tls(&metrics->speaks_tls, &metrics->certificate_expiry, generation->tls);
    for (size_t i = 0; i < generation->settings->target_count; i++) {
        const struct target *target = &generation->targets[i];
        publish_tls(&target->metrics->speaks_tls, &target->metrics->certificate_expiry, target->tls);
    }
}
