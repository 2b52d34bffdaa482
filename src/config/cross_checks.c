#include <string.h>
#include <strings.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socks.h"
#include "control_checks.h"
#include "cross_checks.h"
#include "file_checks.h"
#include "identity_checks.h"
#include "listener_checks.h"
#include "syntax.h"
#include "target_checks.h"

static void check_certificates(const struct config_path *tls, struct diagnostics *diagnostics, bool *has_pair)
{
    struct config_path list = path_key(tls, "certificates");
    *has_pair = false;
    for (size_t i = 0; list.node != NULL && list.node->kind == YAML_SEQUENCE && i < list.node->count; i++) {
        struct config_path item = path_item(&list, i);
        struct config_path key = path_key(&item, "key");
        struct config_path certificate = path_key(&item, "certificate");
        struct config_path authority = path_key(&item, "authority");
        struct config_path revocation_list = path_key(&item, "revocation_list");
        if (revocation_list.node != NULL && authority.node == NULL)
            report_error_at_key(diagnostics, &revocation_list, "a revocation_list needs an authority beside it");
        if (key.node != NULL && certificate.node != NULL)
            *has_pair = true;
        else if (key.node != NULL)
            report_error_at_key(diagnostics, &key, "a key needs a certificate beside it");
        else if (certificate.node != NULL)
            report_error_at_key(diagnostics, &certificate, "a certificate needs a key beside it");
        else if (authority.node == NULL && item.node->kind == YAML_MAPPING)
            report_error_at_value(diagnostics, &item, "must have a key and a certificate, an authority, or all three");
    }
}

// A key that has no effect is no reason to refuse the file, but hardly what its author meant.
static void warn_unless(bool has_effect, const struct config_path *parent, const char *key, const char *why,
                        struct diagnostics *diagnostics)
{
    struct config_path path = path_key(parent, key);
    if (!has_effect && path.node != NULL)
        report_warning_at_key(diagnostics, &path, "means nothing %s", why);
}

// More than a warning: whoever relies on it to keep others out must not run without it.
static void check_unix_access(const struct config_path *listener, const struct listener_config *config,
                              struct diagnostics *diagnostics)
{
    static const char *const keys[] = {"unix_mode", "unix_user", "unix_group"};
    struct config_path address = path_key(listener, "address");
    bool has_file = (config->address.kind == ADDRESS_UNIX && !config->address.is_abstract) || address.node == NULL ||
                    path_is_refused(&address, diagnostics);
    for (size_t i = 0; !has_file && i < ARRAY_LENGTH(keys); i++) {
        struct config_path path = path_key(listener, keys[i]);
        if (path.node != NULL)
            report_error_at_key(diagnostics, &path, "is for unix:///path alone: this listener makes no file");
    }
}

static void check_sources(const struct config_path *listener, const struct listener_config *config,
                          struct diagnostics *diagnostics)
{
    static const char *const keys[] = {"authorized_sources", "proxy_protocol_sources"};
    for (size_t i = 0; config->address.kind == ADDRESS_UNIX && i < ARRAY_LENGTH(keys); i++) {
        struct config_path sources = path_key(listener, keys[i]);
        if (sources.node != NULL)
            report_error_at_key(diagnostics, &sources, "clients of a unix:// listener have no IP address to match");
    }
}

static void check_proxy_protocol(const struct config_path *listener, const struct listener_config *config,
                                 struct diagnostics *diagnostics)
{
    struct config_path proxy_protocol = path_key(listener, "proxy_protocol");
    struct config_path sources = path_key(listener, "proxy_protocol_sources");
    bool is_on = config->proxy_protocol || path_is_refused(&proxy_protocol, diagnostics);
    warn_unless(is_on, listener, "proxy_protocol_timeout", "without proxy_protocol: true", diagnostics);
    // More than a warning: whoever relies on it to keep others out must not run without it.
    if (!is_on && sources.node != NULL)
        report_error_at_key(diagnostics, &sources, "needs proxy_protocol: true; without that it would keep nobody out");
}

