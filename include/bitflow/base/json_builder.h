// JSON under construction (jansson): an object or an array that knows whether all of it could be built, since half a
// record is none. One thread at a time.

#ifndef BITFLOW_BASE_JSON_BUILDER_H
#define BITFLOW_BASE_JSON_BUILDER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct json_builder {
    json_t *object; // or an array
    bool is_complete;
};

struct json_builder json_builder_object(void);
struct json_builder json_builder_array(void);
// Takes the value over; NULL: out of memory.
void json_builder_set(struct json_builder *json, const char *key, json_t *value);
void json_builder_append(struct json_builder *json, json_t *value);
// The finished value, or NULL if any part of it is missing.
json_t *json_builder_finish(struct json_builder *json);

// A string; what is not UTF-8 becomes a question mark for each byte. NULL text: null.
json_t *json_builder_text(const char *text);
void json_builder_set_text(struct json_builder *json, const char *key, const char *text); // not if it is NULL
json_t *json_builder_time(int64_t wall);

#endif
