/*
 * Bulk streams. Up: send until the time is up, shut down for writing, and compare what the sink says it got. Down:
 * receive until the time is up, shut down for writing (which tells the source to stop), drain, and compare with what
 * the source says it sent. The rate is that of all bytes over all of the time, the drain included. Received bytes are
 * discarded in the kernel (MSG_TRUNC), which leaves more of the processor to the proxy; TLS has to decrypt them.
 */

#include "load.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#define CHUNK ((size_t)256 * 1024)

struct flow {
    struct leg leg;
    bool is_ending;   /* time is up, our own direction is to be shut down */
    bool is_draining; /* it is */
    uint64_t bytes;
    size_t tail_size;
    char tail[TRAILER_SIZE]; /* the last bytes received */
};

struct run {
    const struct options *options;
    int epoll;
    unsigned active;
    uint64_t bytes;
    char buffer[CHUNK];
    struct report report;
};

static bool flow_open(struct run *run, struct flow *flow, unsigned number)
{
    uint32_t events = run->options->direction == DIRECTION_UP ? EPOLLOUT : EPOLLIN;

    if (!net_connect(run->options, number, &flow->leg)) {
        report_errno(&run->report, "connect");
        return false;
    }
    run->active++;
    if (!net_set_nonblocking(flow->leg.fd) || !net_watch(run->epoll, flow->leg.fd, events, flow)) {
        report_errno(&run->report, "epoll_ctl");
        return false;
    }
    return true;
}

static void flow_close(struct run *run, struct flow *flow)
{
    leg_close(&flow->leg);
    run->active--;
}

static void flow_fail(struct run *run, struct flow *flow, const char *what)
{
    if (errno != EAGAIN) {
        report_errno(&run->report, what);
        flow_close(run, flow);
    }
}

static void flow_shutdown(struct run *run, struct flow *flow)
{
    if (!leg_shutdown(&flow->leg)) {
        flow_fail(run, flow, "shutdown");
        return;
    }
    flow->is_draining = true;
    if (!net_rewatch(run->epoll, flow->leg.fd, EPOLLIN, flow)) {
        report_errno(&run->report, "epoll_ctl");
        flow_close(run, flow);
    }
}

/* What is left to be sent when time is up is the rest of a record. */
static void flow_send(struct run *run, struct flow *flow)
{
    ssize_t bytes =
        flow->is_ending ? leg_flush(&flow->leg, run->buffer) : leg_send(&flow->leg, run->buffer, sizeof run->buffer);

    if (bytes < 0) {
        flow_fail(run, flow, "send");
        return;
    }
    flow->bytes += (uint64_t)bytes;
    if (flow->is_ending) {
        flow_shutdown(run, flow);
    }
}

/* At EOF: the trailer says how many bytes the origin sent before it, or got. */
static void flow_finish(struct run *run, struct flow *flow)
{
    char text[TRAILER_SIZE + 1] = {0};
    uint64_t expected = flow->bytes - (run->options->direction == DIRECTION_DOWN ? TRAILER_SIZE : 0);
    uint64_t told = 0;
    char *end = NULL;

    memcpy(text, flow->tail, flow->tail_size);
    told = strtoull(text, &end, 16);
    if (flow->tail_size != TRAILER_SIZE || *end != '\0') {
        report_error(&run->report, "the origin's count is missing at the end of a stream");
    } else if (told != expected) {
        report_error(&run->report, "the origin counts %" PRIu64 " bytes, the client %" PRIu64, told, expected);
    }
    run->bytes += expected;
    flow_close(run, flow);
}

static void keep_tail(struct flow *flow, const char *data, size_t size)
{
    size_t kept = 0;

    if (size >= TRAILER_SIZE) {
        memcpy(flow->tail, data + size - TRAILER_SIZE, TRAILER_SIZE);
        flow->tail_size = TRAILER_SIZE;
        return;
    }
    kept = TRAILER_SIZE - size < flow->tail_size ? TRAILER_SIZE - size : flow->tail_size;
    memmove(flow->tail, flow->tail + flow->tail_size - kept, kept);
    memcpy(flow->tail + kept, data, size);
    flow->tail_size = kept + size;
}

static void flow_receive(struct run *run, struct flow *flow)
{
    /* The trailer cannot come before the origin has seen our EOF. */
    ssize_t bytes = leg_receive(&flow->leg, run->buffer, sizeof run->buffer, !flow->is_draining);

    if (bytes < 0) {
        flow_fail(run, flow, "recv");
    } else if (bytes == 0 && !flow->is_draining) {
        report_error(&run->report, "a stream ended early");
        flow_close(run, flow);
    } else if (bytes == 0) {
        flow_finish(run, flow);
    } else {
        if (flow->is_draining) {
            keep_tail(flow, run->buffer, (size_t)bytes);
        }
        if (run->options->direction == DIRECTION_DOWN) {
            flow->bytes += (uint64_t)bytes;
        }
    }
}

static void flow_serve(struct run *run, struct flow *flow)
{
    if (run->options->direction == DIRECTION_UP && !flow->is_draining) {
        flow_send(run, flow);
        return;
    }
    do {
        flow_receive(run, flow);
    } while (flow->leg.has_more);
}

static void flow_end(struct run *run, struct flow *flow)
{
    flow->is_ending = true;
    if (run->options->direction == DIRECTION_UP) {
        flow_send(run, flow);
    } else {
        flow_shutdown(run, flow);
    }
}

static void transfer(struct run *run, struct flow *flows, uint64_t end)
{
    struct epoll_event events[16];
    uint64_t last = end + GRACE_SECONDS * NANOSECONDS;
    bool is_ending = false;

    while (run->active > 0) {
        int count = epoll_wait(run->epoll, events, 16, 10);
        uint64_t now = clock_now();

        for (int i = 0; i < count; i++) {
            flow_serve(run, events[i].data.ptr);
        }
        for (unsigned i = 0; now >= end && !is_ending && i < run->options->connections; i++) {
            if (flows[i].leg.fd >= 0) {
                flow_end(run, &flows[i]);
            }
        }
        is_ending = now >= end;
        if (now > last) {
            report_error(&run->report, "%u streams did not end", run->active);
            return;
        }
    }
}

int stream_run(const struct options *options)
{
    static struct run run;
    struct flow *flows = calloc(options->connections, sizeof *flows);
    bool is_open = true;
    uint64_t start = 0;
    double seconds = 0;

    run.options = options;
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    memset(run.buffer, 'x', sizeof run.buffer);
    if (flows == NULL || run.epoll < 0) {
        report_errno(&run.report, "setup");
        is_open = false;
    }
    for (unsigned i = 0; is_open && i < options->connections; i++) {
        is_open = flow_open(&run, &flows[i], i);
    }
    start = clock_now();
    if (is_open) {
        transfer(&run, flows, start + (uint64_t)(options->seconds * (double)NANOSECONDS));
    }
    seconds = (double)(clock_now() - start) / (double)NANOSECONDS;
    free(flows);
    return report_print(&run.report,
                        "\"command\": \"stream\", \"direction\": \"%s\", \"connections\": %u, \"bytes\": %" PRIu64
                        ", \"seconds\": %.6f, \"rate\": %.3f",
                        options->direction == DIRECTION_UP ? "up" : "down", options->connections, run.bytes, seconds,
                        (double)run.bytes / seconds);
}
