#include "bitflow/server/error_reports.h"

#include "bitflow/base/clock.h"
#include "bitflow/config/problem.h"
#include "bitflow/sentry/sentry.h"
#include "bitflow/tls/tls_context.h"

#define FLUSH_TIME (3 * NS_PER_S)

struct origin {
    struct problem_list *problems;
    const struct config *config;
};

static void report(void *argument, size_t entry, const char *key, const struct error *problem)
{
    const struct origin *origin = argument;
    (void)entry, (void)key;
    problem_at_mark(origin->problems, origin->config->sentry_authority_mark, "application.sentry_authority: %s",
                    problem->text);
}

bool error_reports_check(const char *file, const struct config *config, struct config_problems *problems)
{
    if (config->sentry_authority == NULL)
        return true;
    struct problem_list list;
    problem_list_init(&list, file, problems);
    // What a client that trusts it would make of it; libcurl reads the file anew.
    struct certificate_config certificate = {.authority = config->sentry_authority};
    const struct tls_config client = {
        .verify_mode = VERIFY_STRICT, .certificates = &certificate, .certificate_count = 1};
    struct origin origin = {.problems = &list, .config = config};
    const struct tls_reporter to = {.report = report, .argument = &origin};
    struct tls_context *context = tls_context_load(&client, TLS_CLIENT, &to);
    bool is_good = context != NULL;
    tls_context_destroy(&context);
    return is_good;
}

bool error_reports_prepare(const struct config *config, struct error *error)
{
    return config->sentry_dsn == NULL || sentry_prepare(error);
}

void error_reports_configure(const struct config *config)
{
    const struct sentry_settings settings = {
        .dsn = config->sentry_dsn,
        .environment = config->sentry_environment,
        .authority = config->sentry_authority,
    };
    sentry_configure(&settings);
}

void error_reports_end(void)
{
    sentry_end(deadline_after(FLUSH_TIME));
}
