// Envelopes on their way: gzip, HTTP by libcurl, one request at a time. One thread; a request blocks it, at most
// SENTRY_REQUEST_TIME.
//
// Certificates are verified, redirects are not followed, nothing but http and https is spoken, and what a server
// answers is not kept, but for the headers that limit the rate. libcurl takes a proxy from the environment, as in
// https_proxy.
// https://develop.sentry.dev/sdk/foundations/transport/authentication/

#ifndef BITFLOW_SRC_SENTRY_SENDER_H
#define BITFLOW_SRC_SENTRY_SENDER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "bitflow/base/error.h"
#include "event.h"
#include "policy.h"

#define SENTRY_CONNECT_TIME (5 * NS_PER_S)
#define SENTRY_REQUEST_TIME (10 * NS_PER_S)

// A DSN, SCHEME://KEY[:SECRET]@HOST[:PORT]/[PATH/]PROJECT, taken apart into what a request is made from.
struct sentry_dsn {
    char url[SENTRY_DSN_SIZE + 32]; // SCHEME://HOST[:PORT]/[PATH/]api/PROJECT/envelope/
    char key[SENTRY_DSN_SIZE];      // a secret of sorts: who has it can send events
};

// ERROR_INVALID, with a text that repeats nothing of the DSN. Any thread.
bool sentry_dsn_parse(const char *dsn, struct sentry_dsn *out, struct error *error);

struct sentry_sender {
    void *multi; // a CURLM *, which has the connection; NULL: none yet
    void *curl;  // a CURL *, likewise
    // When the request that is under way is given up (clock_now()), which any thread may set; DEADLINE_NONE.
    _Atomic int64_t deadline;
};

// By the main thread, before any other sends and after libcrypto has been told how to end (tls_init()).
bool sentry_sender_prepare(struct error *error);

void sentry_sender_init(struct sentry_sender *sender);
bool sentry_sender_is_open(const struct sentry_sender *sender);
// Closes the connection. It may go on sending, by a new one.
void sentry_sender_close(struct sentry_sender *sender);

void sentry_sender_send(struct sentry_sender *sender, const struct sentry_identity *identity, const char *envelope,
                        size_t length, struct sentry_answer *answer);

#endif
