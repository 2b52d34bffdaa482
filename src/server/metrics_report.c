#include "metrics_report.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/proxy/connection.h"
#include "bitflow/relay/relay.h"
#include "bitflow/sentry/sentry.h"
#include "metric_names.h"

// What the process takes of the machine.
struct process_usage {
    uint64_t user_ms, system_ms; // CPU, since the start
    uint64_t resident;           // bytes of memory
    uint64_t descriptors;        // open ones
    uint64_t descriptor_limit;
    uint64_t threads;
};

static uint64_t milliseconds(const struct timeval *time)
{
    return (uint64_t)time->tv_sec * 1000 + (uint64_t)time->tv_usec / 1000;
}

// Field `number` (from 0) of a line of numbers; 0: there is none.
static uint64_t read_number(const char *path, unsigned number)
{
    char line[512];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    if (fd >= 0)
        (void)close(fd);
    if (length <= 0)
        return 0;
    line[length] = '\0';
    char *at = line;
    for (; number > 0 && at != NULL; number--) {
        at = strchr(at, ' ');
        at = at == NULL ? NULL : at + 1;
    }
    return at == NULL ? 0 : strtoull(at, NULL, 10);
}

static uint64_t count_entries(const char *path)
{
    uint64_t count = 0;
    DIR *directory = opendir(path);
    if (directory == NULL)
        return 0;
    const struct dirent *entry;
    while ((entry = readdir(directory)) != NULL)
        count += *entry->d_name != '.';
    (void)closedir(directory);
    return count;
}

// Since Linux 6.2 the directory's size tells it, which saves looking at each of what may be many thousands.
static uint64_t count_descriptors(void)
{
    struct stat status;
    if (stat("/proc/self/fd", &status) == 0 && status.st_size > 0)
        return (uint64_t)status.st_size;
    uint64_t count = count_entries("/proc/self/fd");
    return count > 0 ? count - 1 : 0; // without the one that it took to look
}

// What cannot be found out (there is no /proc) is 0.
static void process_usage(struct process_usage *usage)
{
    struct rusage rusage;
    struct rlimit limit = {.rlim_cur = 0};
    struct stat tasks = {.st_nlink = 2};
    (void)getrusage(RUSAGE_SELF, &rusage);
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    (void)stat("/proc/self/task", &tasks); // a link for each thread, beside . and ..
    *usage = (struct process_usage){
        .user_ms = milliseconds(&rusage.ru_utime),
        .system_ms = milliseconds(&rusage.ru_stime),
        .resident = read_number("/proc/self/statm", 1) * (uint64_t)sysconf(_SC_PAGESIZE),
        .descriptors = count_descriptors(),
        .descriptor_limit = limit.rlim_cur,
        .threads = tasks.st_nlink > 2 ? tasks.st_nlink - 2 : 0,
    };
}

#define S_PER_DAY (INT64_C(24) * 3600)

const struct metric_kind *metric_kind(enum metric metric)
{
#define METRIC_KIND(constant, name_pattern, name_type, name_unit) \
    [constant] = {.pattern = name_pattern, .type = name_type, .unit = name_unit},
    static const struct metric_kind kinds[METRIC_COUNT] = {METRIC_NAMES(METRIC_KIND)};
#undef METRIC_KIND
    return &kinds[metric];
}

// With room for more labels.
static struct statsd_name name_of(enum metric metric)
{
    return (struct statsd_name){.pattern = metric_kind(metric)->pattern};
}

static struct statsd_name with_label(struct statsd_name name, const char *key, const char *value)
{
    name.labels[name.label_count++] = (struct statsd_label){.key = key, .value = value};
    return name;
}

static struct statsd_name proxy_name(enum metric metric, const struct proxy_metrics *proxy)
{
    return with_label(name_of(metric), "proxy", proxy->shared.name);
}

static struct statsd_name target_name(enum metric metric, const struct proxy_metrics *proxy,
                                      const struct target_metrics *target)
{
    return with_label(proxy_name(metric, proxy), "target", target->shared.name);
}

static void report_gauge(struct statsd_batch *batch, enum metric metric, uint64_t value)
{
    struct statsd_name name = name_of(metric);
    statsd_gauge(batch, &name, value);
}

static void report_counter(struct statsd_batch *batch, enum metric metric, struct metric_counter *counter)
{
    struct statsd_name name = name_of(metric);
    statsd_count(batch, &name, counter);
}

