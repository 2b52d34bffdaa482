#include "bitflow/proxy/tls_contexts.h"

#include <stdio.h>
#include <stdlib.h>

#include "bitflow/base/signals.h"

#define EXPIRY_DAYS 30 // certificates that are renewed by themselves are new by then
#define PATH_SIZE 96   // server.proxies[0].listener.tls_context

static void load_proxy(size_t index, const struct proxy_config *proxy, struct tls_contexts *tls_contexts,
                       struct diagnostics *diagnostics)
{
    char path[PATH_SIZE];
    (void)snprintf(path, sizeof path, "server.proxies[%zu].listener.tls_context", index);
    if (proxy->listener.tls != NULL)
        tls_contexts->listener = tls_context_load(proxy->listener.tls, TLS_SERVER, path, diagnostics);
    tls_contexts->targets = calloc(proxy->target_count, sizeof(struct tls_context *));
    if (tls_contexts->targets == NULL) {
        diagnostics_add_general(diagnostics, "out of memory");
        return;
    }
    tls_contexts->target_count = proxy->target_count;
    for (size_t i = 0; i < proxy->target_count; i++) {
        const struct tls_config *tls = proxy->targets[i].tls;
        (void)snprintf(path, sizeof path, "server.proxies[%zu].targets[%zu].tls_context", index, i);
        if (tls != NULL)
            tls_contexts->targets[i] = tls_context_load(tls, TLS_CLIENT, path, diagnostics);
    }
}

struct tls_contexts *tls_contexts_load(const struct config *config, struct diagnostics *diagnostics)
{
    size_t errors = diagnostics->errors;
    struct tls_contexts *tls_contexts = calloc(config->proxy_count, sizeof *tls_contexts);
    if (tls_contexts == NULL) {
        diagnostics_add_general(diagnostics, "out of memory");
        return NULL;
    }
    for (size_t i = 0; i < config->proxy_count && !signals_told_to_end(); i++)
        load_proxy(i, &config->proxies[i], &tls_contexts[i], diagnostics);
    if (signals_told_to_end())
        diagnostics_add_general(diagnostics, "the process is told to end");
    if (diagnostics->errors > errors)
        tls_contexts_free(&tls_contexts, config->proxy_count);
    return tls_contexts;
}

void tls_contexts_check(const struct tls_contexts *tls_contexts, const struct config *config,
                        struct diagnostics *diagnostics)
{
    for (size_t i = 0; i < config->proxy_count; i++) {
        const struct proxy_config *proxy = &config->proxies[i];
        if (proxy->listener.tls != NULL)
            tls_context_check(tls_contexts[i].listener, proxy->listener.tls, EXPIRY_DAYS, proxy->name, diagnostics);
        for (size_t n = 0; n < proxy->target_count; n++)
            if (proxy->targets[n].tls != NULL)
                tls_context_check(tls_contexts[i].targets[n], proxy->targets[n].tls, EXPIRY_DAYS, proxy->name,
                                  diagnostics);
    }
}

void tls_contexts_release(struct tls_contexts *tls_contexts)
{
    tls_context_destroy(&tls_contexts->listener);
    for (size_t i = 0; i < tls_contexts->target_count; i++)
        tls_context_destroy(&tls_contexts->targets[i]);
    free(tls_contexts->targets);
    *tls_contexts = (struct tls_contexts){.listener = NULL};
}

void tls_contexts_free(struct tls_contexts **tls_contexts, size_t proxy_count)
{
    for (size_t i = 0; *tls_contexts != NULL && i < proxy_count; i++)
        tls_contexts_release(&(*tls_contexts)[i]);
    free(*tls_contexts);
    *tls_contexts = NULL;
}
