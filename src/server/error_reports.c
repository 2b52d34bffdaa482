#include "error_reports.h"

#include <stddef.h>

#include "bitflow/base/clock.h"
#include "bitflow/sentry/sentry.h"

#define FLUSH_TIME (3 * NS_PER_S)

bool error_reports_prepare(const struct config *config, struct error *error)
{
    return config->sentry_dsn == NULL || sentry_prepare(error);
}

void error_reports_configure(const struct config *config)
{
    const struct sentry_settings settings = {
        .dsn = config->sentry_dsn,
        .environment = config->sentry_environment,
        .authority = config->sentry_authority.path,
    };
    sentry_configure(&settings);
}

void error_reports_end(void)
{
    sentry_end(deadline_after(FLUSH_TIME));
}
