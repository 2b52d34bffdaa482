#include "metric_names.h"

#include <string.h>

const struct metric_kind *metric_kind(enum metric metric)
{
#define METRIC_KIND(constant, name_pattern, name_type, name_unit, name_help) \
    [constant] = {.pattern = name_pattern, .type = name_type, .unit = name_unit, .help = name_help},
    static const struct metric_kind kinds[METRIC_COUNT] = {METRIC_NAMES(METRIC_KIND)};
#undef METRIC_KIND
    return &kinds[metric];
}

enum prometheus_type metric_prometheus_type(enum metric metric)
{
    const char *type = metric_kind(metric)->type;
    return strcmp(type, "counter") == 0 ? PROMETHEUS_COUNTER
           : strcmp(type, "timer") == 0 ? PROMETHEUS_HISTOGRAM
                                        : PROMETHEUS_GAUGE;
}

void metric_prometheus_name(enum metric metric, char out[PROMETHEUS_NAME_SIZE])
{
    const struct metric_kind *kind = metric_kind(metric);
    prometheus_name(kind->pattern, metric_prometheus_type(metric), kind->unit, out);
}
