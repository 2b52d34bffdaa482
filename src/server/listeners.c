#include "listeners.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bitflow/base/invariant.h"
#include "bitflow/base/signals.h"
#include "bitflow/net/listener.h"

// One proxy of the configuration that is about to be in force.
struct planned_listener {
    struct acceptor *acceptor;
    struct generation *generation;
    bool is_new;
    bool is_access_changed; // of one that is not new; then it had this before:
    struct unix_access access_before;
};

void listeners_init(struct listeners *listeners, struct runtime *runtime, void (*on_end)(void))
{
    *listeners = (struct listeners){.runtime = runtime, .on_end = on_end};
}

static bool is_planned(const struct acceptor *acceptor, const struct planned_listener *plan, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (plan[i].acceptor == acceptor)
            return true;
    return false;
}

// The plan: what the `count` proxies before this one in the file have been given.
static struct acceptor *find_by_address(const struct listeners *listeners, const struct address *address,
                                        const struct planned_listener *plan, size_t count)
{
    for (size_t i = 0; i < listeners->count; i++)
        if (address_equal(acceptor_address(listeners->acceptors[i]), address) &&
            acceptor_is_intact(listeners->acceptors[i]) && !is_planned(listeners->acceptors[i], plan, count))
            return listeners->acceptors[i];
    return NULL;
}

// The proxy of that name goes on, with its counts, even if its address changes.
static struct proxy *find_or_create_proxy(const struct listeners *listeners, const char *name, struct error *error)
{
    for (size_t i = 0; i < listeners->count; i++) {
        struct proxy *proxy = acceptor_proxy(listeners->acceptors[i]);
        if (strcmp(proxy->name, name) == 0)
            return proxy_hold(proxy);
    }
    return proxy_create(name, &listeners->runtime->metrics, error);
}

static bool is_access_asked(const struct listener_config *settings)
{
    return settings->unix_mode != NULL || settings->unix_user != NULL || settings->unix_group != NULL;
}

static bool find_access(const struct listener_config *settings, struct unix_access *access, struct error *error)
{
    struct error cause = ERROR_INIT;
    if (unix_access_of(settings->unix_mode, settings->unix_user, settings->unix_group, access, &cause))
        return true;
    error_wrap(error, &cause, "unix_mode, unix_user or unix_group"); // a user who was there when the file was read
    return false;
}

static struct acceptor *open_acceptor(struct listeners *listeners, struct generation *generation, struct error *error)
{
    struct listener listener;
    struct unix_access access;
    if (!find_access(&generation->settings->listener, &access, error) ||
        !listener_open(&generation->settings->listener.address, &access, &listener, error))
        return NULL;
    struct acceptor *acceptor = acceptor_create(listeners->runtime, generation, &listener, listeners->on_end, error);
    if (acceptor == NULL)
        listener_give_up(&listener);
    return acceptor;
}

// The configuration cannot know it of an inherited socket: lists that no client could ever be on.
static bool check_peers(const struct listener_config *settings, const struct acceptor *acceptor, struct error *error)
{
    if (settings->authorized_peer_count == 0 || acceptor_is_local(acceptor))
        return true;
    char address[ADDRESS_TEXT_SIZE];
    address_format(&settings->address, address);
    error_set(
        error, ERROR_INVALID,
        "%s is no Unix socket, so that nobody knows its clients' users: authorized_peers cannot let any of them in",
        address);
    return false;
}

static bool check_sources(const struct listener_config *settings, const struct acceptor *acceptor, struct error *error)
{
    const char *key = settings->authorized_source_count > 0       ? "authorized_sources"
                      : settings->proxy_protocol_source_count > 0 ? "proxy_protocol_sources"
                                                                  : NULL;
    if (key == NULL || !acceptor_is_local(acceptor))
        return true;
    char address[ADDRESS_TEXT_SIZE];
    address_format(&settings->address, address);
    error_set(error, ERROR_INVALID,
              "%s is a Unix socket, whose clients have no IP address: %s cannot let any of them in", address, key);
    return false;
}

// Nor this, which does no harm. Of unix:// it is known, and has been told.
static void warn_of_source_limits(const struct proxy_config *settings, const struct acceptor *acceptor)
{
    const struct listener_config *listener = &settings->listener;
    if (listener->proxy_protocol || !acceptor_is_local(acceptor) || listener->address.kind == ADDRESS_UNIX)
        return;
    struct log_context context = {.proxy = settings->name};
    char address[ADDRESS_TEXT_SIZE];
    address_format(&listener->address, address);
    if (settings->source_connection_limit > 0)
        log_warn(&context, "source_connection_limit means nothing at a Unix socket: its clients have no IP address",
                 "address", address, NULL);
    if (settings->source_connection_rate > 0)
        log_warn(&context, "source_connection_rate means nothing at a Unix socket: its clients have no IP address",
                 "address", address, NULL);
}