// Of what is counted elsewhere.
static void report_total(struct statsd_batch *batch, enum metric metric, struct metric_counter *counter, uint64_t total)
{
    atomic_store_explicit(&counter->value, total, memory_order_relaxed);
    report_counter(batch, metric, counter);
}

static void report_process(struct statsd_batch *batch, struct metrics_report *report)
{
    struct process_usage usage;
    struct thread_pool_count workers = thread_pool_count(report->runtime->threads);
    process_usage(&usage);
    report_gauge(batch, METRIC_THREADS_BUSY, workers.busy);
    report_gauge(batch, METRIC_THREADS_PARKED, workers.parked);
    report_total(batch, METRIC_CPU_USER, &report->user_ms, usage.user_ms);
    report_total(batch, METRIC_CPU_SYSTEM, &report->system_ms, usage.system_ms);
    report_gauge(batch, METRIC_MEMORY, usage.resident);
    report_gauge(batch, METRIC_DESCRIPTORS, usage.descriptors);
    report_gauge(batch, METRIC_DESCRIPTOR_LIMIT, usage.descriptor_limit);
    report_gauge(batch, METRIC_PROCESS_THREADS, usage.threads);
    report_gauge(batch, METRIC_UPTIME, (uint64_t)((clock_now() - report->start) / NS_PER_S));
}

static void report_losses(struct statsd_batch *batch, struct metrics_report *report)
{
    report_counter(batch, METRIC_DROPPED_DATAGRAMS, &batch->losses->datagrams);
    report_counter(batch, METRIC_DROPPED_TIMINGS, &batch->losses->timings);
    report_total(batch, METRIC_DROPPED_RECORDS, &report->lost_records, connection_log_lost());
    report_total(batch, METRIC_DROPPED_LOG_LINES, &report->lost_lines, log_dropped());
    report_total(batch, METRIC_DROPPED_SENTRY_EVENTS, &report->lost_events, sentry_lost());
}

static void report_reasons(struct statsd_batch *batch, const struct statsd_name *base, const char *key,
                           struct metric_counter counters[CLOSE_REASON_COUNT])
{
    for (unsigned reason = CLOSE_NONE + 1; reason < CLOSE_REASON_COUNT; reason++) {
        struct statsd_name name = with_label(*base, key, close_reason_name((enum close_reason)reason));
        statsd_count(batch, &name, &counters[reason]);
    }
}

static void report_causes(struct statsd_batch *batch, const struct statsd_name *base,
                          struct metric_counter counters[TLS_FAILURE_COUNT])
{
    for (unsigned cause = TLS_FAILURE_NONE + 1; cause < TLS_FAILURE_COUNT; cause++) {
        struct statsd_name name = with_label(*base, "cause", tls_failure_name((enum tls_failure)cause));
        statsd_count(batch, &name, &counters[cause]);
    }
}

// Whole days; none left also once it has expired.
static void report_expiry(struct statsd_batch *batch, const struct statsd_name *name, const _Atomic int64_t *expiry)
{
    int64_t end = atomic_load_explicit(expiry, memory_order_relaxed);
    int64_t left = end - clock_wall() / NS_PER_S;
    if (end != 0)
        statsd_gauge(batch, name, left > 0 ? (uint64_t)(left / S_PER_DAY) : 0);
}

static void report_target(struct statsd_batch *batch, const struct proxy_metrics *proxy, struct target_metrics *target)
{
    struct statsd_name dials = target_name(METRIC_DIALS, proxy, target);
    struct statsd_name failed = target_name(METRIC_DIALS_FAILED, proxy, target);
    struct statsd_name handshakes = target_name(METRIC_TARGET_HANDSHAKE_FAILED, proxy, target);
    struct statsd_name certificate = target_name(METRIC_TARGET_CERTIFICATE, proxy, target);
    statsd_count(batch, &dials, &target->attempts);
    report_reasons(batch, &failed, "cause", target->failed);
    report_causes(batch, &handshakes, target->handshake_failed);
    report_expiry(batch, &certificate, &target->certificate_expiry);
}

