// What a report of a crash needs, in memory that the reporter inherits as a descriptor: who reports and where to, the
// last lines, and behind them the struct crash that the handler writes. One thread
// at a time.

#ifndef BITFLOW_SRC_SENTRY_CRASH_REPORT_H
#define BITFLOW_SRC_SENTRY_CRASH_REPORT_H

#include "event.h"

struct sentry_recorder {
    struct sentry_identity identity;
    struct sentry_breadcrumbs breadcrumbs;
};

#define SENTRY_CRASH_OFFSET sizeof(struct sentry_recorder)

// Mapped until the process ends. NULL: no memory, or no descriptor.
struct sentry_recorder *sentry_recorder_create(int *fd, struct error *error);

#endif
