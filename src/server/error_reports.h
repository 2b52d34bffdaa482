// Reporting to Sentry (sentry/sentry.h), as a configuration says. The main thread's.

#ifndef BITFLOW_SRC_SERVER_ERROR_REPORTS_H
#define BITFLOW_SRC_SERVER_ERROR_REPORTS_H

#include <stdbool.h>

#include "bitflow/base/error.h"
#include "bitflow/config/config.h"

// All that can fail, before the configuration is put in force.
bool error_reports_prepare(const struct config *config, struct error *error);
void error_reports_configure(const struct config *config);

// Sends what is left, for a few seconds at most.
void error_reports_end(void);

#endif
