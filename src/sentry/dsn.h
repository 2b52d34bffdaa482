// A Sentry DSN, SCHEME://KEY[:SECRET]@HOST[:PORT]/[PATH/]PROJECT, taken apart into what a request is made from. Any
// thread; nothing is allocated or locked.
// https://develop.sentry.dev/sdk/foundations/transport/authentication/

#ifndef BITFLOW_SRC_SENTRY_DSN_H
#define BITFLOW_SRC_SENTRY_DSN_H

#include <stdbool.h>

#include "bitflow/base/error.h"

#define SENTRY_DSN_SIZE 1024

struct sentry_dsn {
    char url[SENTRY_DSN_SIZE + 32]; // SCHEME://HOST[:PORT]/[PATH/]api/PROJECT/envelope/
    char key[SENTRY_DSN_SIZE];      // a secret of sorts: who has it can send events
};

// ERROR_INVALID, with a text that repeats nothing of the DSN.
bool sentry_dsn_parse(const char *dsn, struct sentry_dsn *out, struct error *error);

#endif