static void check_liveness_of_clients(const struct config_path *listener, const struct listener_config *config,
                                      struct diagnostics *diagnostics)
{
    bool is_unix = config->address.kind == ADDRESS_UNIX;
    warn_unless(!is_unix || config->keepalive_interval == 0, listener, "keepalive_interval", "over a Unix socket",
                diagnostics);
    warn_unless(!is_unix || config->tcp_user_timeout == 0, listener, "tcp_user_timeout", "over a Unix socket",
                diagnostics);
}

static void check_client_hello_timeout(const struct config_path *proxy, const struct config_path *listener,
                                       const struct proxy_config *config, struct diagnostics *diagnostics)
{
    struct config_path options = path_key(proxy, "options");
    struct config_path balancer = path_key(&options, "connection_load_balancer");
    bool is_by_name = config->balancer == BALANCER_SNI || path_is_refused(&balancer, diagnostics);
    warn_unless(is_by_name, listener, "client_hello_timeout", "without connection_load_balancer: sni", diagnostics);
    warn_unless(!is_by_name || config->listener.tls == NULL, listener, "client_hello_timeout",
                "with tls_context: its handshake_timeout bounds the ClientHello, too", diagnostics);
}

static void check_listener(const struct config_path *proxy, const struct proxy_config *config,
                           struct diagnostics *diagnostics)
{
    struct config_path listener = path_key(proxy, "listener");
    check_unix_access(&listener, &config->listener, diagnostics);
    check_sources(&listener, &config->listener, diagnostics);
    check_authorized_peers(&listener, &config->listener, diagnostics);
    check_proxy_protocol(&listener, &config->listener, diagnostics);
    check_liveness_of_clients(&listener, &config->listener, diagnostics);
    check_client_hello_timeout(proxy, &listener, config, diagnostics);

    struct config_path tls = path_key(&listener, "tls_context");
    bool has_pair;
    check_certificates(&tls, diagnostics, &has_pair);
    check_authorized_names(&tls, config->listener.tls, true, diagnostics);
    if (tls.node != NULL && tls.node->kind == YAML_MAPPING && !has_pair)
        report_error_at_key(diagnostics, &tls, "a listener with TLS needs at least one certificate with its key");
}

static void check_target_names(const struct config_path *targets, const struct proxy_config *config,
                               struct diagnostics *diagnostics)
{
    for (size_t i = 0; i < config->target_count; i++) {
        for (size_t before = 0; config->targets[i].name != NULL && before < i; before++) {
            if (config->targets[before].name == NULL ||
                strcmp(config->targets[before].name, config->targets[i].name) != 0)
                continue;
            struct config_path target = path_item(targets, i);
            struct config_path name = path_key(&target, "name");
            report_error_at_value(diagnostics, &name, "the name is taken: targets[%zu] of this proxy has it", before);
            break;
        }
    }
}

// *.example.com and * are patterns of one.
static bool is_server_name(const char *name)
{
    size_t length = strlen(name);
    if (strcmp(name, "*") == 0)
        return true;
    // Clients' names are compared with it as they are once the dot at the end is gone.
    if (length > 0 && name[length - 1] == '.')
        return false;
    return syntax_server_name(name[0] == '*' && name[1] == '.' ? name + 2 : name, NULL);
}

// Where names choose, one that can never be asked for, or that another target answers to, is a mistake.
static void check_server_names(const struct config_path *targets, const struct proxy_config *config,
                               struct diagnostics *diagnostics)
{
    for (size_t i = 0; config->balancer == BALANCER_SNI && i < config->target_count; i++) {
        const char *own = config->targets[i].name;
        if (own == NULL)
            continue;
        struct config_path target = path_item(targets, i);
        struct config_path name = path_key(&target, "name");
        if (!is_server_name(own))
            report_error_at_value(diagnostics, &name,
                                  "is not a server name, as sni requires: example.com, *.example.com or *");
        for (size_t before = 0; before < i; before++) {
            const char *other = config->targets[before].name;
            if (other == NULL || strcasecmp(other, own) != 0 || strcmp(other, own) == 0)
                continue;
            report_error_at_value(diagnostics, &name, "is the same server name as that of targets[%zu]", before);
            break;
        }
    }
}

