#include "dsn.h"

#include <stdio.h>
#include <string.h>

bool sentry_dsn_parse(const char *dsn, struct sentry_dsn *out, struct error *error)
{
    const char *scheme_end = strstr(dsn, "://");
    const char *key = scheme_end == NULL ? NULL : scheme_end + strlen("://");
    const char *at = key == NULL ? NULL : strchr(key, '@');
    const char *path = at == NULL ? NULL : strchr(at, '/');
    if (path == NULL || strlen(dsn) >= SENTRY_DSN_SIZE || strrchr(path, '/')[1] == '\0') {
        error_set(error, ERROR_INVALID, "not a Sentry DSN");
        return false;
    }
    const char *project = strrchr(path, '/') + 1;
    // A second part, the secret, is of a time before 2017.
    (void)snprintf(out->key, sizeof out->key, "%.*s", (int)strcspn(key, ":@"), key);
    (void)snprintf(out->url, sizeof out->url, "%.*s%.*sapi/%s/envelope/", (int)(key - dsn), dsn,
                   (int)(project - (at + 1)), at + 1, project);
    return true;
}
