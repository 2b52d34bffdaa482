// The report to Prometheus.

#include <errno.h>
#include <stdlib.h>

#include "bitflow/base/clock.h"
#include "bitflow/version.h"
#include "metrics_report.h"
#include "process_usage.h"

#define MS_DECIMALS 3

struct text_sink {
    struct metrics_sink sink;
    struct prometheus_page page;
    unsigned decimals; // of the metric at hand, in its base unit
};

static struct text_sink *of_text(struct metrics_sink *sink)
{
    return (struct text_sink *)sink; // its first member
}

static void begin(struct metrics_sink *sink, enum metric metric)
{
    const struct metric_kind *kind = metric_kind(metric);
    char name[PROMETHEUS_NAME_SIZE];
    metric_prometheus_name(metric, name);
    prometheus_family(&of_text(sink)->page, name, metric_prometheus_type(metric), kind->help);
    of_text(sink)->decimals = kind->unit[0] == 'm' && kind->unit[1] == 's' ? MS_DECIMALS : 0;
}

static void put(struct metrics_sink *sink, const struct metric_name *name, uint64_t value)
{
    prometheus_sample(&of_text(sink)->page, name, value, of_text(sink)->decimals);
}

static void put_counter(struct metrics_sink *sink, const struct metric_name *name, struct metric_counter *counter)
{
    put(sink, name, metric_value(counter));
}

static void put_histogram(struct metrics_sink *sink, const struct metric_name *name, struct metric_timer *timer)
{
    prometheus_histogram(&of_text(sink)->page, name, &timer->histogram);
}

static void put_alone(struct prometheus_page *page, const char *name, enum prometheus_type type, const char *help,
                      uint64_t value, unsigned decimals)
{
    const struct metric_name no_labels = {.label_count = 0};
    prometheus_family(page, name, type, help);
    prometheus_sample(page, &no_labels, value, decimals);
}

// Under the names that dashboards for any process know ("Writing client libraries", "Process metrics").
static void put_process(struct prometheus_page *page, const struct process_usage *usage, int64_t start_wall)
{
    put_alone(page, "process_cpu_seconds_total", PROMETHEUS_COUNTER, "Total user and system CPU time spent in seconds.",
              usage->user_ms + usage->system_ms, MS_DECIMALS);
    put_alone(page, "process_open_fds", PROMETHEUS_GAUGE, "Number of open file descriptors.", usage->descriptors, 0);
    put_alone(page, "process_max_fds", PROMETHEUS_GAUGE, "Maximum number of open file descriptors.",
              usage->descriptor_limit, 0);
    put_alone(page, "process_resident_memory_bytes", PROMETHEUS_GAUGE, "Resident memory size in bytes.",
              usage->resident, 0);
    put_alone(page, "process_start_time_seconds", PROMETHEUS_GAUGE,
              "Start time of the process since unix epoch in seconds.", (uint64_t)(start_wall / NS_PER_MS),
              MS_DECIMALS);
}

static void put_build(struct prometheus_page *page)
{
    const struct metric_name version = {.label_count = 1, .labels = {{.key = "version", .value = BITFLOW_VERSION}}};
    prometheus_family(page, "bitflow_build_info", PROMETHEUS_GAUGE, "Which bitflow this is; always 1.");
    prometheus_sample(page, &version, 1, 0);
}

bool metrics_report_text(struct metrics_report *report, char **text, size_t *length, struct error *error)
{
    struct process_usage usage;
    struct text_sink to = {.sink = {.leaves_out_unused = true,
                                    .begin = begin,
                                    .count = put_counter,
                                    .total = put,
                                    .gauge = put,
                                    .time = put_histogram}};
    process_usage(&usage);
    metrics_count_live(&report->source, true);
    prometheus_begin(&to.page);
    put_build(&to.page);
    put_process(&to.page, &usage, report->start_wall);
    metrics_walk(&report->source, &usage, &to.sink);
    if (to.page.has_failed) {
        free(to.page.text);
        error_set_errno(error, ENOMEM, "cannot put the metrics together");
        return false;
    }
    *text = to.page.text;
    *length = to.page.length;
    return true;
}
