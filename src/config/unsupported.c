// Keys whose feature is not built yet: a configuration that uses one does not start, so that none is silently ignored.
// Whoever builds a feature deletes its line here.

#include "bitflow/config/checks.h"

static void report(struct problem_list *problems, const struct place *parent, const char *key)
{
    struct place place = place_key(parent, key);
    problem_at_key(problems, &place, "not supported yet");
}

static void check_target(const struct place *at, const struct target_config *target, struct problem_list *problems)
{
    if (target->socks_proxy != NULL)
        report(problems, at, "proxy");
    if (target->resolve_timeout != 0)
        report(problems, at, "resolve_timeout");
}

static void check_proxy(const struct place *at, const struct proxy_config *proxy, struct problem_list *problems)
{
    struct place listener = place_key(at, "listener");
    if (proxy->listener.proxy_protocol)
        report(problems, &listener, "proxy_protocol");

    struct place options = place_key(at, "options");
    if (proxy->enable_proxy_header)
        report(problems, &options, "enable_proxy_header");
    if (proxy->enable_dual_stack)
        report(problems, &options, "enable_dual_stack");

    struct place targets = place_key(at, "targets");
    for (size_t i = 0; i < proxy->target_count; i++) {
        struct place target = place_item(&targets, i);
        check_target(&target, &proxy->targets[i], problems);
    }
}

void check_unsupported(const struct place *root, const struct config *config, struct problem_list *problems)
{
    struct place application = place_key(root, "application");
    struct place metrics = place_key(&application, "metrics");
    if (config->metrics_address != NULL)
        report(problems, &metrics, "address");
    if (config->metrics_prefix != NULL)
        report(problems, &metrics, "prefix");
    if (config->sentry_dsn != NULL)
        report(problems, &application, "sentry_dsn");

    struct place server = place_key(root, "server");
    struct place proxies = place_key(&server, "proxies");
    for (size_t i = 0; i < config->proxy_count; i++) {
        struct place proxy = place_item(&proxies, i);
        check_proxy(&proxy, &config->proxies[i], problems);
    }
}
