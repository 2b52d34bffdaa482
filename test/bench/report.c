#include "load.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define SUB_BUCKETS UINT64_C(32)

uint64_t clock_now(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NANOSECONDS + (uint64_t)now.tv_nsec;
}

/* Values below 32 have a bucket each; above, every power of two is divided into 32. */
static size_t bucket_of(uint64_t value)
{
    unsigned shift = 0;

    if (value < SUB_BUCKETS) {
        return (size_t)value;
    }
    shift = 63u - (unsigned)__builtin_clzll(value) - 5u;
    return (size_t)(shift * SUB_BUCKETS + (value >> shift));
}

static uint64_t bucket_floor(size_t bucket)
{
    uint64_t shift = 0;

    if (bucket < 2 * SUB_BUCKETS) {
        return bucket;
    }
    shift = bucket / SUB_BUCKETS - 1;
    return (bucket - shift * SUB_BUCKETS) << shift;
}

void histogram_add(struct histogram *histogram, uint64_t nanoseconds)
{
    histogram->total++;
    histogram->buckets[bucket_of(nanoseconds)]++;
    if (nanoseconds > histogram->highest) {
        histogram->highest = nanoseconds;
    }
}

uint64_t histogram_percentile(const struct histogram *histogram, double percent)
{
    uint64_t wanted = (uint64_t)((double)histogram->total * percent / 100.0);
    uint64_t seen = 0;

    for (size_t i = 0; i < sizeof histogram->buckets / sizeof histogram->buckets[0]; i++) {
        seen += histogram->buckets[i];
        if (seen > wanted) {
            return bucket_floor(i);
        }
    }
    return histogram->highest;
}

void report_error(struct report *report, const char *format, ...)
{
    va_list arguments;

    if (report->errors++ > 0) {
        return;
    }
    va_start(arguments, format);
    (void)vsnprintf(report->first_error, sizeof report->first_error, format, arguments);
    va_end(arguments);
}

void report_errno(struct report *report, const char *what)
{
    report_error(report, "%s: %s", what, leg_error());
}

static double processor_seconds(void)
{
    struct rusage usage = {0};

    (void)getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

int report_print(const struct report *report, const char *format, ...)
{
    va_list arguments;

    (void)putchar('{');
    va_start(arguments, format);
    (void)vprintf(format, arguments);
    va_end(arguments);
    (void)printf(", \"cpu_seconds\": %.4f, \"errors\": %llu, \"first_error\": \"%s\"}\n", processor_seconds(),
                 (unsigned long long)report->errors, report->first_error);
    if (fflush(stdout) != 0) {
        return EXIT_FAILURE;
    }
    return report->errors == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int report_print_exchanges(const struct report *report, const char *command, unsigned connections, uint64_t nanoseconds,
                           const struct exchanges *exchanges)
{
    const struct histogram *latencies = &exchanges->whole;
    double seconds = (double)nanoseconds / (double)NANOSECONDS;
    char answers[100] = "";

    if (exchanges->answers.total > 0) {
        (void)snprintf(answers, sizeof answers, ", \"answer_p50_us\": %.1f, \"answer_p99_us\": %.1f",
                       (double)histogram_percentile(&exchanges->answers, 50) / 1e3,
                       (double)histogram_percentile(&exchanges->answers, 99) / 1e3);
    }
    return report_print(report,
                        "\"command\": \"%s\", \"connections\": %u, \"completed\": %llu, \"seconds\": %.6f, "
                        "\"rate\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"resumed\": %llu%s",
                        command, connections, (unsigned long long)latencies->total, seconds,
                        (double)latencies->total / seconds, (double)histogram_percentile(latencies, 50) / 1e3,
                        (double)histogram_percentile(latencies, 99) / 1e3, (double)latencies->highest / 1e3,
                        (unsigned long long)leg_resumed(), answers);
}