static bool plan_listener(struct listeners *listeners, const struct config *config, struct tls_contexts *tls_contexts,
                          struct planned_listener *plan, size_t index, struct error *error)
{
    const struct proxy_config *settings = &config->proxies[index];
    struct planned_listener *planned = &plan[index];
    if (settings->connection_lifetime > 0 && !registry_watch_lifetimes(listeners->runtime->registry, error))
        return false;
    if (settings->connection_log != NULL && settings->connection_log_interval > 0 &&
        !periodic_records_start(listeners->runtime->periodic_records, error))
        return false;
    struct proxy *proxy = find_or_create_proxy(listeners, settings->name, error);
    if (proxy == NULL)
        return false;
    planned->generation = generation_create(proxy, config, settings, &tls_contexts[index], error);
    proxy_drop(&proxy);
    if (planned->generation == NULL)
        return false;
    planned->acceptor = find_by_address(listeners, &settings->listener.address, plan, index);
    if (planned->acceptor == NULL) {
        planned->acceptor = open_acceptor(listeners, planned->generation, error);
        planned->is_new = planned->acceptor != NULL;
    }
    if (planned->acceptor == NULL || !check_sources(&settings->listener, planned->acceptor, error) ||
        !check_peers(&settings->listener, planned->acceptor, error))
        return false;
    warn_of_source_limits(settings, planned->acceptor);
    return true;
}

// As the last thing that may fail, since clients notice it at once.
static bool change_access(const struct config *config, struct planned_listener *plan, struct error *error)
{
    for (size_t i = 0; i < config->proxy_count; i++) {
        const struct listener_config *settings = &config->proxies[i].listener;
        struct unix_access access;
        struct error cause = ERROR_INIT;
        if (plan[i].is_new || !is_access_asked(settings))
            continue;
        plan[i].is_access_changed = find_access(settings, &access, &cause) &&
                                    acceptor_set_access(plan[i].acceptor, &access, &plan[i].access_before, &cause);
        if (!plan[i].is_access_changed) {
            error_wrap(error, &cause, "proxy %s", config->proxies[i].name);
            return false;
        }
    }
    return true;
}

static void abandon_plan(struct planned_listener *plan, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct unix_access changed;
        if (plan[i].is_new)
            acceptor_destroy(&plan[i].acceptor);
        else if (plan[i].is_access_changed)
            (void)acceptor_set_access(plan[i].acceptor, &plan[i].access_before, &changed, NULL);
        generation_drop(&plan[i].generation);
    }
}

static void switch_over(struct listeners *listeners, struct planned_listener *plan, size_t count,
                        struct acceptor **acceptors)
{
    // All at once, as each serves its queue first.
    for (size_t i = 0; i < listeners->count; i++)
        if (!is_planned(listeners->acceptors[i], plan, count))
            acceptor_stop(listeners->acceptors[i]);
    for (size_t i = 0; i < listeners->count; i++)
        if (!is_planned(listeners->acceptors[i], plan, count))
            acceptor_destroy(&listeners->acceptors[i]);
    for (size_t i = 0; i < count; i++) {
        generation_publish(plan[i].generation);
        if (plan[i].is_new)
            acceptor_open(plan[i].acceptor);
        else
            acceptor_update(plan[i].acceptor, plan[i].generation);
        generation_drop(&plan[i].generation);
        acceptors[i] = plan[i].acceptor;
    }
    free(listeners->acceptors);
    listeners->acceptors = acceptors;
    listeners->count = count;
}

bool listeners_change(struct listeners *listeners, const struct config *config, struct tls_contexts *tls_contexts,
                      struct error *error)
{
    size_t count = config->proxy_count;
    struct planned_listener *plan = calloc(count, sizeof *plan);
    struct acceptor **acceptors = calloc(count, sizeof(struct acceptor *));
    struct error cause = ERROR_INIT;
    bool planned = plan != NULL && acceptors != NULL;
    if (!planned)
        error_set_errno(error, ENOMEM, "cannot prepare %zu proxies", count);
    for (size_t i = 0; planned && i < count; i++) {
        if (signals_told_to_end())
            error_set(&cause, ERROR_CANCELLED, "the process is told to end");
        planned = cause.code == ERROR_NONE && plan_listener(listeners, config, tls_contexts, plan, i, &cause);
        if (!planned)
            error_wrap(error, &cause, "proxy %s", config->proxies[i].name);
    }
    planned = planned && change_access(config, plan, error);
    if (planned) {
        switch_over(listeners, plan, count, acceptors);
    } else {
        if (plan != NULL)
            abandon_plan(plan, count);
        free(acceptors);
    }
    free(plan);
    return planned;
}

