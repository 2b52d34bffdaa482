#include "bitflow/proxy/proxy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct proxy *proxy_create(const char *name, struct error *error)
{
    struct proxy *proxy = calloc(1, sizeof *proxy);
    char *own_name = strdup(name);
    if (proxy == NULL || own_name == NULL) {
        free(proxy);
        free(own_name);
        error_set_errno(error, ENOMEM, "cannot create the proxy %s", name);
        return NULL;
    }
    proxy->name = own_name;
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
    free(dropped->name);
    free(dropped);
}

struct generation *generation_create(struct proxy *proxy, const struct config *config,
                                     const struct proxy_config *settings, struct credentials *credentials,
                                     struct error *error)
{
    struct generation *generation = calloc(1, sizeof *generation);
    if (generation == NULL) {
        error_set_errno(error, ENOMEM, "cannot configure the proxy %s", settings->name);
        return NULL;
    }
    if (settings->connection_log != NULL) {
        generation->log = connection_log_open(settings->connection_log, error);
        if (generation->log == NULL) {
            free(generation);
            return NULL;
        }
    }
    atomic_init(&generation->references, 1);
    generation->proxy = proxy_hold(proxy);
    generation->config = config_hold(config);
    generation->settings = settings;
    generation->credentials = *credentials;
    *credentials = (struct credentials){.listener = NULL};
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
    credentials_release(&dropped->credentials);
    config_drop(&dropped->config);
    proxy_drop(&dropped->proxy);
    free(dropped);
}
