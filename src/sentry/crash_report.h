// The report of a crash, made and sent by the program that base/crash.h starts for it. What it needs is in memory that
// it inherits as a descriptor: who reports and where to, the last lines, and behind them the struct crash that the
// handler writes. One thread at a time.
//
// https://develop.sentry.dev/sdk/data-model/event-payloads/exception/ and stacktrace/, so that Sentry's own
// symbolication works where it has the debug files; the names that are known here are told as well.

#ifndef BITFLOW_SRC_SENTRY_CRASH_REPORT_H
#define BITFLOW_SRC_SENTRY_CRASH_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/crash.h"
#include "bitflow/base/error.h"
#include "event.h"

struct sentry_recorder {
    struct sentry_identity identity;
    struct sentry_breadcrumbs breadcrumbs;
};

#define SENTRY_CRASH_OFFSET sizeof(struct sentry_recorder)

// Mapped until the process ends. NULL: no memory, or no descriptor.
struct sentry_recorder *sentry_recorder_create(int *fd, struct error *error);

// The connection that the crashed thread served, which its name tells; 0: none.
uint64_t sentry_crashed_connection(const struct crash *crash);

char *sentry_crash_envelope(const struct sentry_identity *identity, const char *id, const struct crash *crash,
                            const struct sentry_breadcrumb *breadcrumbs, size_t breadcrumb_count, size_t *length);

#endif
