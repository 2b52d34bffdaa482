#include "bitflow/sentry/sentry_event.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "bitflow/base/compiler.h"
#include "sentry_json.h"

// What is worth searching and counting by.
static const char *const tag_keys[] = {"target", "reason", "ended_by"};

bool sentry_make_id(char id[SENTRY_ID_SIZE])
{
    unsigned char bytes[(SENTRY_ID_SIZE - 1) / 2];
    if (getrandom(bytes, sizeof bytes, GRND_NONBLOCK) != (ssize_t)sizeof bytes)
        return false;
    // It is a UUID of version 4 (RFC 9562, 5.4).
    bytes[6] = (unsigned char)((bytes[6] & 0x0f) | 0x40);
    bytes[8] = (unsigned char)((bytes[8] & 0x3f) | 0x80);
    for (size_t i = 0; i < sizeof bytes; i++)
        (void)snprintf(id + 2 * i, 3, "%02x", bytes[i]);
    return true;
}

// The message alone names the kind of error; with what the system said it is a sentence for people.
static json_t *describe_message(const struct sentry_error *error)
{
    const char *message = sentry_line_message(&error->line, error->text);
    const char *cause = sentry_line_field(&error->line, error->text, "error");
    char sentence[SENTRY_ERROR_TEXT];
    (void)snprintf(sentence, sizeof sentence, "%s%s%s", message, cause == NULL ? "" : ": ", cause == NULL ? "" : cause);
    struct json_builder json = json_builder_object();
    json_builder_set_text(&json, "message", message);
    json_builder_set_text(&json, "formatted", sentence);
    return json_builder_finish(&json);
}

static json_t *describe_tags(const struct sentry_error *error)
{
    char number[LOG_NUMBER_SIZE];
    struct json_builder tags = json_builder_object();
    json_builder_set_text(&tags, "proxy", sentry_line_proxy(&error->line, error->text));
    for (size_t i = 0; i < ARRAY_LENGTH(tag_keys); i++)
        json_builder_set_text(&tags, tag_keys[i], sentry_line_field(&error->line, error->text, tag_keys[i]));
    if (error->line.connection != 0)
        json_builder_set_text(&tags, "connection", log_number(number, (int64_t)error->line.connection));
    return json_builder_finish(&tags);
}

static json_t *describe_fingerprint(const struct sentry_error *error)
{
    const char *parts[SENTRY_FINGERPRINT_PARTS] = {
        sentry_line_message(&error->line, error->text),
        sentry_line_proxy(&error->line, error->text),
        sentry_line_field(&error->line, error->text, "target"),
        sentry_line_field(&error->line, error->text, "reason"),
    };
    struct json_builder json = json_builder_array();
    for (size_t i = 0; i < SENTRY_FINGERPRINT_PARTS; i++)
        json_builder_append(&json, json_builder_text(parts[i] == NULL ? "" : parts[i]));
    return json_builder_finish(&json);
}

// All that the line has.
static json_t *describe_facts(const struct sentry_error *error)
{
    struct json_builder facts = json_builder_object();
    if (error->line.connection != 0)
        json_builder_set(&facts, "id", json_integer((json_int_t)error->line.connection));
    json_builder_set_text(&facts, "proxy", sentry_line_proxy(&error->line, error->text));
    const char *at = sentry_line_fields(&error->line, error->text);
    struct log_field field;
    while (sentry_line_next_field(&error->line, error->text, &at, &field))
        json_builder_set(&facts, field.key, json_builder_text(field.value));
    return json_builder_finish(&facts);
}

char *sentry_error_envelope(const struct sentry_identity *identity, const struct sentry_error *error,
                            const uint64_t *losses, size_t *length)
{
    struct json_builder event = sentry_json_event(identity, error->id, error->line.wall, "error");
    json_builder_set(&event, "logentry", describe_message(error));
    json_builder_set(&event, "tags", describe_tags(error));
    json_builder_set(&event, "fingerprint", describe_fingerprint(error));
    json_t *contexts = json_object_get(event.object, "contexts");
    if (json_object_set_new(contexts, error->line.connection != 0 ? "connection" : "details", describe_facts(error)))
        event.is_complete = false;
    if (error->repeated > 0) {
        struct json_builder extra = json_builder_object();
        json_builder_set(&extra, "repeated", json_integer((json_int_t)error->repeated));
        json_builder_set(&event, "extra", json_builder_finish(&extra));
    }
    sentry_json_set_crumbs(&event, error->crumbs, error->crumb_count);
    return sentry_json_envelope(json_builder_finish(&event), error->id, losses, length);
}
