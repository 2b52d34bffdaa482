#include "bitflow/server/server.h"

#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/log.h"
#include "bitflow/base/signals.h"
#include "bitflow/base/thread.h"
#include "bitflow/config/config.h"
#include "bitflow/proxy/connection.h"
#include "bitflow/proxy/proxy.h"
#include "bitflow/relay/relay.h"
#include "bitflow/sentry/sentry.h"
#include "bitflow/tls/tls_arithmetic.h"
#include "bitflow/version.h"
#include "debugger.h"
#include "listeners.h"
#include "metrics_report.h"

#define FLUSH_TIME (3 * NS_PER_S)

// All that can fail, before the configuration is put in force.
static bool error_reports_prepare(const struct config *config, struct error *error)
{
    return config->sentry_dsn == NULL || sentry_prepare(error);
}

static void error_reports_configure(const struct config *config)
{
    const struct sentry_settings settings = {
        .dsn = config->sentry_dsn,
        .environment = config->sentry_environment,
        .authority = config->sentry_authority.path,
    };
    sentry_configure(&settings);
}

// Sends what is left, for a few seconds at most.
static void error_reports_end(void)
{
    sentry_end(deadline_after(FLUSH_TIME));
}

#define WORKERS_PARKED_MAX 512
#define WORKER_IDLE_TIME (10 * NS_PER_S)
// How long the connections that were ended by force may take to write their records; more than a relay's grace.
#define LAST_RECORDS_TIME (7 * NS_PER_S)

struct server {
    const char *path;
    const struct config *config;
    struct runtime runtime;
    struct listeners listeners;
    struct metrics_report metrics;
    bool has_failed; // the sockets of some listener failed
};

// The next signal, or 0 at the deadline. Meanwhile the log's lines that were left out are told of when that is due.
static int wait_for_signal(int64_t deadline)
{
    for (;;) {
        int64_t flush = log_flush_repeats(false);
        int number = signals_wait(flush < deadline ? flush : deadline);
        if (number > 0 || deadline_left(deadline) == 0)
            return number;
    }
}

// Each connection takes two descriptors and more when it splices, so the soft limit is raised to the hard one.
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

static bool create_runtime(struct runtime *runtime, const struct config *config, struct error *error)
{
    const struct thread_pool_options workers = {
        .parked_name = "parked",
        .stack_size = RELAY_STACK_SIZE,
        .max_parked = WORKERS_PARKED_MAX,
        .idle_time = WORKER_IDLE_TIME,
        .scheduling = config->scheduling,
    };
    runtime->threads = thread_pool_create(&workers, error);
    if (runtime->threads == NULL)
        return false;
    runtime->registry = registry_create(signals_send_notice, error);
    runtime->periodic_records =
        runtime->registry == NULL ? NULL : periodic_records_create(&connection_periodic_actions, error);
    if (runtime->periodic_records == NULL) {
        registry_destroy(&runtime->registry);
        thread_pool_destroy(&runtime->threads);
    }
    metrics_init(&runtime->metrics);
    return runtime->periodic_records != NULL;
}

static void destroy_runtime(struct runtime *runtime)
{
    periodic_records_destroy(&runtime->periodic_records);
    registry_destroy(&runtime->registry);
    thread_pool_destroy(&runtime->threads);
    metrics_release(&runtime->metrics);
}

static void set_up_log(const struct config *config)
{
    log_set_format(config->log_format);
    log_set_level(config->log_level);
}

static void log_diagnostic(const struct diagnostics *diagnostics, const struct diagnostic *diagnostic)
{
    char line[DIAGNOSTIC_LINE_SIZE];
    struct log_context context = {.proxy = diagnostic->proxy};
    diagnostic_format(diagnostics, diagnostic, line);
    if (diagnostic->severity == DIAGNOSTIC_ERROR)
        log_error(NULL, "configuration error", "error", line, NULL);
    else if (diagnostic->file != NULL)
        log_warn(&context, diagnostic->text, "file", diagnostic->file, NULL);
    else if (diagnostic->path == NULL) // of the host
        log_warn(NULL, diagnostic->text, NULL);
    else
        log_warn(NULL, "configuration warning", "warning", line, NULL);
}

static void log_diagnostics(const struct diagnostics *diagnostics)
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

// Puts it in force, and takes the configuration out of it. False: nothing has changed.
static bool change(struct server *server, struct loaded_config *loaded, struct error *error)
{
    log_diagnostics(&loaded->diagnostics);
    log_diagnostics(&loaded->host_diagnostics);
    bool changed = metrics_report_prepare(&server->metrics, loaded->config, error) &&
                   error_reports_prepare(loaded->config, error) &&
                   listeners_change(&server->listeners, loaded->config, loaded->tls_contexts, error);
    if (changed) {
        config_drop(&server->config);
        server->config = config_hold(loaded->config);
        error_reports_configure(server->config);
    }
    loaded_config_release(loaded);
    if (server->config != NULL)
        metrics_report_apply(&server->metrics, server->config);
    return changed;
}

