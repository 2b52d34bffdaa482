/*
 * Bulk streams. Up: send until the time is up, shut down for writing, and compare what the sink says it got. Down:
 * receive until the time is up, shut down for writing (which tells the source to stop), drain, and compare with what
 * the source says it sent. The rate is that of all bytes over all of the time, the drain included. Received bytes are
 * discarded in the kernel (MSG_TRUNC), which leaves more of the processor to the proxy.
 */

#include "load.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK ((size_t)256 * 1024)

struct flow {
    int fd;
    bool is_draining; /* our own direction is shut down */
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

    flow->fd = net_connect(run->options, number);
    if (flow->fd < 0) {
        report_errno(&run->report, "connect");
        return false;
    }
    run->active++;
    if (!net_set_nonblocking(flow->fd) || !net_watch(run->epoll, flow->fd, events, flow)) {
        report_errno(&run->report, "epoll_ctl");
        return false;
    }
    return true;
}

static void flow_close(struct run *run, struct flow *flow)
{
    (void)close(flow->fd);
    flow->fd = -1;
    run->active--;
}

static void flow_shutdown(struct run *run, struct flow *flow)
{
    flow->is_draining = true;
    if (shutdown(flow->fd, SHUT_WR) != 0 || !net_rewatch(run->epoll, flow->fd, EPOLLIN, flow)) {
        report_errno(&run->report, "shutdown");
        flow_close(run, flow);
    }
}

static void flow_fail(struct run *run, struct flow *flow, const char *what)
{
    if (errno != EAGAIN) {
        report_errno(&run->report, what);
        flow_close(run, flow);
    }
}

static void flow_send(struct run *run, struct flow *flow)
{
    ssize_t bytes = send(flow->fd, run->buffer, sizeof run->buffer, MSG_NOSIGNAL);

    if (bytes < 0) {
        flow_fail(run, flow, "send");
    } else {
        flow->bytes += (uint64_t)bytes;
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
    ssize_t bytes = recv(flow->fd, run->buffer, sizeof run->buffer, flow->is_draining ? 0 : MSG_TRUNC);

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

static void transfer(struct run *run, struct flow *flows, uint64_t end)
{
    struct epoll_event events[16];
    uint64_t last = end + GRACE_SECONDS * NANOSECONDS;
    bool is_ending = false;

    while (run->active > 0) {
        int count = epoll_wait(run->epoll, events, 16, 10);
        uint64_t now = clock_now();

        for (int i = 0; i < count; i++) {
            struct flow *flow = events[i].data.ptr;

            if (run->options->direction == DIRECTION_UP && !flow->is_draining) {
                flow_send(run, flow);
            } else {
                flow_receive(run, flow);
            }
        }
        for (unsigned i = 0; now >= end && !is_ending && i < run->options->connections; i++) {
            if (flows[i].fd >= 0) {
                flow_shutdown(run, &flows[i]);
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
    uint64_t start = clock_now();
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
    if (is_open) {
        transfer(&run, flows, clock_now() + (uint64_t)(options->seconds * (double)NANOSECONDS));
    }
    seconds = (double)(clock_now() - start) / (double)NANOSECONDS;
    free(flows);
    return report_print(&run.report,
                        "\"command\": \"stream\", \"direction\": \"%s\", \"connections\": %u, \"bytes\": %" PRIu64
                        ", \"seconds\": %.6f, \"rate\": %.3f",
                        options->direction == DIRECTION_UP ? "up" : "down", options->connections, run.bytes, seconds,
                        (double)run.bytes / seconds);
}
