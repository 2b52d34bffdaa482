// What a report of a crash needs, in memory that the reporter inherits as a descriptor: who reports and where to, the
// last lines, and behind them the struct crash that the handler writes. Private to the telemetry floor.

#ifndef BITFLOW_SRC_SENTRY_SENTRY_RECORDER_H
#define BITFLOW_SRC_SENTRY_SENTRY_RECORDER_H

#include "bitflow/sentry/sentry_event.h"

struct sentry_recorder {
    struct sentry_identity identity;
    struct sentry_crumbs crumbs;
};

#define SENTRY_CRASH_OFFSET sizeof(struct sentry_recorder)

// Mapped until the process ends. NULL: no memory, or no descriptor.
struct sentry_recorder *sentry_recorder_create(int *fd, struct error *error);

#endif
