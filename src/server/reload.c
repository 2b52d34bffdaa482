#include "reload.h"

#include <stddef.h>

#include "bitflow/base/log.h"
#include "bitflow/base/signals.h"
#include "bitflow/relay/relay.h"
#include "bitflow/telemetry/connection_log.h"
#include "error_reports.h"

void service_set_up_log(const struct config *config)
{
    log_set_format(config->log_format);
    log_set_level(config->log_level);
}

static void log_diagnostic(const struct diagnostics *diagnostics, const struct diagnostic *diagnostic)
{
    char line[DIAGNOSTIC_LINE_SIZE];
    char place[DIAGNOSTIC_PLACE_SIZE];
    struct log_context context = {.proxy = diagnostic->proxy};
    diagnostic_format(diagnostics, diagnostic, line);
    diagnostic_format_place(diagnostics, diagnostic, place);
    if (diagnostic->severity == DIAGNOSTIC_ERROR)
        log_error(NULL, "configuration error", "error", line, NULL);
    else if (diagnostic->file != NULL)
        log_warn(&context, diagnostic->text, "file", diagnostic->file, "named_at", place, NULL);
    else if (diagnostic->path == NULL) // of the host
        log_warn(NULL, diagnostic->text, NULL);
    else
        log_warn(NULL, "configuration warning", "warning", line, NULL);
}

void service_log_diagnostics(const struct diagnostics *diagnostics)
{
    for (size_t i = 0; i < diagnostics->kept; i++)
        log_diagnostic(diagnostics, &diagnostics->list[i]);
    char count[LOG_NUMBER_SIZE];
    size_t more = diagnostics_left_out(diagnostics, DIAGNOSTIC_ERROR);
    if (more > 0)
        log_error(NULL, "more configuration errors", "count", log_number(count, (int64_t)more), NULL);
    more = diagnostics_left_out(diagnostics, DIAGNOSTIC_WARNING);
    if (more > 0)
        log_warn(NULL, "more configuration warnings", "count", log_number(count, (int64_t)more), NULL);
}

bool service_change(struct service *service, struct loaded_config *loaded, struct error *error)
{
    service_log_diagnostics(&loaded->diagnostics);
    service_log_diagnostics(&loaded->host_diagnostics);
    bool changed = metrics_report_prepare(&service->metrics, loaded->config, error) &&
                   error_reports_prepare(loaded->config, error) &&
                   control_prepare(&service->control, loaded->config, error);
    if (changed && !listeners_change(&service->listeners, loaded->config, loaded->tls_contexts, error)) {
        control_abandon(&service->control);
        changed = false;
    }
    if (changed) {
        config_drop(&service->config);
        service->config = config_hold(loaded->config);
        error_reports_configure(service->config);
        service->sentry_authority = loaded->sentry_authority;
        watched_files_apply(&service->watched_files, service->path, service->config, loaded->since);
        control_publish(&service->control);
        // All is open. Whoever can ask is told so: the control socket may be one that a process before us answered at.
        control_set_stage(&service->control, CONTROL_SERVING);
        control_commit(&service->control);
    }
    if (service->config != NULL)
        metrics_report_apply(&service->metrics, service->config);
    return changed;
}

// `error`: why it could not be put in force; empty: the diagnostics have said it.
static void log_failed_reload(const char *path, const struct error *error)
{
    if (error->code == ERROR_NONE)
        log_error(NULL, "reload failed, the old configuration stays in force", "file", path, NULL);
    else
        log_error(NULL, "reload failed, the old configuration stays in force", "file", path, "error", error->text,
                  NULL);
}

// What is said of it is still wanted, by whoever has asked for the reload.
static void keep_diagnostics(struct loaded_config *loaded, struct reload_outcome *outcome)
{
    outcome->diagnostics = loaded->diagnostics;
    outcome->has_diagnostics = true;
    diagnostics_init(&loaded->diagnostics, outcome->diagnostics.file);
}

void reload_outcome_release(struct reload_outcome *outcome)
{
    if (outcome->has_diagnostics)
        diagnostics_release(&outcome->diagnostics);
    *outcome = (struct reload_outcome){.status = RELOAD_NOT_DONE};
}

static enum reload_status log_reload(struct service *service, const struct loaded_config *loaded, bool is_loaded,
                                     bool is_changed, const struct error *error)
{
    if (is_changed) {
        log_info(NULL, "reloaded", "file", service->path, NULL);
        return RELOAD_DONE;
    }
    if (signals_told_to_end()) {
        log_info(NULL, "reload given up, the process is told to end", "file", service->path, NULL);
        return RELOAD_GIVEN_UP;
    }
    if (!is_loaded)
        service_log_diagnostics(&loaded->diagnostics);
    log_failed_reload(service->path, error);
    return RELOAD_REFUSED;
}

// What is put in force has its certificates loaded, too. A refusal says nothing of those that are in use.
static void note_reload(struct metrics_report *metrics, enum reload_status status)
{
    if (status == RELOAD_GIVEN_UP)
        return;
    metrics_report_reloaded(metrics, RELOAD_OF_CONFIGURATION, status == RELOAD_DONE);
    if (status == RELOAD_DONE)
        metrics_report_reloaded(metrics, RELOAD_OF_CERTIFICATES, true);
}

void service_reload(struct service *service, struct reload_outcome *outcome)
{
    struct loaded_config loaded;
    struct error error = ERROR_INIT;
    service_manager_reloading(&service->manager);
    // Whatever the configuration says: a rotation must not depend on it.
    (void)connection_log_reopen_all();
    upgrade_pass_reopening_on(&service->upgrade);
    // A listener whose notice is still to come must not be kept.
    (void)listeners_close_failed(&service->listeners, &service->has_failed);
    bool is_loaded = loaded_config_load(&loaded, service->path);
    bool is_changed = is_loaded && service_change(service, &loaded, &error);
    if (is_changed) {
        service_set_up_log(service->config);
        thread_pool_set_scheduling(service->runtime.threads, service->config->scheduling);
        relay_allow_carriers(service->config->carriers);
    }
    enum reload_status status = log_reload(service, &loaded, is_loaded, is_changed, &error);
    note_reload(&service->metrics, status);
    if (outcome != NULL) {
        *outcome = (struct reload_outcome){.status = status, .error = error};
        keep_diagnostics(&loaded, outcome);
    }
    loaded_config_release(&loaded);
    service_manager_reloaded(&service->manager, status == RELOAD_REFUSED);
}
