// Sentry's events as JSON. Private to the telemetry floor; one thread at a time.

#ifndef BITFLOW_SRC_SENTRY_SENTRY_JSON_H
#define BITFLOW_SRC_SENTRY_SENTRY_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "bitflow/sentry/sentry_event.h"
#include "bitflow/telemetry/json_builder.h"

json_t *sentry_json_hex(uint64_t number); // "0x..."

// What every event has.
struct json_builder sentry_json_event(const struct sentry_identity *identity, const char *id, int64_t wall,
                                      const char *level);
void sentry_json_set_crumbs(struct json_builder *event, const struct sentry_crumb *crumbs, size_t count);

// Drops the event. NULL: out of memory, or the event is NULL.
char *sentry_json_envelope(json_t *event, const char *id, const uint64_t *losses, size_t *length);

#endif
