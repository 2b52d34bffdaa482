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

static void warn_of(const struct warner *warner, struct yaml_mark mark, const char *key, const char *what)
{
    char line[PATH_MAX + 256];
    (void)snprintf(line, sizeof line, "%s:%zu:%zu: warning: server.proxies[%zu].targets[%zu].%s: %s", warner->file,
                   mark.line, mark.column, warner->proxy, warner->target, key, what);
    warner->warn(warner->argument, line);
}

static void check_target(const struct warner *warner, const struct proxy_config *proxy,
                         const struct target_config *target)
{
    if (target->resolve_timeout > 0 && target->socks_proxy != NULL)
        warn_of(warner, target->resolve_timeout_mark, "resolve_timeout",
                "means nothing beside proxy: the SOCKS5 server resolves the name");
    else if (target->resolve_timeout > 0 && !proxy->enable_dual_stack)
        warn_of(warner, target->resolve_timeout_mark, "resolve_timeout",
                "means nothing without enable_dual_stack: true; connect_timeout bounds the look-up, too");
    if (target->proxy_timeout_mark.line > 0 && target->socks_proxy == NULL)
        warn_of(warner, target->proxy_timeout_mark, "proxy_timeout", "means nothing without proxy");
}

void config_warn(const char *file, const struct config *config, void (*warn)(void *argument, const char *line),
                 void *argument)
{
    struct warner warner = {.file = file, .warn = warn, .argument = argument};
    for (; warner.proxy < config->proxy_count; warner.proxy++) {
        const struct proxy_config *proxy = &config->proxies[warner.proxy];
        for (warner.target = 0; warner.target < proxy->target_count; warner.target++)
            check_target(&warner, proxy, &proxy->targets[warner.target]);
    }
}
