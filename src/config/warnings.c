#include "bitflow/config/warnings.h"

#include <limits.h>
#include <stdio.h>

struct warner {
    const char *file;
    void (*warn)(void *argument, const char *line);
    void *argument;
    size_t proxy;
    size_t target;
};

// `path`: below server.proxies[N].
static void warn_of_proxy(const struct warner *warner, struct yaml_mark mark, const char *path, const char *what)
{
    char line[PATH_MAX + 256];
    (void)snprintf(line, sizeof line, "%s:%zu:%zu: warning: server.proxies[%zu].%s: %s", warner->file, mark.line,
                   mark.column, warner->proxy, path, what);
    warner->warn(warner->argument, line);
}

static void warn_of_target(const struct warner *warner, struct yaml_mark mark, const char *key, const char *what)
{
    char path[64];
    (void)snprintf(path, sizeof path, "targets[%zu].%s", warner->target, key);
    warn_of_proxy(warner, mark, path, what);
}

static void check_source_limit(const struct warner *warner, const struct proxy_config *proxy)
{
    static const char key[] = "options.source_connection_limit";
    int64_t limit = proxy->source_connection_limit;
    if (limit > 0 && proxy->listener.address.kind == ADDRESS_UNIX && !proxy->listener.proxy_protocol)
        warn_of_proxy(warner, proxy->source_connection_limit_mark, key,
                      "means nothing at a unix:// listener: its clients have no IP address");
    else if (limit > 0 && proxy->connection_limit > 0 && limit >= proxy->connection_limit)
        warn_of_proxy(warner, proxy->source_connection_limit_mark, key,
                      "protects nobody: a single source can take all of connection_limit");
}

static void check_target(const struct warner *warner, const struct proxy_config *proxy,
                         const struct target_config *target)
{
    if (target->resolve_timeout > 0 && target->socks_proxy != NULL)
        warn_of_target(warner, target->resolve_timeout_mark, "resolve_timeout",
                       "means nothing beside proxy: the SOCKS5 server resolves the name");
    else if (target->resolve_timeout > 0 && !proxy->enable_dual_stack)
        warn_of_target(warner, target->resolve_timeout_mark, "resolve_timeout",
                       "means nothing without enable_dual_stack: true; connect_timeout bounds the look-up, too");
    if (target->proxy_timeout_mark.line > 0 && target->socks_proxy == NULL)
        warn_of_target(warner, target->proxy_timeout_mark, "proxy_timeout", "means nothing without proxy");
}

// Who lists several targets expects them to be used. A `none` that is written says that this is not so.
static void check_targets(const struct warner *warner, const struct proxy_config *proxy)
{
    if (proxy->target_count > 1 && proxy->balancer == BALANCER_NONE && proxy->balancer_mark.line == 0)
        warn_of_proxy(warner, proxy->targets_mark, "targets",
                      "only the first is used without connection_load_balancer; write none there if it is to be so");
}

void config_warn(const char *file, const struct config *config, void (*warn)(void *argument, const char *line),
                 void *argument)
{
    struct warner warner = {.file = file, .warn = warn, .argument = argument};
    for (; warner.proxy < config->proxy_count; warner.proxy++) {
        const struct proxy_config *proxy = &config->proxies[warner.proxy];
        check_targets(&warner, proxy);
        check_source_limit(&warner, proxy);
        for (warner.target = 0; warner.target < proxy->target_count; warner.target++)
            check_target(&warner, proxy, &proxy->targets[warner.target]);
    }
}
