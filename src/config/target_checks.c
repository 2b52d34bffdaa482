#include "target_checks.h"

#include "duration.h"
#include "syntax.h"

// RFC 6066, 3: literal addresses are not permitted as server names, and clients send none for them.
static void check_server_name(const struct config_path *target, const struct target_config *config,
                              struct diagnostics *diagnostics)
{
    struct config_path name = path_key(target, "name");
    if (config->name != NULL && syntax_is_ip_address(config->name))
        report_warning_at_value(diagnostics, &name,
                                "is an IP address, which clients do not send as a server name: \"*\" is for those that "
                                "ask for no target's name");
}

static void check_bound(const struct config_path *parent, const char *key, int64_t bound,
                        const struct target_config *config, struct diagnostics *diagnostics)
{
    struct config_path path = path_key(parent, key);
    char limit[DURATION_TEXT_SIZE];
    if (path.node == NULL || config->connect_timeout == 0 || bound <= config->connect_timeout)
        return;
    duration_format(config->connect_timeout, limit);
    report_warning_at_key(diagnostics, &path, "is never reached: connect_timeout, which bounds it, too, is %s", limit);
}

void check_what_targets_never_reach(const struct config_path *targets, const struct proxy_config *config,
                                    struct diagnostics *diagnostics)
{
    for (size_t i = 0; i < config->target_count; i++) {
        const struct target_config *own = &config->targets[i];
        struct config_path target = path_item(targets, i);
        struct config_path tls = path_key(&target, "tls_context");
        if (config->balancer == BALANCER_SNI)
            check_server_name(&target, own, diagnostics);
        if (config->enable_dual_stack && own->socks_proxy == NULL)
            check_bound(&target, "resolve_timeout", own->resolve_timeout, own, diagnostics);
        if (own->socks_proxy != NULL)
            check_bound(&target, "proxy_timeout", own->proxy_timeout, own, diagnostics);
        if (own->tls != NULL)
            check_bound(&tls, "handshake_timeout", own->tls->handshake_timeout, own, diagnostics);
    }
}
