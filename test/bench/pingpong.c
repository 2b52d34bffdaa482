/* Messages to and fro: each connection sends one, waits for its echo, compares it, and sends the next. */

#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

struct ball {
    struct leg leg;
    size_t got;
    uint64_t sent_at;
    char message[4096];
    char reply[4096];
};

struct run {
    const struct options *options;
    int epoll;
    unsigned active;
    uint64_t number;
    uint64_t end;
    struct exchanges exchanges;
    struct report report;
};

static bool ball_open(struct run *run, struct ball *ball, unsigned number)
{
    if (!net_connect(run->options, number, &ball->leg)) {
        report_errno(&run->report, "connect");
        return false;
    }
    run->active++;
    if (!net_exchange(&ball->leg, run->options->size, number)) {
        report_errno(&run->report, "first exchange");
        return false;
    }
    if (!net_set_nonblocking(ball->leg.fd) || !net_watch(run->epoll, ball->leg.fd, EPOLLIN, ball)) {
        report_errno(&run->report, "epoll_ctl");
        return false;
    }
    return true;
}

static void ball_close(struct run *run, struct ball *ball)
{
    leg_close(&ball->leg);
    run->active--;
}

static void ball_send(struct run *run, struct ball *ball)
{
    uint64_t now = clock_now();

    if (now >= run->end || run->exchanges.whole.total >= run->options->count) {
        ball_close(run, ball);
        return;
    }
    net_fill(ball->message, run->options->size, run->number++);
    ball->got = 0;
    ball->sent_at = now;
    if (leg_send(&ball->leg, ball->message, run->options->size) != (ssize_t)run->options->size) {
        report_errno(&run->report, "send");
        ball_close(run, ball);
    }
}

static void ball_receive(struct run *run, struct ball *ball)
{
    ssize_t bytes = leg_receive(&ball->leg, ball->reply + ball->got, run->options->size - ball->got, false);

    if (bytes < 0 && errno == EAGAIN) {
        return;
    }
    if (bytes <= 0) {
        report_error(&run->report, "recv: %s", bytes == 0 ? "EOF" : leg_error());
        ball_close(run, ball);
        return;
    }
    ball->got += (size_t)bytes;
    if (ball->got < run->options->size) {
        return;
    }
    if (memcmp(ball->message, ball->reply, run->options->size) != 0) {
        report_error(&run->report, "an echo differs from its message");
        ball_close(run, ball);
        return;
    }
    histogram_add(&run->exchanges.whole, clock_now() - ball->sent_at);
    ball_send(run, ball);
}

static void play(struct run *run, struct ball *balls)
{
    struct epoll_event events[64];
    uint64_t last = run->end + GRACE_SECONDS * NANOSECONDS;

    for (unsigned i = 0; i < run->options->connections; i++) {
        ball_send(run, &balls[i]);
    }
    while (run->active > 0) {
        int count = epoll_wait(run->epoll, events, 64, 1000);

        for (int i = 0; i < count; i++) {
            struct ball *ball = events[i].data.ptr;

            do {
                ball_receive(run, ball);
            } while (ball->leg.has_more);
        }
        if (clock_now() > last) {
            report_error(&run->report, "%u messages did not come back", run->active);
            return;
        }
    }
}

int pingpong_run(const struct options *options)
{
    static struct run run;
    struct ball *balls = calloc(options->connections, sizeof *balls);
    bool is_open = true;
    uint64_t start = 0;
    uint64_t took = 0;

    run.options = options;
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (balls == NULL || run.epoll < 0) {
        report_errno(&run.report, "setup");
        is_open = false;
    }
    for (unsigned i = 0; is_open && i < options->connections; i++) {
        is_open = ball_open(&run, &balls[i], i);
    }
    start = clock_now();
    run.end = start + (uint64_t)(options->seconds * (double)NANOSECONDS);
    if (is_open) {
        play(&run, balls);
    }
    took = clock_now() - start;
    free(balls);
    return report_print_exchanges(&run.report, "pingpong", options->connections, took, &run.exchanges);
}
