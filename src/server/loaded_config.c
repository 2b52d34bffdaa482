#include "bitflow/server/loaded_config.h"

#include <stddef.h>

#include "bitflow/base/clock.h"
#include "bitflow/tls/tls_context.h"

uint64_t loaded_config_check_sentry_authority(const struct config *config, struct diagnostics *diagnostics)
{
    const struct named_file *authority = &config->sentry_authority;
    if (authority->path == NULL || config->sentry_dsn == NULL)
        return 0;
    const struct certificate_config certificate = {.authority = *authority};
    const struct tls_config client = {
        .verify_mode = VERIFY_STRICT, .certificates = &certificate, .certificate_count = 1};
    struct error error = ERROR_INIT;
    struct tls_context *context = tls_context_create(&client, TLS_CLIENT, &error);
    if (context == NULL)
        diagnostics_add(diagnostics, &(struct diagnostic){.severity = DIAGNOSTIC_ERROR,
                                                          .mark = authority->mark,
                                                          .path = "application.sentry_authority",
                                                          .text = error.text});
    uint64_t fingerprint = context != NULL ? tls_context_fingerprint(context) : 0;
    tls_context_destroy(&context);
    return fingerprint;
}

static void release_parts(struct loaded_config *loaded)
{
    if (loaded->config != NULL)
        tls_contexts_free(&loaded->tls_contexts, loaded->config->proxy_count);
    config_drop(&loaded->config);
}

bool loaded_config_load(struct loaded_config *loaded, const char *path)
{
    *loaded = (struct loaded_config){.since = clock_wall()};
    struct diagnostics *diagnostics = &loaded->diagnostics;
    diagnostics_init(diagnostics, path);
    diagnostics_init(&loaded->host_diagnostics, "bitflow");
    tls_check(&loaded->host_diagnostics);
    loaded->config = config_load(path, diagnostics);
    if (loaded->config == NULL)
        return false;
    loaded->tls_contexts = tls_contexts_load(loaded->config, diagnostics);
    loaded->sentry_authority = loaded_config_check_sentry_authority(loaded->config, diagnostics);
    if (diagnostics->errors == 0) {
        tls_contexts_check(loaded->tls_contexts, loaded->config, diagnostics);
        return true;
    }
    release_parts(loaded);
    return false;
}

void loaded_config_release(struct loaded_config *loaded)
{
    release_parts(loaded);
    diagnostics_release(&loaded->diagnostics);
    diagnostics_release(&loaded->host_diagnostics);
}
