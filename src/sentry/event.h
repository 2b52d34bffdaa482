// What is sent to Sentry: an event, as JSON, in an envelope. Any thread; no locks.
// https://develop.sentry.dev/sdk/data-model/event-payloads/ and https://develop.sentry.dev/sdk/data-model/envelopes/
//
// An event never has the DSN, a key or a password in it: all that varies in it comes from lines of the log, which have
// none, and from what this program knows of itself.

#ifndef BITFLOW_SRC_SENTRY_EVENT_H
#define BITFLOW_SRC_SENTRY_EVENT_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/json_builder.h"
#include "bitflow/sentry/sentry.h"
#include "breadcrumbs.h"

#define SENTRY_DSN_SIZE 1024
#define SENTRY_ENVIRONMENT_SIZE 65
#define SENTRY_SERVER_NAME_SIZE (HOST_NAME_MAX + 1)

// Who reports, and where to. Without pointers, so that it can lie in memory that another process reads.
struct sentry_identity {
    char dsn[SENTRY_DSN_SIZE]; // empty: nothing is reported
    char environment[SENTRY_ENVIRONMENT_SIZE];
    char authority[PATH_MAX]; // of a PEM file; empty: the system's
    char server_name[SENTRY_SERVER_NAME_SIZE];
};

#define SENTRY_ERROR_TEXT 4096 // bytes; a line that is an error is kept longer than a breadcrumb

// An error, as it is found in the log.
struct sentry_error {
    STAILQ_ENTRY(sentry_error) link; // in the queue
    char id[SENTRY_ID_SIZE];
    uint64_t repeated; // how often the same came since it was last reported
    unsigned attempts; // to send it
    struct sentry_line line;
    char text[SENTRY_ERROR_TEXT];
    size_t breadcrumb_count;
    struct sentry_breadcrumb breadcrumbs[SENTRY_BREADCRUMBS_MAX];
};

// What was not sent, told along with the next event: by Sentry's names for the reasons.
enum sentry_loss { SENTRY_LOST_QUEUE, SENTRY_LOST_NETWORK, SENTRY_LOST_REFUSED, SENTRY_LOST_MEMORY, SENTRY_LOSSES };

// What the fingerprint is made of: message, proxy, target, reason; a missing one is NULL.
#define SENTRY_FINGERPRINT_PARTS 4

// A random id. False: the system gives none.
bool sentry_make_id(char id[SENTRY_ID_SIZE]);

// Each returns an envelope of `*length` bytes, to be freed, or NULL when out of memory. `losses`: NULL, or
// SENTRY_LOSSES numbers.
char *sentry_error_envelope(const struct sentry_identity *identity, const struct sentry_error *error,
                            const uint64_t *losses, size_t *length);

// What errors and crashes have in common.

json_t *sentry_event_hex(uint64_t number); // "0x..."

struct json_builder sentry_event_begin(const struct sentry_identity *identity, const char *id, int64_t wall,
                                       const char *level);
void sentry_event_set_breadcrumbs(struct json_builder *event, const struct sentry_breadcrumb *breadcrumbs,
                                  size_t count);

// Drops the event. NULL: out of memory, or the event is NULL.
char *sentry_envelope(json_t *event, const char *id, const uint64_t *losses, size_t *length);

#endif
