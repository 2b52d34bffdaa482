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
#include "bitflow/telemetry/connection_log.h"
#include "bitflow/tls/tls_arithmetic.h"
#include "bitflow/version.h"
#include "certificate_reload.h"
#include "debugger.h"
#include "error_reports.h"
#include "reload.h"
#include "upgrade.h"

#define WORKERS_PARKED_MAX 512
#define WORKER_IDLE_TIME (10 * NS_PER_S)
// How long the connections that were ended by force may take to write their records; more than a relay's grace.
#define LAST_RECORDS_TIME (7 * NS_PER_S)

// The next signal that is news, or 0 at the deadline.
static int wait_for_signal(struct service *service, int64_t deadline)
{
    int number;
    do
        number = service_manager_wait(&service->manager, deadline);
    while (upgrade_is_echo(&service->upgrade, number));
    return number;
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
    relay_allow_carriers(config->carriers);
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

// Each log that cannot be re-opened has said so. The process that is about to take over may have opened them already.
static bool reopen_logs(struct service *service)
{
    bool is_good = connection_log_reopen_all();
    upgrade_pass_reopening_on(&service->upgrade);
    if (is_good)
        log_info(NULL, "connection logs re-opened", NULL);
    return is_good;
}

// Whether nobody is served and nobody can come any more. While the last connections go on, a notice follows when they
// have left: nobody asked for an end, so it is not hurried.
static bool has_nothing_left(struct service *service)
{
    size_t before = service->listeners.count;
    size_t live = listeners_close_failed(&service->listeners, &service->has_failed);
    if (service->listeners.count != before)
        control_publish(&service->control);
    if (live > 0)
        return false;
    if (registry_count(service->runtime.registry) == 0)
        return true;
    registry_drain(service->runtime.registry);
    return false;
}

static void log_end(int number)
{
    log_info(NULL, "shutting down", "signal", sigabbrev_np(number), NULL);
}

// Whoever waits for the outcome is not to hear it from another process.
static void refuse_reload(struct reload_outcome *outcome)
{
    *outcome = (struct reload_outcome){.status = RELOAD_POSTPONED};
    error_set(&outcome->error, ERROR_REFUSED, "an upgrade is under way");
}

static void postpone_reload(const struct service *service, struct reload_outcome *outcome)
{
    *outcome = (struct reload_outcome){.status = RELOAD_POSTPONED};
    log_info(NULL, "the configuration has changed, and is read when the upgrade is over", "file", service->path, NULL);
}

// Certificates change no listener's socket, so an upgrade that is under way does not hold them up. A configuration that
// has changed waits for the upgrade's end, as with SIGHUP.
static void obey_reload(struct service *service, struct order *order)
{
    if (order->kind == ORDER_RELOAD_CERTIFICATES)
        service_reload_certificates(service, &order->outcome);
    else if (order->kind == ORDER_RELOAD_IF_CHANGED && upgrade_postpones_reload(&service->upgrade))
        postpone_reload(service, &order->outcome);
    else if (order->kind == ORDER_RELOAD_IF_CHANGED)
        service_reload_if_changed(service, &order->outcome);
    else if (upgrade_is_under_way(&service->upgrade))
        refuse_reload(&order->outcome);
    else
        service_reload(service, &order->outcome);
}

// Does what other threads have asked for. Whether one of them wants the process to end.
static bool obey(struct service *service)
{
    struct order *order;
    bool is_end = false;
    while (!is_end && (order = orders_take(&service->orders)) != NULL) {
        switch (order->kind) {
        case ORDER_RELOAD:
        case ORDER_RELOAD_IF_CHANGED:
        case ORDER_RELOAD_CERTIFICATES:
            obey_reload(service, order);
            break;
        case ORDER_REOPEN_LOGS:
            order->has_failed = !reopen_logs(service);
            break;
        case ORDER_ANSWER:
            break;
        case ORDER_DRAIN:
            log_info(NULL, "shutting down", NULL);
            control_set_stage(&service->control, CONTROL_DRAINING);
            is_end = true;
            break;
        }
        orders_done(&service->orders, order);
    }
    return is_end;
}

enum end { END_NOT_YET, END_TOLD, END_NOTHING_LEFT, END_REPLACED /* by the process that has taken over */ };

static enum end look_around(struct service *service)
{
    enum upgrade_news news = upgrade_look(&service->upgrade);
    if (news == UPGRADE_SERVES)
        return END_REPLACED;
    if (news == UPGRADE_FAILED) {
        listeners_reclaim(&service->listeners);
        control_reclaim(&service->control);
        if (service->upgrade.is_reload_due)
            service_reload(service, NULL);
    }
    if (obey(service))
        return END_TOLD;
    if (!has_nothing_left(service))
        return END_NOT_YET;
    log_info(NULL, "no listener and no connection is left", NULL);
    return END_NOTHING_LEFT;
}

static enum end take_signal(struct service *service, int number)
{
    switch (number) {
    case SIGHUP:
        if (!upgrade_postpones_reload(&service->upgrade))
            service_reload(service, NULL);
        return END_NOT_YET;
    case SIGUSR1:
        (void)reopen_logs(service);
        return END_NOT_YET;
    case SIGUSR2:
        upgrade_begin(&service->upgrade, getpid() == 1 || service->config->upgrade_in_place);
        return END_NOT_YET;
    default:
        if (number == 0 || number == signals_notice())
            return look_around(service);
        control_set_stage(&service->control, CONTROL_DRAINING);
        log_end(number);
        return END_TOLD;
    }
}

static enum end serve(struct service *service)
{
    enum end end;
    do
        end = take_signal(service, wait_for_signal(service, upgrade_deadline(&service->upgrade)));
    while (end == END_NOT_YET);
    return end;
}

// Goes on serving for drain_delay, for those who still send clients, or until another signal tells the process to end.
static void delay_drain(struct service *service)
{
    int64_t deadline = deadline_after(service->config->drain_delay);
    if (service->config->drain_delay == 0 || service->upgrade.state != UPGRADE_NONE)
        return;
    log_info(NULL, "accepting until drain_delay is over", NULL);
    for (;;) {
        int number = wait_for_signal(service, deadline);
        if (number == SIGHUP || number == SIGUSR1)
            (void)reopen_logs(service);
        else if (number == 0 || upgrade_hear_in_drain(&service->upgrade, number) != NULL ||
                 (number == signals_notice() && has_nothing_left(service)))
            return;
    }
}

// Why the drain is over before its connections are; NULL: it goes on.
static const char *hear_during_drain(struct service *service, int64_t deadline)
{
    int number = wait_for_signal(service, deadline);
    if (number == SIGHUP || number == SIGUSR1 || upgrade_is_to_reopen(&service->upgrade, number))
        (void)reopen_logs(service);
    return number == 0 ? "drain_timeout is over" : upgrade_hear_in_drain(&service->upgrade, number);
}

// Lets the clients that queue be served and live connections finish, until the bound or a second signal. Returns once
// they are gone or have been ended. Listeners first, so that what is balanced over several processes goes elsewhere.
static void drain(struct service *service)
{
    int64_t deadline = deadline_after(service->config->drain_timeout);
    const char *because = NULL;
    control_set_last_moment(&service->control, deadline);
    listeners_stop(&service->listeners);
    while (!listeners_have_ended(&service->listeners) && because == NULL)
        because = hear_during_drain(service, deadline);
    if (because != NULL)
        listeners_hurry(&service->listeners);
    listeners_release(&service->listeners); // from here on nobody can be added
    registry_drain(service->runtime.registry);
    while (registry_count(service->runtime.registry) > 0 && because == NULL)
        because = hear_during_drain(service, deadline);
    size_t left = registry_count(service->runtime.registry);
    if (left == 0)
        return;
    char count[LOG_NUMBER_SIZE];
    log_warn(NULL, "closing the connections that are left", "count", log_number(count, (int64_t)left), "because",
             because, NULL);
    registry_end_all(service->runtime.registry, CLOSE_DRAIN);
}

static void shut_down(struct service *service, enum end end)
{
    orders_close(&service->orders);
    if (end == END_REPLACED) {
        metrics_report_set_replaced(&service->metrics);
        control_leave(&service->control, service->upgrade.successor);
        if (service->upgrade.is_in_place)
            service_manager_upgrading(&service->manager);
        else
            service_manager_hand_over(&service->manager, service->upgrade.successor);
    } else {
        control_set_stage(&service->control, CONTROL_DRAINING);
        service_manager_ending(&service->manager);
        upgrade_give_up(&service->upgrade);
    }
    if (end == END_TOLD)
        delay_drain(service);
    drain(service);
    watched_files_release(&service->watched_files); // orders are closed, so it waits for none
    bool done = thread_pool_drain(service->runtime.threads, deadline_after(LAST_RECORDS_TIME));
    control_release(&service->control);
    metrics_report_release(&service->metrics);
    connection_log_write_through_all(); // what connections that outlast it still write comes at once
    (void)log_flush_repeats(true);
    log_info(NULL, done ? "ended" : "ended, although some connections did not", NULL);
    if (!done)
        return; // their threads still use everything
    destroy_runtime(&service->runtime);
    config_drop(&service->config);
}

// True: since the process was told to end meanwhile.
static bool fail_start(struct service *service, const struct error *error)
{
    bool is_told_to_end = error->code == ERROR_CANCELLED;
    upgrade_decline(&service->upgrade);
    if (is_told_to_end)
        log_end(signals_wait(DEADLINE_NONE));
    else
        log_error(NULL, "cannot start", "error", error->text, NULL);
    error_reports_end();
    control_release(&service->control);
    metrics_report_release(&service->metrics);
    destroy_runtime(&service->runtime);
    service_manager_release(&service->manager);
    return is_told_to_end;
}

bool server_run(const char *path, struct loaded_config *loaded, struct error *error)
{
    const struct config *config = loaded->config;
    // Not on the stack: where connections outlast the shut-down, their threads use it until the process is gone.
    static struct service service;
    service = (struct service){.path = path};
    orders_init(&service.orders, signals_send_notice);
    watched_files_init(&service.watched_files, &service.orders);
    raise_descriptor_limit();
    log_set_descriptor(STDERR_FILENO);
    log_set_repeats_notice(signals_send_notice);
    service_set_up_log(config);
    service_manager_init(&service.manager, &service.runtime, &service.listeners); // before there are other threads
    log_debug(NULL, "starting", "version", BITFLOW_VERSION, "arithmetic", tls_arithmetic_provider(), NULL);
    if (!error_reports_prepare(config, error) || !create_runtime(&service.runtime, config, error))
        return false;
    error_reports_configure(config); // the lines from here on are known to it
    metrics_report_init(&service.metrics, &service.runtime);
    control_init(&service.control, &service);
    listeners_init(&service.listeners, &service.runtime, signals_send_notice);
    debugger_set_process(&service.runtime, &service.listeners);
    if (!upgrade_take_over(&service.upgrade, error) || !service_change(&service, loaded, error))
        return fail_start(&service, error);
    upgrade_announce(&service.upgrade);
    if (service.upgrade.role == UPGRADE_STAND_IN)
        service_manager_release(&service.manager); // which knows the process that comes back
    if (service.upgrade.role == UPGRADE_RETURNED)
        service_manager_returned(&service.manager);
    else
        service_manager_ready(&service.manager, service.upgrade.role == UPGRADE_SUCCESSOR);
    enum end end = serve(&service);
    shut_down(&service, end);
    error_reports_end();
    bool is_good = upgrade_end(&service.upgrade, &service.manager, error);
    service_manager_release(&service.manager);
    if (!is_good)
        return false;
    if (end != END_NOTHING_LEFT || !service.has_failed)
        return true;
    error_set(error, ERROR_SYSTEM, "all listeners failed");
    return false;
}
