#include "event.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/utsname.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/base/json_builder.h"
#include "bitflow/version.h"

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

// ---- what every event has

json_t *sentry_event_hex(uint64_t number)
{
    char text[2 + 16 + 1];
    (void)snprintf(text, sizeof text, "0x%" PRIx64, number);
    return json_string(text);
}

static json_t *name_and_version(const char *name, const char *version)
{
    struct json_builder json = json_builder_object();
    json_builder_set_text(&json, "name", name);
    json_builder_set_text(&json, "version", version);
    return json_builder_finish(&json);
}

static json_t *describe_system(void)
{
    struct utsname system;
    if (uname(&system) != 0)
        return json_null();
    struct json_builder contexts = json_builder_object();
    json_builder_set(&contexts, "os", name_and_version(system.sysname, system.release));
    return json_builder_finish(&contexts);
}

struct json_builder sentry_event_begin(const struct sentry_identity *identity, const char *id, int64_t wall,
                                       const char *level)
{
    struct json_builder event = json_builder_object();
    json_builder_set_text(&event, "event_id", id);
    json_builder_set(&event, "timestamp", json_builder_time(wall));
    json_builder_set_text(&event, "platform", "native");
    json_builder_set_text(&event, "level", level);
    json_builder_set_text(&event, "logger", "bitflow");
    json_builder_set_text(&event, "release", "bitflow@" BITFLOW_VERSION);
    json_builder_set_text(&event, "environment", identity->environment);
    json_builder_set_text(&event, "server_name", identity->server_name);
    json_builder_set(&event, "sdk", name_and_version("bitflow", BITFLOW_VERSION));
    json_builder_set(&event, "contexts", describe_system());
    return event;
}

static const char *breadcrumb_level(uint32_t level)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    return level < sizeof names / sizeof *names ? names[level] : "info";
}

static json_t *json_of_breadcrumb(const struct sentry_breadcrumb *breadcrumb)
{
    const struct sentry_line *line = &breadcrumb->line;
    struct json_builder data = json_builder_object();
    json_builder_set_text(&data, "proxy", sentry_line_proxy(line, breadcrumb->text));
    if (line->connection != 0)
        json_builder_set(&data, "conn", json_integer((json_int_t)line->connection));
    const char *at = sentry_line_fields(line, breadcrumb->text);
    struct log_field field;
    while (sentry_line_next_field(line, breadcrumb->text, &at, &field))
        json_builder_set(&data, field.key, json_builder_text(field.value));
    struct json_builder json = json_builder_object();
    json_builder_set(&json, "timestamp", json_builder_time(line->wall));
    json_builder_set_text(&json, "type", "default");
    json_builder_set_text(&json, "level", breadcrumb_level(line->level));
    json_builder_set_text(&json, "category", line->connection != 0 ? "connection" : "process");
    json_builder_set(&json, "message", json_builder_text(sentry_line_message(line, breadcrumb->text)));
    json_builder_set(&json, "data", json_builder_finish(&data));
    return json_builder_finish(&json);
}

void sentry_event_set_breadcrumbs(struct json_builder *event, const struct sentry_breadcrumb *breadcrumbs, size_t count)
{
    struct json_builder values = json_builder_array();
    for (size_t i = 0; i < count; i++)
        json_builder_append(&values, json_of_breadcrumb(&breadcrumbs[i]));
    struct json_builder json = json_builder_object();
    json_builder_set(&json, "values", json_builder_finish(&values));
    json_builder_set(event, "breadcrumbs", json_builder_finish(&json));
}

// ---- the envelope

// https://develop.sentry.dev/sdk/telemetry/client-reports/
static json_t *client_report(const uint64_t *losses)
{
    static const char *const reasons[SENTRY_LOSSES] = {"queue_overflow", "network_error", "send_error",
                                                       "internal_sdk_error"};
    struct json_builder discarded = json_builder_array();
    for (size_t i = 0; i < SENTRY_LOSSES; i++) {
        if (losses[i] == 0)
            continue;
        struct json_builder loss = json_builder_object();
        json_builder_set_text(&loss, "reason", reasons[i]);
        json_builder_set_text(&loss, "category", "error");
        json_builder_set(&loss, "quantity", json_integer((json_int_t)losses[i]));
        json_builder_append(&discarded, json_builder_finish(&loss));
    }
    struct json_builder report = json_builder_object();
    json_builder_set(&report, "timestamp", json_builder_time(clock_wall()));
    json_builder_set(&report, "discarded_events", json_builder_finish(&discarded));
    return json_builder_finish(&report);
}

// Lines of JSON under construction.
struct lines {
    char *bytes;
    size_t length;
    bool is_complete;
};

// Takes over the text, which json_dumps() made.
static void append_text(struct lines *lines, char *text)
{
    size_t length = text == NULL ? 0 : strlen(text);
    char *longer = text == NULL || !lines->is_complete ? NULL : realloc(lines->bytes, lines->length + length + 2);
    if (longer == NULL) {
        lines->is_complete = false;
    } else {
        lines->bytes = longer;
        (void)snprintf(longer + lines->length, length + 2, "%s\n", text);
        lines->length += length + 1;
    }
    free(text);
}

static char *dump(json_t *json)
{
    char *text = json == NULL ? NULL : json_dumps(json, JSON_COMPACT | JSON_ENSURE_ASCII);
    json_decref(json);
    return text;
}

static void append_item(struct lines *lines, const char *type, json_t *payload)
{
    char *text = dump(payload);
    struct json_builder header = json_builder_object();
    json_builder_set_text(&header, "type", type);
    json_builder_set(&header, "length", json_integer(text == NULL ? 0 : (json_int_t)strlen(text)));
    append_text(lines, dump(json_builder_finish(&header)));
    append_text(lines, text);
}

char *sentry_envelope(json_t *event, const char *id, const uint64_t *losses, size_t *length)
{
    struct lines lines = {.is_complete = true};
    uint64_t lost = 0;
    for (size_t i = 0; losses != NULL && i < SENTRY_LOSSES; i++)
        lost += losses[i];
    struct json_builder header = json_builder_object();
    json_builder_set_text(&header, "event_id", id);
    json_builder_set(&header, "sent_at", json_builder_time(clock_wall()));
    json_builder_set(&header, "sdk", name_and_version("bitflow", BITFLOW_VERSION));
    append_text(&lines, dump(json_builder_finish(&header)));
    append_item(&lines, "event", event);
    if (lost > 0)
        append_item(&lines, "client_report", client_report(losses));
    if (lines.is_complete) {
        *length = lines.length;
        return lines.bytes;
    }
    free(lines.bytes);
    return NULL;
}

// ---- an error

// What is worth searching and counting by.
static const char *const tag_keys[] = {"target", "reason", "ended_by"};

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
    struct json_builder event = sentry_event_begin(identity, error->id, error->line.wall, "error");
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
    sentry_event_set_breadcrumbs(&event, error->breadcrumbs, error->breadcrumb_count);
    return sentry_envelope(json_builder_finish(&event), error->id, losses, length);
}
