#include "metrics_report.h"

#include <string.h>

#include "bitflow/base/clock.h"
#include "process_usage.h"

#define S_PER_DAY (UINT64_C(24) * 3600)

void metrics_report_init(struct metrics_report *report, struct runtime *runtime)
{
    *report = (struct metrics_report){.source = {.runtime = runtime, .start = clock_now()}, .start_wall = clock_wall()};
    mutex_init(&report->source.counting);
    for (enum reload_kind kind = 0; kind < RELOAD_KIND_COUNT; kind++) // the start is as good as a reload
        metrics_report_reloaded(report, kind, true);
}

void metrics_report_reloaded(struct metrics_report *report, enum reload_kind kind, bool is_successful)
{
    struct last_reload *last = &report->source.reloads[kind];
    if (is_successful)
        atomic_store_explicit(&last->success_time, clock_wall() / NS_PER_S, memory_order_relaxed);
    atomic_store_explicit(&last->is_successful, is_successful, memory_order_relaxed);
}

// --- to statsd

struct statsd_sink_of_report {
    struct metrics_sink sink;
    struct metrics_report *report;
    struct statsd_batch *batch;
    enum metric metric;
};

static struct statsd_sink_of_report *of_statsd(struct metrics_sink *sink)
{
    return (struct statsd_sink_of_report *)sink; // its first member
}

static void begin(struct metrics_sink *sink, enum metric metric)
{
    of_statsd(sink)->metric = metric;
}

static void count(struct metrics_sink *sink, const struct metric_name *name, struct metric_counter *counter)
{
    statsd_count(of_statsd(sink)->batch, name, counter);
}

static void total(struct metrics_sink *sink, const struct metric_name *name, uint64_t value)
{
    struct metric_counter *counter = &of_statsd(sink)->report->totals[of_statsd(sink)->metric];
    atomic_store_explicit(&counter->value, value, memory_order_relaxed);
    statsd_count(of_statsd(sink)->batch, name, counter);
}

static void gauge(struct metrics_sink *sink, const struct metric_name *name, uint64_t value)
{
    bool is_in_days = strcmp(metric_kind(of_statsd(sink)->metric)->unit, "days") == 0;
    statsd_gauge(of_statsd(sink)->batch, name, is_in_days ? value / S_PER_DAY : value);
}

static void time_values(struct metrics_sink *sink, const struct metric_name *name, struct metric_timer *timer)
{
    statsd_time(of_statsd(sink)->batch, name, timer);
}

static void collect(struct statsd_batch *batch, void *argument)
{
    struct metrics_report *report = argument;
    struct process_usage usage;
    struct statsd_sink_of_report to = {
        .sink = {.begin = begin, .count = count, .total = total, .gauge = gauge, .time = time_values},
        .report = report,
        .batch = batch};
    batch->leaves_out_gauges = atomic_load_explicit(&report->is_replaced, memory_order_relaxed);
    process_usage(&usage);
    metrics_count_live(&report->source, true);
    metrics_walk(&report->source, &usage, &to.sink);
}

// --- when

// Whether somebody may ask for the text.
static bool is_asked_for(const struct config *config)
{
    return config->control != NULL;
}

bool metrics_report_prepare(struct metrics_report *report, const struct config *config, struct error *error)
{
    struct metrics *metrics = &report->source.runtime->metrics;
    if (config->metrics_address != NULL && report->statsd == NULL) {
        report->statsd = statsd_create(collect, report, &report->source.losses, error);
        if (report->statsd == NULL)
            return false;
    }
    if (report->statsd == NULL && !is_asked_for(config))
        return true;
    // What was before counts as reported. Before anyone is let in: who comes is counted from the first one on.
    if (!atomic_load_explicit(&metrics->is_on, memory_order_relaxed))
        metrics_count_live(&report->source, false);
    metrics_set_on(metrics, true, report->statsd != NULL);
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
        statsd_destroy(&report->statsd);
        metrics_set_on(&report->source.runtime->metrics, is_asked_for(config), false);
        return;
    }
    const struct statsd_settings settings = {
        .address = config->metrics_address, .prefix = config->metrics_prefix, .format = format_of(config)};
    statsd_configure(report->statsd, &settings);
}

void metrics_report_set_replaced(struct metrics_report *report)
{
    atomic_store_explicit(&report->is_replaced, true, memory_order_relaxed);
}

void metrics_report_release(struct metrics_report *report)
{
    statsd_destroy(&report->statsd);
    metrics_set_on(&report->source.runtime->metrics, false, false);
}