static void check_name_to_verify(const struct config_path *tls, const struct target_config *target,
                                 struct diagnostics *diagnostics)
{
    if (target->tls == NULL || target->tls->verify_mode != VERIFY_STRICT || target->address.kind == ADDRESS_TCP)
        return;
    struct config_path name = path_key(tls, "server_name"), names = path_key(tls, "authorized_names");
    if (name.node == NULL && names.node == NULL)
        report_error_at_key(
            diagnostics, tls,
            "verify_mode strict needs a name to verify, and this kind of address has none: set server_name, "
            "authorized_names, or another verify_mode");
}

// Of addresses that are dialled here: by a SOCKS5 server they are looked up there, if at all.
static bool has_name_to_resolve(const struct target_config *config)
{
    return config->socks_proxy == NULL && config->address.kind == ADDRESS_TCP && !config->address.is_literal;
}

// Whether what is connected, to the target or to its SOCKS5 server, is a Unix socket.
static bool is_by_unix_socket(const struct target_config *config)
{
    if (config->socks_proxy == NULL)
        return config->address.kind == ADDRESS_UNIX;
    struct socks_server server = {.user_length = 0};
    bool is_unix = socks_server_parse(config->socks_proxy, &server, NULL) && server.address.kind == ADDRESS_UNIX;
    socks_server_wipe(&server);
    return is_unix;
}

static void check_resolve_timeout(const struct config_path *target, const struct target_config *config,
                                  bool has_dual_stack, struct diagnostics *diagnostics)
{
    if (config->resolve_timeout == 0)
        return;
    const char *why = "without enable_dual_stack: true; connect_timeout bounds the look-up, too";
    bool has_effect = has_dual_stack;
    if (path_key(target, "proxy").node != NULL) {
        why = "with proxy: the SOCKS5 server resolves the name";
        has_effect = false;
    } else if (!has_name_to_resolve(config)) {
        why = "without a name to resolve";
        has_effect = false;
    }
    warn_unless(has_effect, target, "resolve_timeout", why, diagnostics);
}

static void check_reach(const struct config_path *target, const struct target_config *config, bool has_dual_stack,
                        struct diagnostics *diagnostics)
{
    struct config_path proxy = path_key(target, "proxy");
    struct error error = ERROR_INIT;
    if (config->socks_proxy != NULL && !socks_can_reach(&config->address, &error))
        report_error_at_key(diagnostics, &proxy, "%s", error.text);
    warn_unless(proxy.node != NULL, target, "proxy_timeout", "without proxy", diagnostics);
    check_resolve_timeout(target, config, has_dual_stack, diagnostics);
    warn_unless(config->keepalive_interval == 0 || !is_by_unix_socket(config), target, "keepalive_interval",
                "over a Unix socket", diagnostics);
    warn_unless(config->tcp_user_timeout == 0 || !is_by_unix_socket(config), target, "tcp_user_timeout",
                "over a Unix socket", diagnostics);
    struct config_path attempts = path_key(target, "connect_attempts");
    bool is_repeated = config->connect_attempts > 1 || path_is_refused(&attempts, diagnostics);
    warn_unless(is_repeated || config->connect_backoff == 0, target, "connect_backoff",
                "without connect_attempts above 1", diagnostics);
}

// `has_choice`: connections that do not reach this target may go on to another one.
static void check_health(const struct config_path *target, const struct target_config *config, bool has_choice,
                         struct diagnostics *diagnostics)
{
    struct config_path max_fails = path_key(target, "max_fails");
    warn_unless(config->max_fails > 0 || path_is_refused(&max_fails, diagnostics), target, "fail_timeout",
                "without max_fails", diagnostics);
    if (config->max_fails > 0 && config->fail_timeout == 0)
        report_error_at_key(diagnostics, &max_fails, "needs a fail_timeout above 0");
    else if (config->max_fails > 0)
        warn_unless(has_choice, target, "max_fails",
                    "without a connection_load_balancer that has another target to go to", diagnostics);
}

static void check_server_name(const struct config_path *tls, const struct target_config *target,
                              struct diagnostics *diagnostics)
{
    if (target->tls == NULL || target->tls->server_name == NULL || target->tls->verify_mode == VERIFY_STRICT)
        return;
    warn_unless(!syntax_is_ip_address(target->tls->server_name), tls, "server_name",
                "without verify_mode: strict: an IP address is only verified, never sent", diagnostics);
}

