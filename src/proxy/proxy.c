#include "bitflow/proxy/proxy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct proxy *proxy_create(const char *name, struct metrics *metrics, struct error *error)
{
    struct proxy *proxy = calloc(1, sizeof *proxy);
    char *own_name = strdup(name);
    if (proxy == NULL || own_name == NULL) {
        free(proxy);
        free(own_name);
        error_set_errno(error, ENOMEM, "cannot create the proxy %s", name);
        return NULL;
    }
    proxy->metrics = proxy_metrics_hold(metrics, name, error);
    if (proxy->metrics == NULL) {
        free(proxy);
        free(own_name);
        return NULL;
    }
    proxy->name = own_name;
    target_list_init(&proxy->targets);
    source_counts_init(&proxy->sources);
    atomic_init(&proxy->references, 1);
    return proxy;
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
    if (dropped == NULL || atomic_fetch_sub_explicit(&dropped->references, 1, memory_order_acq_rel) > 1)
        return;
    target_list_release(&dropped->targets);
    source_counts_release(&dropped->sources);
    proxy_metrics_drop(&dropped->metrics);
    free(dropped->name);
    free(dropped);
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
    generation->targets = target_list_hold(&proxy->targets, settings, tls_contexts->targets, error);
    if (generation->targets != NULL)
        generation->metrics = target_metrics_hold(proxy->metrics, settings->targets, settings->target_count, error);
    bool is_complete = generation->metrics != NULL;
    if (is_complete && settings->connection_log != NULL) {
        generation->log = connection_log_open(settings->connection_log, error);
        is_complete = generation->log != NULL;
    }
    if (!is_complete) {
        target_metrics_drop(proxy->metrics, &generation->metrics, settings->target_count);
        target_list_drop(&proxy->targets, &generation->targets, settings->target_count);
        free(generation);
        return NULL;
    }
    atomic_init(&generation->references, 1);
    generation->proxy = proxy_hold(proxy);
    generation->config = config_hold(config);
    generation->settings = settings;
    generation->reports.interval = settings->connection_log_interval;
    generation->tls_contexts = *tls_contexts;
    *tls_contexts = (struct tls_contexts){.listener = NULL};
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
    if (dropped == NULL || atomic_fetch_sub_explicit(&dropped->references, 1, memory_order_acq_rel) > 1)
        return;
    connection_log_close(&dropped->log);
    tls_contexts_release(&dropped->tls_contexts);
    target_metrics_drop(dropped->proxy->metrics, &dropped->metrics, dropped->settings->target_count);
    target_list_drop(&dropped->proxy->targets, &dropped->targets, dropped->settings->target_count);
    config_drop(&dropped->config);
    proxy_drop(&dropped->proxy);
    free(dropped);
}

void generation_publish(const struct generation *generation)
{
    const struct tls_contexts *tls_contexts = &generation->tls_contexts;
    int64_t expiry = tls_contexts->listener == NULL ? 0 : tls_context_expiry(tls_contexts->listener);
    atomic_store_explicit(&generation->proxy->metrics->certificate_expiry, expiry, memory_order_relaxed);
    for (size_t i = 0; i < tls_contexts->target_count; i++) {
        expiry = tls_contexts->targets[i] == NULL ? 0 : tls_context_expiry(tls_contexts->targets[i]);
        atomic_store_explicit(&generation->metrics[i]->certificate_expiry, expiry, memory_order_relaxed);
    }
}