static void report_proxy(struct statsd_batch *batch, struct proxy_metrics *proxy)
{
    struct statsd_name accepted = proxy_name(METRIC_ACCEPTED, proxy);
    struct statsd_name rejected = proxy_name(METRIC_REJECTED, proxy);
    struct statsd_name active = proxy_name(METRIC_ACTIVE, proxy);
    struct statsd_name closed = proxy_name(METRIC_CLOSED, proxy);
    struct statsd_name from_client = proxy_name(METRIC_BYTES_FROM_CLIENT, proxy);
    struct statsd_name from_target = proxy_name(METRIC_BYTES_FROM_TARGET, proxy);
    struct statsd_name handshakes = proxy_name(METRIC_HANDSHAKE_FAILED, proxy);
    struct statsd_name certificate = proxy_name(METRIC_CERTIFICATE, proxy);
    statsd_count(batch, &accepted, &proxy->accepted);
    report_reasons(batch, &rejected, "reason", proxy->rejected);
    statsd_gauge(batch, &active, proxy->live);
    report_reasons(batch, &closed, "reason", proxy->closed);
    statsd_count(batch, &from_client, &proxy->bytes[RELAY_CLIENT]);
    statsd_count(batch, &from_target, &proxy->bytes[RELAY_TARGET]);
    report_causes(batch, &handshakes, proxy->handshake_failed);
    report_expiry(batch, &certificate, &proxy->certificate_expiry);
}

static void report_times(struct statsd_batch *batch, struct proxy_metrics *proxy)
{
    for (unsigned i = 0; i < PROXY_TIME_COUNT; i++) {
        struct statsd_name name = proxy_name((enum metric)(METRIC_TIME_RESOLVE + i), proxy);
        statsd_time(batch, &name, &proxy->times[i]);
    }
    _Static_assert(METRIC_TIME_LIFETIME - METRIC_TIME_RESOLVE == PROXY_TIME_LIFETIME, "both in the same order");
}

static void count_live(struct metrics_report *report, bool is_counted)
{
    struct metrics *metrics = &report->runtime->metrics;
    struct proxy_metrics *proxy = NULL;
    while ((proxy = metrics_next_proxy(metrics, proxy)) != NULL)
        proxy->live = 0;
    connections_count_live(report->runtime->registry, is_counted);
}

// Durations come last: of all this they alone are lost with a datagram that does not arrive.
static void collect(struct statsd_batch *batch, void *argument)
{
    struct metrics_report *report = argument;
    struct metrics *metrics = &report->runtime->metrics;
    report_process(batch, report);
    report_losses(batch, report);
    count_live(report, true);
    struct proxy_metrics *proxy = NULL;
    while ((proxy = metrics_next_proxy(metrics, proxy)) != NULL) {
        report_proxy(batch, proxy);
        struct target_metrics *target = NULL;
        while ((target = metrics_next_target(proxy, target)) != NULL)
            report_target(batch, proxy, target);
    }
    while ((proxy = metrics_next_proxy(metrics, proxy)) != NULL)
        report_times(batch, proxy);
}

void metrics_report_init(struct metrics_report *report, struct runtime *runtime)
{
    *report = (struct metrics_report){.runtime = runtime, .start = clock_now()};
}

bool metrics_report_prepare(struct metrics_report *report, const struct config *config, struct error *error)
{
    if (config->metrics_address == NULL || report->statsd != NULL)
        return true;
    report->statsd = statsd_create(collect, report, error);
    if (report->statsd == NULL)
        return false;
    // What was before counts as reported. Before anyone is let in: who comes is counted from the first one on.
    count_live(report, false);
    metrics_set_on(&report->runtime->metrics, true);
    return true;
}

static enum statsd_format format_of(const struct config *config)
{
    switch (config->metrics_tag_format) {
    case METRICS_TAGS_DOGSTATSD:
        return STATSD_DOGSTATSD;
    case METRICS_TAGS_INFLUXDB:
        return STATSD_INFLUXDB;
    case METRICS_TAGS_NONE:
        break;
    }
    return STATSD_PLAIN;
}

void metrics_report_apply(struct metrics_report *report, const struct config *config)
{
    if (config->metrics_address == NULL) {
        metrics_report_release(report);
        return;
    }
    const struct statsd_settings settings = {
        .address = config->metrics_address, .prefix = config->metrics_prefix, .format = format_of(config)};
    statsd_configure(report->statsd, &settings);
}

void metrics_report_release(struct metrics_report *report)
{
    statsd_destroy(&report->statsd);
    metrics_set_on(&report->runtime->metrics, false);
}
