/*
 * Short connections: connect, send one request, read the response and the EOF after it, close, and begin again. The
 * origin closes first, so no TIME_WAIT is kept on the ports that the client and the proxy connect from.
 */

#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#define MAX_ERRORS 20

/* One of the concurrent clients. */
struct slot {
    struct leg leg;
    bool is_sent;
    size_t got;
    uint64_t started;
};

struct run {
    const struct options *options;
    int epoll;
    unsigned active;
    uint64_t begun;
    uint64_t end; /* none is begun after it */
    char request[4096];
    struct exchanges exchanges;
    struct report report;
};

static bool slot_begin(struct run *run, struct slot *slot)
{
    if (run->begun >= run->options->count || run->report.errors >= MAX_ERRORS || clock_now() >= run->end) {
        return false;
    }
    slot->is_sent = false;
    slot->got = 0;
    slot->started = clock_now();
    if (!net_connect_start(run->options, run->begun++, &slot->leg)) {
        report_errno(&run->report, "connect");
        return false;
    }
    run->active++;
    if (!net_watch(run->epoll, slot->leg.fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, slot)) {
        report_errno(&run->report, "epoll_ctl");
    }
    return true;
}

static void slot_end(struct run *run, struct slot *slot)
{
    leg_close(&slot->leg);
    run->active--;
}

/* Goes on as far as the socket lets it; true when the connection has ended, well or not. */
static bool slot_advance(struct run *run, struct slot *slot)
{
    char response[4097];

    if (!slot->is_sent) {
        ssize_t sent = leg_send(&slot->leg, run->request, run->options->size);

        if (sent < 0 && errno == EAGAIN) {
            return false;
        }
        if (sent != (ssize_t)run->options->size) {
            report_errno(&run->report, "connect or send");
            return true;
        }
        slot->is_sent = true;
    }
    for (;;) {
        ssize_t bytes = leg_receive(&slot->leg, response, sizeof response, false);

        if (bytes > 0) {
            slot->got += (size_t)bytes;
            if (slot->got == run->options->size) {
                histogram_add(&run->exchanges.answers, clock_now() - slot->started);
            }
        } else if (bytes < 0 && errno == EAGAIN) {
            return false;
        } else if (bytes < 0) {
            report_errno(&run->report, "recv");
            return true;
        } else if (slot->got != run->options->size) {
            report_error(&run->report, "%zu of %zu bytes of a response", slot->got, run->options->size);
            return true;
        } else {
            histogram_add(&run->exchanges.whole, clock_now() - slot->started);
            return true;
        }
    }
}

/* Ends and begins connections as long as they do not have to wait. */
static void slot_run(struct run *run, struct slot *slot)
{
    while (slot_advance(run, slot)) {
        slot_end(run, slot);
        if (!slot_begin(run, slot)) {
            return;
        }
    }
}

static void serve(struct run *run, struct slot *slots)
{
    struct epoll_event events[64];
    uint64_t last = run->end + GRACE_SECONDS * NANOSECONDS;

    for (unsigned i = 0; i < run->options->connections; i++) {
        if (slot_begin(run, &slots[i])) {
            slot_run(run, &slots[i]);
        }
    }
    while (run->active > 0) {
        int count = epoll_wait(run->epoll, events, 64, 1000);

        for (int i = 0; i < count; i++) {
            slot_run(run, events[i].data.ptr);
        }
        if (clock_now() > last) {
            report_error(&run->report, "%u connections did not end", run->active);
            return;
        }
    }
}

int connections_run(const struct options *options)
{
    static struct run run;
    struct slot *slots = calloc(options->connections, sizeof *slots);
    uint64_t start = clock_now();
    uint64_t took = 0;

    run.options = options;
    run.end = start + (uint64_t)(options->seconds * (double)NANOSECONDS);
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    net_fill(run.request, options->size, 0);
    if (slots == NULL || run.epoll < 0) {
        report_errno(&run.report, "setup");
    } else {
        serve(&run, slots);
    }
    took = clock_now() - start;
    free(slots);
    return report_print_exchanges(&run.report, "connections", options->connections, took, &run.exchanges);
}
