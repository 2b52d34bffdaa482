#include "certificate_reload.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "acceptor.h"
#include "bitflow/base/invariant.h"
#include "bitflow/base/log.h"
#include "bitflow/base/signals.h"
#include "bitflow/proxy/tls_contexts.h"
#include "bitflow/server/loaded_config.h"
#include "bitflow/tls/tls_context.h"

#define NEWS_MAX 50 // lines of what is in force now

// ---- what has changed

static bool is_changed_context(const struct tls_context *now, const struct tls_context *before)
{
    return now != NULL && tls_context_fingerprint(now) != tls_context_fingerprint(before);
}

static bool is_changed_proxy(const struct tls_contexts *now, const struct generation *before)
{
    bool is_changed = is_changed_context(now->listener, before->tls);
    for (size_t i = 0; !is_changed && i < now->target_count; i++)
        is_changed = is_changed_context(now->targets[i], before->targets[i].tls);
    return is_changed;
}

static bool is_changed(struct generation *const *before, size_t count, const struct config *config,
                       const struct tls_contexts *tls_contexts)
{
    for (size_t i = 0; i < count; i++)
        if (is_changed_proxy(&tls_contexts[before[i]->settings - config->proxies], before[i]))
            return true;
    return false;
}

// ---- what is told of it

// A file that many targets name is told of once, as long as there is room to remember it.
struct report {
    struct log_context context; // whose it is
    const char *target;         // NULL: the listener's
    const char *told[NEWS_MAX]; // paths; the contexts' own
    size_t told_count;
    int64_t left_out;
};

static bool is_told(const struct report *report, const char *path)
{
    for (size_t i = 0; i < report->told_count; i++)
        if (strcmp(report->told[i], path) == 0)
            return true;
    return false;
}

static const char *message_of(const struct tls_news *news)
{
    if (strcmp(news->what, "certificate") == 0)
        return "certificate in force";
    return strcmp(news->what, "authority") == 0 ? "authority in force" : "revocation list in force";
}

static const char *filled(const char *text)
{
    return *text != '\0' ? text : NULL;
}

static void log_news(void *argument, const struct tls_news *news)
{
    struct report *report = argument;
    char count[LOG_NUMBER_SIZE];
    if (is_told(report, news->path))
        return;
    if (report->told_count == NEWS_MAX) {
        report->left_out++;
        return;
    }
    report->told[report->told_count++] = news->path;
    log_info(&report->context, message_of(news), "target", report->target, "file", news->path, "subject",
             filled(news->subject), "names", filled(news->names), "serial", filled(news->serial), "fingerprint",
             filled(news->fingerprint), "count", news->count > 1 ? log_number(count, news->count) : NULL, "valid_until",
             filled(news->valid_until), NULL);
}

static void compare(struct report *report, const struct tls_context *now, const struct tls_context *before)
{
    if (is_changed_context(now, before))
        tls_context_compare(now, before, log_news, report);
}

static void log_in_force(const struct listeners *listeners, struct generation *const *before)
{
    struct report report = {.target = NULL};
    for (size_t i = 0; i < listeners->count; i++) {
        struct generation *now = acceptor_generation(listeners->acceptors[i]);
        INVARIANT(before[i] != NULL); // the listeners are those of before
        report.context.proxy = now->proxy->name;
        report.target = NULL;
        compare(&report, now->tls, before[i]->tls);
        for (size_t n = 0; n < now->settings->target_count; n++) {
            report.target = now->settings->targets[n].name;
            compare(&report, now->targets[n].tls, before[i]->targets[n].tls);
        }
        generation_drop(&now); // it is in force, and so are the paths that are remembered
    }
    char count[LOG_NUMBER_SIZE];
    if (report.left_out > 0)
        log_info(NULL, "more files of certificates in force", "count", log_number(count, report.left_out), NULL);
}

static enum reload_status log_refusal(const struct diagnostics *diagnostics, const struct error *error)
{
    static const char message[] = "certificates are not reloaded, the old ones stay in force";
    if (signals_told_to_end())
        return RELOAD_GIVEN_UP;
    for (size_t i = 0; i < diagnostics->kept; i++) {
        const struct diagnostic *diagnostic = &diagnostics->list[i];
        if (diagnostic->severity == DIAGNOSTIC_ERROR)
            log_warn(NULL, message, "key", diagnostic->path, "error", diagnostic->text, NULL);
    }
    if (error->code != ERROR_NONE)
        log_warn(NULL, message, "error", error->text, NULL);
    return RELOAD_REFUSED;
}

