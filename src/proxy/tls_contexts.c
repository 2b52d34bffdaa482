#include "bitflow/proxy/tls_contexts.h"

#include <stdio.h>
#include <stdlib.h>

#include "bitflow/base/signals.h"
#include "bitflow/config/problem.h"

#define EXPIRY_DAYS 30 // certificates that are renewed by themselves are new by then

// Where a context stands in the configuration, for what is wrong with it.
struct origin {
    struct problem_list *problems;
    const struct tls_config *config;
    char path[96]; // server.proxies[0].listener.tls_context
};

static struct yaml_mark mark_of(const struct certificate_config *certificate, const char *key)
{
    switch (*key) {
    case 'k':
        return certificate->key_mark;
    case 'c':
        return certificate->certificate_mark;
    case 'a':
        return certificate->authority_mark;
    default:
        return certificate->revocation_list_mark;
    }
}

static void report(void *argument, size_t entry, const char *key, const struct error *problem)
{
    const struct origin *origin = argument;
    if (key == NULL)
        problem_at_mark(origin->problems, origin->config->mark, "%s: %s", origin->path, problem->text);
    else
        problem_at_mark(origin->problems, mark_of(&origin->config->certificates[entry], key),
                        "%s.certificates[%zu].%s: %s", origin->path, entry, key, problem->text);
}

static struct tls_context *load_context(struct origin *origin, const struct tls_config *config, enum tls_role role)
{
    origin->config = config;
    const struct tls_reporter to = {.report = report, .argument = origin};
    return tls_context_load(config, role, &to);
}

static void load_proxy(struct problem_list *problems, size_t index, const struct proxy_config *proxy,
                       struct tls_contexts *tls_contexts)
{
    struct origin origin = {.problems = problems};
    (void)snprintf(origin.path, sizeof origin.path, "server.proxies[%zu].listener.tls_context", index);
    if (proxy->listener.tls != NULL)
        tls_contexts->listener = load_context(&origin, proxy->listener.tls, TLS_SERVER);
    tls_contexts->targets = calloc(proxy->target_count, sizeof(struct tls_context *));
    if (tls_contexts->targets == NULL) {
        problem_at_mark(problems, (struct yaml_mark){.line = 0}, "out of memory");
        return;
    }
    tls_contexts->target_count = proxy->target_count;
    for (size_t i = 0; i < proxy->target_count; i++) {
        if (proxy->targets[i].tls == NULL)
            continue;
        (void)snprintf(origin.path, sizeof origin.path, "server.proxies[%zu].targets[%zu].tls_context", index, i);
        tls_contexts->targets[i] = load_context(&origin, proxy->targets[i].tls, TLS_CLIENT);
    }
}

struct tls_contexts *tls_contexts_load(const char *file, const struct config *config, struct config_problems *problems)
{
    struct problem_list list;
    problem_list_init(&list, file, problems);
    struct tls_contexts *tls_contexts = calloc(config->proxy_count, sizeof *tls_contexts);
    if (tls_contexts == NULL) {
        problem_at_mark(&list, (struct yaml_mark){.line = 0}, "out of memory");
        return NULL;
    }
    for (size_t i = 0; i < config->proxy_count && !signals_told_to_end(); i++)
        load_proxy(&list, i, &config->proxies[i], &tls_contexts[i]);
    if (signals_told_to_end())
        problem_at_mark(&list, (struct yaml_mark){.line = 0}, "the process is told to end");
    if (problems->count > 0)
        tls_contexts_free(&tls_contexts, config->proxy_count);
    return tls_contexts;
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

struct warner {
    const char *name;
    void (*warn)(void *argument, const char *name, const char *file, const char *text);
    void *argument;
};

static void pass_warning(void *argument, const char *file, const char *text)
{
    const struct warner *warner = argument;
    warner->warn(warner->argument, warner->name, file, text);
}

void tls_contexts_warn(const struct tls_contexts *tls_contexts, const struct config *config,
                       void (*warn)(void *argument, const char *name, const char *file, const char *text),
                       void *argument)
{
    for (size_t i = 0; i < config->proxy_count; i++) {
        struct warner warner = {.name = config->proxies[i].name, .warn = warn, .argument = argument};
        if (tls_contexts[i].listener != NULL)
            tls_context_check_expiry(tls_contexts[i].listener, EXPIRY_DAYS, pass_warning, &warner);
        for (size_t n = 0; n < tls_contexts[i].target_count; n++)
            if (tls_contexts[i].targets[n] != NULL)
                tls_context_check_expiry(tls_contexts[i].targets[n], EXPIRY_DAYS, pass_warning, &warner);
    }
}
