#include <string.h>
#include <strings.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socks.h"
#include "checks.h"
#include "syntax.h"

static void check_certificates(const struct place *tls, struct problem_list *problems, bool *has_pair)
{
    struct place list = place_key(tls, "certificates");
    *has_pair = false;
    for (size_t i = 0; list.node != NULL && list.node->kind == YAML_SEQUENCE && i < list.node->count; i++) {
        struct place item = place_item(&list, i);
        struct place key = place_key(&item, "key");
        struct place certificate = place_key(&item, "certificate");
        struct place authority = place_key(&item, "authority");
        struct place revocation_list = place_key(&item, "revocation_list");
        if (revocation_list.node != NULL && authority.node == NULL)
            problem_at_key(problems, &revocation_list, "a revocation_list needs the authority beside it");
        if (key.node != NULL && certificate.node != NULL)
            *has_pair = true;
        else if (key.node != NULL)
            problem_at_key(problems, &key, "a key needs a certificate beside it");
        else if (certificate.node != NULL)
            problem_at_key(problems, &certificate, "a certificate needs a key beside it");
        else if (authority.node == NULL && item.node->kind == YAML_MAPPING)
            problem_at_value(problems, &item, "must have key and certificate, authority, or all three");
    }
}

// A key that has no effect without another is a mistake: somebody counts on it.
static void check_needed(const struct place *parent, const char *const *keys, size_t count, bool has_it,
                         const char *what, struct problem_list *problems)
{
    for (size_t i = 0; !has_it && i < count; i++) {
        struct place place = place_key(parent, keys[i]);
        if (place.node != NULL)
            problem_at_key(problems, &place, "means nothing without %s", what);
    }
}

static void check_proxy_protocol(const struct place *listener, const struct listener_config *config,
                                 struct problem_list *problems)
{
    static const char *const keys[] = {"proxy_protocol_sources", "proxy_protocol_timeout"};
    check_needed(listener, keys, ARRAY_LENGTH(keys), config->proxy_protocol, "proxy_protocol: true", problems);
    struct place sources = place_key(listener, "proxy_protocol_sources");
    if (sources.node != NULL && config->address.kind == ADDRESS_UNIX)
        problem_at_key(problems, &sources, "clients of a unix:// listener have no IP address to tell them by");
}

static void check_listener(const struct place *proxy, const struct listener_config *config,
                           struct problem_list *problems)
{
    struct place listener = place_key(proxy, "listener");
    struct place sources = place_key(&listener, "authorized_sources");
    if (config->address.kind == ADDRESS_UNIX && sources.node != NULL)
        problem_at_key(problems, &sources, "clients of a unix:// listener have no IP address to tell them by");

    check_proxy_protocol(&listener, config, problems);

    struct place tls = place_key(&listener, "tls_context");
    bool has_pair;
    check_certificates(&tls, problems, &has_pair);
    if (tls.node != NULL && tls.node->kind == YAML_MAPPING && !has_pair)
        problem_at_key(problems, &tls, "a listener with TLS needs at least one certificate with its key");
}

static void check_target_names(const struct place *targets, const struct proxy_config *config,
                               struct problem_list *problems)
{
    for (size_t i = 0; i < config->target_count; i++) {
        for (size_t before = 0; config->targets[i].name != NULL && before < i; before++) {
            if (config->targets[before].name == NULL ||
                strcmp(config->targets[before].name, config->targets[i].name) != 0)
                continue;
            struct place target = place_item(targets, i);
            struct place name = place_key(&target, "name");
            problem_at_value(problems, &name, "the name is taken: targets[%zu] of this proxy has it", before);
            break;
        }
    }
}

// *.example.com and * are patterns of one.
static bool is_server_name(const char *name)
{
    if (strcmp(name, "*") == 0)
        return true;
    return syntax_server_name(name[0] == '*' && name[1] == '.' ? name + 2 : name, NULL);
}

// Where names choose, one that can never be asked for, or that another target answers to, is a mistake.
static void check_server_names(const struct place *targets, const struct proxy_config *config,
                               struct problem_list *problems)
{
    for (size_t i = 0; config->balancer == BALANCER_SNI && i < config->target_count; i++) {
        const char *own = config->targets[i].name;
        if (own == NULL)
            continue;
        struct place target = place_item(targets, i);
        struct place name = place_key(&target, "name");
        if (!is_server_name(own))
            problem_at_value(problems, &name,
                             "is no server name, which it has to be under sni: example.com, *.example.com or *");
        for (size_t before = 0; before < i; before++) {
            const char *other = config->targets[before].name;
            if (other == NULL || strcasecmp(other, own) != 0 || strcmp(other, own) == 0)
                continue;
            problem_at_value(problems, &name, "is the same server name as that of targets[%zu]", before);
            break;
        }
    }
}

static void check_name_to_verify(const struct place *tls, const struct target_config *target,
                                 struct problem_list *problems)
{
    if (target->tls == NULL || target->tls->verify_mode != VERIFY_STRICT || target->address.kind == ADDRESS_TCP)
        return;
    struct place name = place_key(tls, "server_name");
    if (name.node == NULL)
        problem_at_key(problems, tls,
                       "strict needs a name to verify, which this kind of address has not: give it a "
                       "server_name, or another verify_mode");
}