static void check_targets(const struct config_path *proxy, const struct proxy_config *config,
                          struct diagnostics *diagnostics)
{
    struct config_path targets = path_key(proxy, "targets");
    struct config_path options = path_key(proxy, "options");
    struct config_path balancer = path_key(&options, "connection_load_balancer");
    struct config_path dual_stack = path_key(&options, "enable_dual_stack");
    bool is_fixed = config->balancer == BALANCER_NONE || config->balancer == BALANCER_SNI;
    bool has_choice = (config->target_count > 1 && !is_fixed) || path_is_refused(&balancer, diagnostics);
    bool has_dual_stack = config->enable_dual_stack || path_is_refused(&dual_stack, diagnostics);
    check_target_names(&targets, config, diagnostics);
    check_server_names(&targets, config, diagnostics);
    // Who lists several targets expects them to be used. A `none` that is written says that this is not so.
    if (config->target_count > 1 && balancer.node == NULL)
        report_warning_at_key(
            diagnostics, &targets,
            "only the first is used without connection_load_balancer; set that to none if this is intended");
    for (size_t i = 0; i < config->target_count; i++) {
        struct config_path target = path_item(&targets, i);
        struct config_path tls = path_key(&target, "tls_context");
        bool has_pair;
        check_certificates(&tls, diagnostics, &has_pair);
        check_authorized_names(&tls, config->targets[i].tls, false, diagnostics);
        check_name_to_verify(&tls, &config->targets[i], diagnostics);
        check_server_name(&tls, &config->targets[i], diagnostics);
        check_reach(&target, &config->targets[i], has_dual_stack, diagnostics);
        check_health(&target, &config->targets[i], has_choice, diagnostics);
    }
    check_what_targets_never_reach(&targets, config, diagnostics);
}

static void check_connection_log(const struct config_path *options, const struct proxy_config *config,
                                 struct diagnostics *diagnostics)
{
    struct config_path log = path_key(options, "connection_log");
    struct config_path interval = path_key(options, "connection_log_interval");
    warn_unless(log.node != NULL, options, "connection_log_connect", "without connection_log", diagnostics);
    warn_unless(log.node != NULL, options, "connection_log_interval", "without connection_log", diagnostics);
    if (config->connection_log_interval > 0 && config->connection_log_interval < NS_PER_S)
        report_error_at_value(diagnostics, &interval, "is too short: at least 1s");
}

// What is counted of each source.
// Whoever may send the PROXY protocol's header says which source it is.
static void check_who_declares_sources(const struct config_path *proxy, const struct config_path *limit,
                                       const struct proxy_config *config, struct diagnostics *diagnostics)
{
    struct config_path listener = path_key(proxy, "listener");
    struct config_path sources = path_key(&listener, "proxy_protocol_sources");
    struct config_path authorized = path_key(&listener, "authorized_sources");
    if (config->listener.proxy_protocol && config->listener.address.kind == ADDRESS_TCP && sources.node == NULL &&
        authorized.node == NULL)
        report_warning_at_key(diagnostics, limit,
                              "holds nobody back without the listener's proxy_protocol_sources: whoever connects "
                              "declares any source");
}

static void check_source_limits(const struct config_path *proxy, const struct config_path *options,
                                const struct proxy_config *config, struct diagnostics *diagnostics)
{
    static const char *const keys[] = {"source_connection_limit", "source_connection_rate"};
    const int64_t limits[] = {config->source_connection_limit, config->source_connection_rate};
    bool has_sources = config->listener.address.kind != ADDRESS_UNIX || config->listener.proxy_protocol;
    bool has_some = false;
    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++) {
        struct config_path path = path_key(options, keys[i]);
        has_some = has_some || path.node != NULL;
        if (limits[i] > 0 && !has_sources)
            report_warning_at_key(diagnostics, &path,
                                  "means nothing at a unix:// listener: its clients have no IP address");
        else if (limits[i] > 0)
            check_who_declares_sources(proxy, &path, config, diagnostics);
    }
    struct config_path limit = path_key(options, keys[0]), rate = path_key(options, keys[1]);
    if (has_sources && config->source_connection_limit > 0 && config->connection_limit > 0 &&
        config->source_connection_limit >= config->connection_limit)
        report_warning_at_key(diagnostics, &limit, "protects nobody: a single source can take all of connection_limit");
    warn_unless(rate.node != NULL, options, "source_connection_burst", "without source_connection_rate", diagnostics);
    static const char *const prefixes[] = {"source_ipv4_prefix", "source_ipv6_prefix"};
    for (size_t i = 0; i < ARRAY_LENGTH(prefixes); i++)
        warn_unless(has_some, options, prefixes[i], "without source_connection_limit or source_connection_rate",
                    diagnostics);
}