static struct generation *renewed(const struct acceptor *acceptor, const struct config *config,
                                  struct tls_contexts *tls_contexts, struct error *error)
{
    struct generation *before = acceptor_generation(acceptor);
    const struct proxy_config *settings = before->settings;
    INVARIANT(before->config == config);
    struct generation *generation =
        generation_create(before->proxy, config, settings, &tls_contexts[settings - config->proxies], error);
    generation_drop(&before);
    return generation;
}

bool listeners_renew(struct listeners *listeners, const struct config *config, struct tls_contexts *tls_contexts,
                     struct error *error)
{
    struct generation **generations = calloc(listeners->count + 1, sizeof(struct generation *));
    if (generations == NULL) {
        error_set_errno(error, ENOMEM, "cannot prepare %zu proxies", listeners->count);
        return false;
    }
    size_t count = 0;
    while (count < listeners->count &&
           (generations[count] = renewed(listeners->acceptors[count], config, tls_contexts, error)) != NULL)
        count++;
    bool is_complete = count == listeners->count;
    for (size_t i = 0; i < count; i++) {
        if (is_complete) {
            generation_publish(generations[i]);
            acceptor_renew(listeners->acceptors[i], generations[i]);
        }
        generation_drop(&generations[i]);
    }
    free(generations);
    return is_complete;
}

size_t listeners_close_failed(struct listeners *listeners, bool *any_failed)
{
    size_t kept = 0, live = 0;
    for (size_t i = 0; i < listeners->count; i++) {
        struct acceptor *acceptor = listeners->acceptors[i];
        // The acceptor of an inherited connection stays: its address is taken, a reload must not open it again.
        if (acceptor_has_ended(acceptor) && !acceptor_is_connected(acceptor)) {
            acceptor_destroy(&acceptor);
            *any_failed = true;
            continue;
        }
        live += acceptor_has_ended(acceptor) ? 0 : 1;
        listeners->acceptors[kept++] = acceptor;
    }
    listeners->count = kept;
    return live;
}

static void give_access_back(const struct acceptor *acceptor)
{
    struct generation *generation = acceptor_generation(acceptor);
    const struct listener_config *settings = &generation->settings->listener;
    struct unix_access access, before;
    struct error error = ERROR_INIT;
    if (is_access_asked(settings) &&
        !(find_access(settings, &access, &error) && acceptor_set_access(acceptor, &access, &before, &error))) {
        struct log_context context = {.proxy = generation->settings->name};
        log_error(&context, "cannot give the Unix socket its access back", "error", error.text, NULL);
    }
    generation_drop(&generation);
}

void listeners_reclaim(const struct listeners *listeners)
{
    for (size_t i = 0; i < listeners->count; i++) {
        acceptor_reclaim(listeners->acceptors[i]);
        give_access_back(listeners->acceptors[i]);
    }
}

void listeners_ping(struct listeners *listeners)
{
    for (size_t i = 0; i < listeners->count; i++)
        acceptor_ping(listeners->acceptors[i]);
}

const char *listeners_find_silent(const struct listeners *listeners)
{
    for (size_t i = 0; i < listeners->count; i++)
        if (!acceptor_has_answered(listeners->acceptors[i]))
            return acceptor_proxy(listeners->acceptors[i])->name;
    return NULL;
}

void listeners_stop(struct listeners *listeners)
{
    for (size_t i = 0; i < listeners->count; i++)
        acceptor_stop(listeners->acceptors[i]);
}

bool listeners_have_ended(const struct listeners *listeners)
{
    for (size_t i = 0; i < listeners->count; i++)
        if (!acceptor_has_ended(listeners->acceptors[i]))
            return false;
    return true;
}

void listeners_hurry(struct listeners *listeners)
{
    for (size_t i = 0; i < listeners->count; i++)
        acceptor_hurry(listeners->acceptors[i]);
}

void listeners_release(struct listeners *listeners)
{
    for (size_t i = 0; i < listeners->count; i++)
        acceptor_destroy(&listeners->acceptors[i]);
    free(listeners->acceptors);
    listeners->acceptors = NULL;
    listeners->count = 0;
}
