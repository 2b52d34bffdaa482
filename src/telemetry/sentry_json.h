// Building JSON for Sentry: an object under construction, which knows whether all of it could be built. Private to the
// telemetry floor; one thread at a time.

#ifndef BITFLOW_TELEMETRY_SENTRY_JSON_H
#define BITFLOW_TELEMETRY_SENTRY_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "bitflow/telemetry/sentry_event.h"

struct sentry_json {
    json_t *object; // or an array
    bool is_complete;
};

struct sentry_json sentry_json_object(void);
struct sentry_json sentry_json_array(void);
// Takes the value over; NULL: out of memory.
void sentry_json_set(struct sentry_json *json, const char *key, json_t *value);
void sentry_json_append(struct sentry_json *json, json_t *value);
// The finished value, or NULL if any part of it is missing.
json_t *sentry_json_finish(struct sentry_json *json);

// A string; what is not UTF-8 becomes a question mark for each byte. NULL text: null.
json_t *sentry_json_text(const char *text);
void sentry_json_set_text(struct sentry_json *json, const char *key, const char *text); // not if it is NULL
json_t *sentry_json_time(int64_t wall);
json_t *sentry_json_hex(uint64_t number); // "0x..."

// What every event has.
struct sentry_json sentry_json_event(const struct sentry_identity *identity, const char *id, int64_t wall,
                                     const char *level);
void sentry_json_set_crumbs(struct sentry_json *event, const struct sentry_crumb *crumbs, size_t count);

// Drops the event. NULL: out of memory, or the event is NULL.
char *sentry_json_envelope(json_t *event, const char *id, const uint64_t *losses, size_t *length);

#endif