static void check_reach(const struct place *place, const struct target_config *target, struct problem_list *problems)
{
    struct place proxy = place_key(place, "proxy");
    struct error error = ERROR_INIT;
    if (target->socks_proxy != NULL && !socks_can_reach(&target->address, &error))
        problem_at_key(problems, &proxy, "%s", error.text);
    struct place max_fails = place_key(place, "max_fails");
    if (target->max_fails > 0 && target->fail_timeout == 0)
        problem_at_key(problems, &max_fails, "needs a fail_timeout above 0");
}

static void check_targets(const struct place *proxy, const struct proxy_config *config, struct problem_list *problems)
{
    struct place targets = place_key(proxy, "targets");
    check_target_names(&targets, config, problems);
    check_server_names(&targets, config, problems);
    for (size_t i = 0; i < config->target_count; i++) {
        struct place target = place_item(&targets, i);
        struct place tls = place_key(&target, "tls_context");
        bool has_pair;
        check_certificates(&tls, problems, &has_pair);
        check_name_to_verify(&tls, &config->targets[i], problems);
        check_reach(&target, &config->targets[i], problems);
    }
}

static void check_connection_log(const struct place *options, const struct proxy_config *config,
                                 struct problem_list *problems)
{
    static const char *const keys[] = {"connection_log_connect", "connection_log_interval"};
    check_needed(options, keys, ARRAY_LENGTH(keys), config->connection_log != NULL, "connection_log", problems);
    struct place interval = place_key(options, "connection_log_interval");
    if (config->connection_log_interval > 0 && config->connection_log_interval < NS_PER_S)
        problem_at_value(problems, &interval, "is too short: at least 1s");
}

static void check_options(const struct place *proxy, const struct proxy_config *config, struct problem_list *problems)
{
    static const char *const keys[] = {"proxy_header_version"};
    struct place options = place_key(proxy, "options");
    check_needed(&options, keys, ARRAY_LENGTH(keys), config->enable_proxy_header, "enable_proxy_header: true",
                 problems);
    check_connection_log(&options, config, problems);
}

// Port 0 is a free one for each; it is also what an address that could not be read looks like.
static bool is_same_place(const struct address *a, const struct address *b)
{
    return !(a->kind == ADDRESS_TCP && a->port == 0) && address_equal(a, b);
}

static void check_unique_proxy(const struct place *proxies, const struct config *config, size_t index,
                               struct problem_list *problems)
{
    const struct proxy_config *proxy = &config->proxies[index];
    struct place at = place_item(proxies, index);
    struct place name = place_key(&at, "name");
    struct place listener = place_key(&at, "listener");
    struct place address = place_key(&listener, "address");
    bool is_name_taken = false;
    bool is_address_taken = false;
    for (size_t i = 0; i < index; i++) {
        const struct proxy_config *other = &config->proxies[i];
        if (!is_name_taken && proxy->name != NULL && other->name != NULL && strcmp(proxy->name, other->name) == 0) {
            is_name_taken = true;
            problem_at_value(problems, &name, "the name is taken: server.proxies[%zu] has it", i);
        }
        if (!is_address_taken && is_same_place(&proxy->listener.address, &other->listener.address)) {
            is_address_taken = true;
            problem_at_value(problems, &address, "server.proxies[%zu] listens there already", i);
        }
    }
}

static void check_sentry(const struct place *root, const struct config *config, struct problem_list *problems)
{
    static const char *const keys[] = {"sentry_environment", "sentry_authority"};
    struct place application = place_key(root, "application");
    // One that could not be read is there nevertheless.
    struct place dsn = place_key(&application, "sentry_dsn");
    check_needed(&application, keys, ARRAY_LENGTH(keys), dsn.node != NULL, "sentry_dsn", problems);
    if (config->sentry_authority != NULL && config->sentry_dsn != NULL &&
        strncmp(config->sentry_dsn, "https:", strlen("https:")) != 0) {
        struct place authority = place_key(&application, "sentry_authority");
        problem_at_key(problems, &authority, "means nothing without TLS: the sentry_dsn is not https");
    }
}

static void check_metrics(const struct place *root, struct problem_list *problems)
{
    static const char *const keys[] = {"prefix", "tag_format"};
    struct place application = place_key(root, "application");
    struct place metrics = place_key(&application, "metrics");
    struct place address = place_key(&metrics, "address");
    check_needed(&metrics, keys, ARRAY_LENGTH(keys), address.node != NULL, "address", problems);
}

void check_across_keys(const struct place *root, const struct config *config, struct problem_list *problems)
{
    check_sentry(root, config, problems);
    struct place server = place_key(root, "server");
    struct place proxies = place_key(&server, "proxies");
    check_metrics(root, problems);
    for (size_t i = 0; i < config->proxy_count; i++) {
        struct place proxy = place_item(&proxies, i);
        check_unique_proxy(&proxies, config, i, problems);
        check_listener(&proxy, &config->proxies[i].listener, problems);
        check_targets(&proxy, &config->proxies[i], problems);
        check_options(&proxy, &config->proxies[i], problems);
    }
}
