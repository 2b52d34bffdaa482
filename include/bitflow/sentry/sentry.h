// Errors on their way to Sentry. Every line of the log that is an error becomes an event, with the lines before it
// (sentry/breadcrumbs.h), unless the same was reported within the last minute (sentry/policy.h).
//
// All but sentry_lost() is the main thread's. What is logged is taken on the thread that logs, without
// waiting; the thread `sentry` sends it (sentry/sender.h). Between them is a queue of at most
// SENTRY_QUEUE_MAX events, under a lock that is held for a few instructions. What does not fit in is lost, and counted.
//
// A crash is reported by this program, run once more (base/crash.h): sentry_report_crash().

#ifndef BITFLOW_SENTRY_SENTRY_H
#define BITFLOW_SENTRY_SENTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"

#define SENTRY_ID_SIZE 33 // an event's id: 32 hexadecimal digits
#define SENTRY_QUEUE_MAX 64

struct sentry_settings {
    const char *dsn;         // NULL: off
    const char *environment; // NULL: "production"
    const char *authority;   // path of a PEM file; NULL: the system's
};

// All that can fail, before the first sentry_configure() with a DSN; may be called again. Starts the thread.
bool sentry_prepare(struct error *error);

// Reports go by these from now on. What is still queued goes there, too.
void sentry_configure(const struct sentry_settings *settings);

// Sends what is queued, at most until `deadline` (base/clock.h), and stops. What is left then is lost, which the log
// tells.
void sentry_end(int64_t deadline);

// How many events were lost so far: no room in the queue, or given up after several attempts. Any thread.
uint64_t sentry_lost(void);

// What the program does when it is started with CRASH_REPORT_OPTION: sends what is in `fd`, and tells the event's id.
// False: Sentry does not have it.
bool sentry_report_crash(int fd, char id[SENTRY_ID_SIZE], struct error *error);

#endif
