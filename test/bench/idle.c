/*
 * Idle connections: opens all, one exchange on each, prints a line that says so, and holds them until stdin ends (or
 * the time is up). Then every connection has to echo once more: one that the proxy has dropped is an error.
 */

#include "load.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void wait_for_stdin(double seconds)
{
    uint64_t end = clock_now() + (uint64_t)(seconds * (double)NANOSECONDS);
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char ignored[256];

    for (uint64_t now = clock_now(); now < end; now = clock_now()) {
        int left = (int)((end - now) / 1000000u) + 1;

        if (poll(&input, 1, left) > 0 && read(STDIN_FILENO, ignored, sizeof ignored) <= 0) {
            return;
        }
    }
}

static bool open_all(const struct options *options, struct leg *legs, struct report *report)
{
    for (unsigned i = 0; i < options->connections; i++) {
        if (!net_connect(options, i, &legs[i])) {
            report_errno(report, "connect");
            return false;
        }
        if (!net_exchange(&legs[i], options->size, i)) {
            report_errno(report, "first exchange");
            return false;
        }
    }
    return true;
}

/* With a reset: what stayed in TIME_WAIT would take kernel memory during the next measurement. */
static void close_without_time_wait(struct leg *leg)
{
    struct linger linger = {.l_onoff = 1};

    (void)setsockopt(leg->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    leg_close(leg);
}

int idle_run(const struct options *options)
{
    struct report report = {0};
    struct leg *legs = calloc(options->connections, sizeof *legs);
    unsigned alive = 0;

    if (legs == NULL) {
        report_errno(&report, "calloc");
    } else if (open_all(options, legs, &report)) {
        (void)printf("{\"ready\": %u}\n", options->connections);
        (void)fflush(stdout);
        wait_for_stdin(options->seconds);
        for (unsigned i = 0; i < options->connections; i++) {
            if (net_exchange(&legs[i], options->size, i + 1u)) {
                alive++;
            } else {
                report_errno(&report, "last exchange");
            }
            close_without_time_wait(&legs[i]);
        }
    }
    free(legs);
    return report_print(&report, "\"command\": \"idle\", \"connections\": %u, \"alive\": %u", options->connections,
                        alive);
}