// Each log that cannot be re-opened has said so.
static void reopen_logs(void)
{
    if (connection_log_reopen_all())
        log_info(NULL, "connection logs re-opened", NULL);
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

// Puts what the file says now in force; on any error the old configuration stays.
static void reload(struct server *server)
{
    struct loaded_config loaded;
    struct error error = ERROR_INIT;
    // First, and whatever the configuration says: a rotation must not depend on it.
    (void)connection_log_reopen_all();
    // A listener whose notice is still to come must not be kept.
    (void)listeners_close_failed(&server->listeners, &server->has_failed);
    bool is_loaded = loaded_config_load(&loaded, server->path);
    if (is_loaded && change(server, &loaded, &error)) {
        set_up_log(server->config);
        thread_pool_set_scheduling(server->runtime.threads, server->config->scheduling);
        log_info(NULL, "reloaded", "file", server->path, NULL);
    } else if (signals_told_to_end()) {
        log_info(NULL, "reload given up, the process is told to end", "file", server->path, NULL);
    } else {
        if (!is_loaded)
            log_diagnostics(&loaded.diagnostics);
        log_failed_reload(server->path, &error);
    }
    loaded_config_release(&loaded);
}

// Whether nobody is served and nobody can come any more. While the last connections go on, a notice follows when they
// have left: nobody asked for an end, so it is not hurried.
static bool has_nothing_left(struct server *server)
{
    if (listeners_close_failed(&server->listeners, &server->has_failed) > 0)
        return false;
    if (registry_count(server->runtime.registry) == 0)
        return true;
    registry_drain(server->runtime.registry);
    return false;
}

static void log_end(int number)
{
    log_info(NULL, "shutting down", "signal", sigabbrev_np(number), NULL);
}

// Until the process is told to end (true), or has nothing left to do (false).
static bool serve(struct server *server)
{
    for (;;) {
        int number = wait_for_signal(DEADLINE_NONE);
        if (number == SIGHUP) {
            reload(server);
        } else if (number == SIGUSR1) {
            reopen_logs();
        } else if (number == signals_notice()) {
            if (has_nothing_left(server)) {
                log_info(NULL, "no listener and no connection is left", NULL);
                return false;
            }
        } else {
            log_end(number);
            return true;
        }
    }
}

// Why the drain is over before its connections are; NULL: it goes on.
static const char *hear_during_drain(int64_t deadline)
{
    int number = wait_for_signal(deadline);
    if (number == SIGHUP || number == SIGUSR1)
        reopen_logs();
    return number == 0 ? "drain_timeout is over" : signals_is_end(number) ? "of a second signal" : NULL;
}

// Lets the clients that queue be served and live connections finish, until the bound or a second signal. Returns once
// they are gone or have been ended. Listeners first, so that what is balanced over several processes goes elsewhere.
static void drain(struct server *server)
{
    int64_t deadline = deadline_after(server->config->drain_timeout);
    const char *because = NULL;
    listeners_stop(&server->listeners);
    while (!listeners_have_ended(&server->listeners) && because == NULL)
        because = hear_during_drain(deadline);
    if (because != NULL)
        listeners_hurry(&server->listeners);
    listeners_release(&server->listeners); // from here on nobody can be added
    registry_drain(server->runtime.registry);
    while (registry_count(server->runtime.registry) > 0 && because == NULL)
        because = hear_during_drain(deadline);
    size_t left = registry_count(server->runtime.registry);
    if (left == 0)
        return;
    char count[LOG_NUMBER_SIZE];
    log_warn(NULL, "closing the connections that are left", "count", log_number(count, (int64_t)left), "because",
             because, NULL);
    registry_end_all(server->runtime.registry, CLOSE_DRAIN);
}

static void shut_down(struct server *server)
{
    drain(server);
    bool done = thread_pool_drain(server->runtime.threads, deadline_after(LAST_RECORDS_TIME));
    metrics_report_release(&server->metrics);
    (void)log_flush_repeats(true);
    log_info(NULL, done ? "ended" : "ended, although some connections did not", NULL);
    if (!done)
        return; // their threads still use everything
    destroy_runtime(&server->runtime);
    config_drop(&server->config);
}

bool server_run(const char *path, struct loaded_config *loaded, struct error *error)
{
    const struct config *config = loaded->config;
    // Not on the stack: where connections outlast the shut-down, their threads use it until the process is gone.
    static struct server server;
    server = (struct server){.path = path};
    raise_descriptor_limit();
    log_set_descriptor(STDERR_FILENO);
    log_set_repeats_notice(signals_send_notice);
    set_up_log(config);
    log_debug(NULL, "starting", "version", BITFLOW_VERSION, "arithmetic", tls_arithmetic_provider(), NULL);
    if (!error_reports_prepare(config, error) || !create_runtime(&server.runtime, config, error))
        return false;
    error_reports_configure(config); // the lines from here on are known to it
    metrics_report_init(&server.metrics, &server.runtime);
    listeners_init(&server.listeners, &server.runtime, signals_send_notice);
    debugger_set_process(&server.runtime, &server.listeners);
    if (!change(&server, loaded, error)) {
        bool is_told_to_end = error->code == ERROR_CANCELLED;
        if (is_told_to_end)
            log_end(signals_wait(DEADLINE_NONE));
        else
            log_error(NULL, "cannot start", "error", error->text, NULL);
        error_reports_end();
        metrics_report_release(&server.metrics);
        destroy_runtime(&server.runtime);
        return is_told_to_end;
    }
    bool was_told_to_end = serve(&server);
    shut_down(&server);
    error_reports_end();
    if (was_told_to_end || !server.has_failed)
        return true;
    error_set(error, ERROR_SYSTEM, "all listeners failed");
    return false;
}