static void check_dual_stack(const struct config_path *options, const struct proxy_config *config,
                             struct diagnostics *diagnostics)
{
    bool has_effect = !config->enable_dual_stack;
    for (size_t i = 0; i < config->target_count; i++)
        has_effect = has_effect || has_name_to_resolve(&config->targets[i]);
    warn_unless(has_effect, options, "enable_dual_stack", "without a target whose name is resolved here", diagnostics);
}

static void check_proxy_header(const struct config_path *proxy, const struct config_path *options,
                               const struct proxy_config *config, struct diagnostics *diagnostics)
{
    static const char *const keys[] = {"proxy_header_version", "proxy_header_tlvs", "proxy_header_pass_tlvs"};
    struct config_path header = path_key(options, "enable_proxy_header");
    struct config_path version = path_key(options, "proxy_header_version");
    struct config_path pass = path_key(options, "proxy_header_pass_tlvs");
    struct config_path listener = path_key(proxy, "listener");
    struct config_path proxy_protocol = path_key(&listener, "proxy_protocol");
    struct config_path sources = path_key(&listener, "proxy_protocol_sources");
    struct config_path authorized = path_key(&listener, "authorized_sources");
    bool has_sources = sources.node != NULL || authorized.node != NULL;
    bool is_on = config->enable_proxy_header || path_is_refused(&header, diagnostics);
    bool is_binary = config->proxy_header_version == PROXY_HEADER_VERSION_2 || path_is_refused(&version, diagnostics);
    bool has_client = config->listener.proxy_protocol || path_is_refused(&proxy_protocol, diagnostics);
    for (size_t i = 0; i < ARRAY_LENGTH(keys); i++)
        warn_unless(is_on, options, keys[i], "without enable_proxy_header: true", diagnostics);
    for (size_t i = 1; is_on && i < ARRAY_LENGTH(keys); i++)
        warn_unless(is_binary, options, keys[i], "without proxy_header_version: 2", diagnostics);
    if (!is_on || !is_binary || !config->proxy_header_pass_tlvs)
        return;
    warn_unless(has_client, options, "proxy_header_pass_tlvs", "without the listener's proxy_protocol: true",
                diagnostics);
    // Other listeners' files and descriptors say who may come.
    if (has_client && !has_sources && config->listener.address.kind == ADDRESS_TCP)
        report_error_at_key(diagnostics, &pass,
                            "needs the listener's proxy_protocol_sources: without them, whoever connects could make "
                            "up what is passed on");
}

// Where only one side has a read timeout, it comes to stand for both when that side ends: maybe not what was meant.
static void check_read_timeouts(const struct config_path *proxy, const struct proxy_config *config,
                                struct diagnostics *diagnostics)
{
    struct config_path listener = path_key(proxy, "listener"), targets = path_key(proxy, "targets");
    struct config_path options = path_key(proxy, "options");
    struct config_path own = path_key(&listener, "read_timeout");
    struct config_path half_close = path_key(&options, "half_close_timeout");
    bool has_own = config->listener.read_timeout > 0;
    if (config->half_close_timeout > 0 || path_is_refused(&half_close, diagnostics) ||
        path_is_refused(&own, diagnostics))
        return;
    for (size_t i = 0; i < used_targets(config); i++) {
        struct config_path target = path_item(&targets, i);
        struct config_path other = path_key(&target, "read_timeout");
        if ((config->targets[i].read_timeout > 0) == has_own || path_is_refused(&other, diagnostics))
            continue;
        if (has_own)
            report_warning_at_key(diagnostics, &own,
                                  "is also how long targets[%zu] may be silent once the client has ended, as it has no "
                                  "read_timeout; set that, or half_close_timeout",
                                  i);
        else
            report_warning_at_key(diagnostics, &other,
                                  "is also how long a client may be silent once the target has ended, as the listener "
                                  "has no read_timeout; set that, or half_close_timeout");
        return;
    }
}