// ---- putting it in force

// What is in force at each listener; `count` of them, to be dropped.
static struct generation **hold_generations(const struct listeners *listeners)
{
    struct generation **generations = calloc(listeners->count + 1, sizeof(struct generation *));
    for (size_t i = 0; generations != NULL && i < listeners->count; i++)
        generations[i] = acceptor_generation(listeners->acceptors[i]);
    return generations;
}

static void drop_generations(struct generation **generations, size_t count)
{
    for (size_t i = 0; generations != NULL && i < count; i++)
        generation_drop(&generations[i]);
    free(generations);
}

static enum reload_status change(struct service *service, struct tls_contexts *tls_contexts,
                                 struct diagnostics *diagnostics, struct generation *const *before)
{
    struct error error = ERROR_INIT;
    tls_contexts_check(tls_contexts, service->config, diagnostics);
    if (!listeners_renew(&service->listeners, service->config, tls_contexts, &error))
        return log_refusal(diagnostics, &error);
    control_publish(&service->control); // or what was in force would be kept for it
    log_in_force(&service->listeners, before);
    service_log_diagnostics(diagnostics); // only warnings are left
    return RELOAD_DONE;
}

static enum reload_status change_if_needed(struct service *service, struct tls_contexts *tls_contexts,
                                           uint64_t sentry_authority, struct diagnostics *diagnostics,
                                           struct generation *const *before)
{
    const struct config *config = service->config;
    bool is_sentry_changed = sentry_authority != service->sentry_authority;
    bool is_tls_changed = is_changed(before, service->listeners.count, config, tls_contexts);
    enum reload_status status = RELOAD_DONE;
    if (is_tls_changed)
        status = change(service, tls_contexts, diagnostics, before);
    if (status == RELOAD_DONE && is_sentry_changed) {
        service->sentry_authority = sentry_authority; // libcurl reads it by itself
        log_info(NULL, "authority in force", "file", config->sentry_authority.path, NULL);
    }
    if (!is_tls_changed && !is_sentry_changed)
        log_debug(NULL, "files of certificates were written, and hold what is in force", NULL);
    else if (status == RELOAD_DONE)
        log_info(NULL, "certificates reloaded", NULL);
    return status;
}

static enum reload_status reload(struct service *service, struct diagnostics *diagnostics)
{
    const struct config *config = service->config;
    struct error error = ERROR_INIT;
    struct tls_contexts *tls_contexts = tls_contexts_load(config, diagnostics);
    uint64_t sentry_authority = loaded_config_check_sentry_authority(config, diagnostics);
    size_t count = service->listeners.count;
    struct generation **before = hold_generations(&service->listeners);
    if (before == NULL)
        error_set(&error, ERROR_NO_MEMORY, "out of memory");
    enum reload_status status = diagnostics->errors > 0 || before == NULL
                                    ? log_refusal(diagnostics, &error)
                                    : change_if_needed(service, tls_contexts, sentry_authority, diagnostics, before);
    drop_generations(before, count);
    tls_contexts_free(&tls_contexts, config->proxy_count);
    return status;
}

void service_reload_certificates(struct service *service, struct reload_outcome *outcome)
{
    struct diagnostics diagnostics;
    diagnostics_init(&diagnostics, service->path);
    *outcome = (struct reload_outcome){.status = reload(service, &diagnostics)};
    if (outcome->status != RELOAD_GIVEN_UP)
        metrics_report_reloaded(&service->metrics, RELOAD_OF_CERTIFICATES, outcome->status == RELOAD_DONE);
    diagnostics_release(&diagnostics);
}

void service_reload_if_changed(struct service *service, struct reload_outcome *outcome)
{
    if (!config_is_same(service->config, service->path)) {
        log_info(NULL, "the configuration has changed", "file", service->path, NULL);
        service_reload(service, outcome);
        return;
    }
    log_debug(NULL, "the configuration was written, and says what is in force", "file", service->path, NULL);
    // One that was refused may have been taken back: the next start would not fail any more.
    metrics_report_reloaded(&service->metrics, RELOAD_OF_CONFIGURATION, true);
    *outcome = (struct reload_outcome){.status = RELOAD_DONE};
}
