#include "bitflow/telemetry/statsd_batch.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "statsd_line.h"

static bool is_over(const struct statsd_batch *batch)
{
    return batch->outcome >= STATSD_GONE;
}

static void clear_datagram(struct statsd_batch *batch)
{
    batch->length = 0;
    batch->counter_count = 0;
    batch->timings = 0;
}

// What was in this datagram is sent again, as far as it can be.
static void lose_datagram(struct statsd_batch *batch)
{
    for (size_t i = 0; i < batch->counter_count; i++)
        batch->counters[i]->attempted = batch->counters[i]->confirmed;
    metric_add(&batch->losses->datagrams, 1);
    metric_add(&batch->losses->timings, batch->timings);
}

static void send_datagram(struct statsd_batch *batch)
{
    if (batch->length == 0)
        return;
    enum statsd_outcome outcome = batch->sink.send(batch->sink.argument, batch->bytes, batch->length);
    if (outcome == STATSD_SENT) {
        batch->sent_datagrams++;
        batch->sent_timings += batch->timings;
    } else {
        lose_datagram(batch);
    }
    batch->outcome = outcome;
    clear_datagram(batch);
}

void statsd_batch_begin(struct statsd_batch *batch, bool was_delivered)
{
    if (!was_delivered) {
        metric_add(&batch->losses->datagrams, batch->sent_datagrams);
        metric_add(&batch->losses->timings, batch->sent_timings);
    }
    batch->was_delivered = was_delivered;
    batch->outcome = STATSD_SENT;
    batch->sent_datagrams = 0;
    batch->sent_timings = 0;
    clear_datagram(batch);
}

void statsd_batch_end(struct statsd_batch *batch)
{
    send_datagram(batch);
}

// Adds a line to the datagram, or to the next one where it is full. False: the receiver is gone. (Or the line is too
// long, which the bounds on names and on the prefix exclude.)
static bool add_line(struct statsd_batch *batch, const struct metric_name *name, const char *value, const char *type,
                     double rate)
{
    const struct statsd_line line = {
        .format = batch->format, .prefix = batch->prefix, .name = name, .value = value, .type = type, .rate = rate};
    char text[STATSD_LINE_MAX];
    size_t length = statsd_render(&line, text);
    if (batch->length + (batch->length > 0 ? 1 : 0) + length > batch->sink.limit ||
        batch->counter_count == STATSD_COUNTERS_MAX)
        send_datagram(batch);
    if (is_over(batch) || length == 0)
        return false;
    if (batch->length > 0)
        batch->bytes[batch->length++] = '\n';
    memcpy(batch->bytes + batch->length, text, length);
    batch->length += length;
    return true;
}

void statsd_count(struct statsd_batch *batch, const struct metric_name *name, struct metric_counter *counter)
{
    char text[sizeof "18446744073709551615"];
    if (batch->was_delivered)
        counter->confirmed = counter->attempted;
    else
        counter->attempted = counter->confirmed;
    uint64_t value = atomic_load_explicit(&counter->value, memory_order_relaxed);
    if (is_over(batch) || value == counter->confirmed)
        return;
    (void)snprintf(text, sizeof text, "%" PRIu64, value - counter->confirmed);
    if (!add_line(batch, name, text, "c", 1))
        return;
    counter->attempted = value;
    batch->counters[batch->counter_count++] = counter;
}

void statsd_gauge(struct statsd_batch *batch, const struct metric_name *name, uint64_t value)
{
    char text[sizeof "18446744073709551615"];
    if (batch->leaves_out_gauges || is_over(batch))
        return;
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    (void)add_line(batch, name, text, "g", 1);
}

void statsd_time(struct statsd_batch *batch, const struct metric_name *name, struct metric_timer *timer)
{
    if (is_over(batch) || metric_timer_is_empty(timer))
        return;
    struct metric_times times;
    metric_timer_take(timer, &times);
    for (size_t i = 0; i < times.kept; i++) {
        char text[sizeof "18446744073709551615.000"];
        // Each line stands for as many values as any other; the first for what is left over.
        uint64_t share = times.total / times.kept + (i == 0 ? times.total % times.kept : 0);
        (void)snprintf(text, sizeof text, "%" PRIu64 ".%03" PRIu64, times.microseconds[i] / 1000,
                       times.microseconds[i] % 1000);
        if (add_line(batch, name, text, "ms", (double)times.kept / (double)times.total))
            batch->timings += share;
        else
            metric_add(&batch->losses->timings, share);
    }
}