static void check_options(const struct config_path *proxy, const struct proxy_config *config,
                          struct diagnostics *diagnostics)
{
    struct config_path options = path_key(proxy, "options");
    check_proxy_header(proxy, &options, config, diagnostics);
    check_connection_log(&options, config, diagnostics);
    check_source_limits(proxy, &options, config, diagnostics);
    check_dual_stack(&options, config, diagnostics);
}

// Port 0 is a free one for each; it is also what an address that could not be read looks like.
static bool is_same_address(const struct address *a, const struct address *b)
{
    return !(a->kind == ADDRESS_TCP && a->port == 0) && address_equal(a, b);
}

static void check_unique_proxy(const struct config_path *proxies, const struct config *config, size_t index,
                               struct diagnostics *diagnostics)
{
    const struct proxy_config *proxy = &config->proxies[index];
    struct config_path at = path_item(proxies, index);
    struct config_path name = path_key(&at, "name");
    struct config_path listener = path_key(&at, "listener");
    struct config_path address = path_key(&listener, "address");
    bool is_name_taken = false;
    bool is_address_taken = false;
    for (size_t i = 0; i < index; i++) {
        const struct proxy_config *other = &config->proxies[i];
        if (!is_name_taken && proxy->name != NULL && other->name != NULL && strcmp(proxy->name, other->name) == 0) {
            is_name_taken = true;
            report_error_at_value(diagnostics, &name, "the name is taken: server.proxies[%zu] has it", i);
        }
        if (!is_address_taken && is_same_address(&proxy->listener.address, &other->listener.address)) {
            is_address_taken = true;
            report_error_at_value(diagnostics, &address, "server.proxies[%zu] already listens there", i);
        }
    }
}

static void check_application(const struct config_path *root, const struct config *config,
                              struct diagnostics *diagnostics)
{
    struct config_path application = path_key(root, "application");
    struct config_path dsn = path_key(&application, "sentry_dsn");
    warn_unless(dsn.node != NULL, &application, "sentry_environment", "without sentry_dsn", diagnostics);
    warn_unless(dsn.node != NULL, &application, "sentry_authority", "without sentry_dsn", diagnostics);
    bool is_plain = config->sentry_dsn != NULL && strncmp(config->sentry_dsn, "https:", strlen("https:")) != 0;
    warn_unless(!is_plain, &application, "sentry_authority", "without TLS: the sentry_dsn is not https", diagnostics);

    struct config_path metrics = path_key(&application, "metrics");
    struct config_path address = path_key(&metrics, "address");
    warn_unless(address.node != NULL, &metrics, "prefix", "without address", diagnostics);
    warn_unless(address.node != NULL, &metrics, "tag_format", "without address", diagnostics);

    struct config_path log = path_key(&application, "log");
    struct config_path level = path_key(&log, "level");
    warn_unless(level.node != NULL, &log, "format", "without level", diagnostics);
}

void check_across_keys(const struct config_path *root, const struct config *config, struct diagnostics *diagnostics)
{
    struct config_path server = path_key(root, "server");
    struct config_path proxies = path_key(&server, "proxies");
    check_application(root, config, diagnostics);
    check_control(root, config, diagnostics);
    for (size_t i = 0; i < config->proxy_count; i++) {
        struct config_path proxy = path_item(&proxies, i);
        check_unique_proxy(&proxies, config, i, diagnostics);
        check_listener(&proxy, &config->proxies[i], diagnostics);
        check_targets(&proxy, &config->proxies[i], diagnostics);
        check_options(&proxy, &config->proxies[i], diagnostics);
        check_read_timeouts(&proxy, &config->proxies[i], diagnostics);
        check_files_to_make(&proxy, &config->proxies[i], diagnostics);
    }
    check_where_listeners_meet(&proxies, config, diagnostics);
}
