#include "sentry_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "bitflow/base/clock.h"
#include "bitflow/version.h"

struct sentry_json sentry_json_object(void)
{
    return (struct sentry_json){.object = json_object(), .is_complete = true};
}

struct sentry_json sentry_json_array(void)
{
    return (struct sentry_json){.object = json_array(), .is_complete = true};
}

void sentry_json_set(struct sentry_json *json, const char *key, json_t *value)
{
    if (json_object_set_new_nocheck(json->object, key, value) != 0) // also if either is NULL
        json->is_complete = false;
}

void sentry_json_append(struct sentry_json *json, json_t *value)
{
    if (json_array_append_new(json->object, value) != 0)
        json->is_complete = false;
}

json_t *sentry_json_finish(struct sentry_json *json)
{
    if (json->is_complete && json->object != NULL)
        return json->object;
    json_decref(json->object);
    return NULL;
}

static json_t *without_bad_bytes(const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL)
        return NULL;
    for (char *at = copy; *at != '\0'; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    json_t *value = json_string(copy);
    free(copy);
    return value;
}

json_t *sentry_json_text(const char *text)
{
    if (text == NULL)
        return json_null();
    json_t *value = json_string(text);
    return value != NULL ? value : without_bad_bytes(text);
}

void sentry_json_set_text(struct sentry_json *json, const char *key, const char *text)
{
    if (text != NULL)
        sentry_json_set(json, key, sentry_json_text(text));
}

json_t *sentry_json_time(int64_t wall)
{
    char text[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(wall, text);
    return json_string(text);
}

json_t *sentry_json_hex(uint64_t number)
{
    char text[2 + 16 + 1];
    (void)snprintf(text, sizeof text, "0x%" PRIx64, number);
    return json_string(text);
}

static json_t *name_and_version(const char *name, const char *version)
{
    struct sentry_json json = sentry_json_object();
    sentry_json_set_text(&json, "name", name);
    sentry_json_set_text(&json, "version", version);
    return sentry_json_finish(&json);
}

static json_t *describe_system(void)
{
    struct utsname system;
    if (uname(&system) != 0)
        return json_null();
    struct sentry_json contexts = sentry_json_object();
    sentry_json_set(&contexts, "os", name_and_version(system.sysname, system.release));
    return sentry_json_finish(&contexts);
}

struct sentry_json sentry_json_event(const struct sentry_identity *identity, const char *id, int64_t wall,
                                     const char *level)
{
    struct sentry_json event = sentry_json_object();
    sentry_json_set_text(&event, "event_id", id);
    sentry_json_set(&event, "timestamp", sentry_json_time(wall));
    sentry_json_set_text(&event, "platform", "native");
    sentry_json_set_text(&event, "level", level);
    sentry_json_set_text(&event, "logger", "bitflow");
    sentry_json_set_text(&event, "release", "bitflow@" BITFLOW_VERSION);
    sentry_json_set_text(&event, "environment", identity->environment);
    sentry_json_set_text(&event, "server_name", identity->server_name);
    sentry_json_set(&event, "sdk", name_and_version("bitflow", BITFLOW_VERSION));
    sentry_json_set(&event, "contexts", describe_system());
    return event;
}

static const char *crumb_level(uint32_t level)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    return level < sizeof names / sizeof *names ? names[level] : "info";
}

static json_t *json_of_crumb(const struct sentry_crumb *crumb)
{
    const struct sentry_line *line = &crumb->line;
    struct sentry_json data = sentry_json_object();
    sentry_json_set_text(&data, "proxy", sentry_line_proxy(line, crumb->text));
    if (line->connection != 0)
        sentry_json_set(&data, "conn", json_integer((json_int_t)line->connection));
    const char *at = sentry_line_fields(line, crumb->text);
    struct log_field field;
    while (sentry_line_next_field(line, crumb->text, &at, &field))
        sentry_json_set(&data, field.key, sentry_json_text(field.value));
    struct sentry_json json = sentry_json_object();
    sentry_json_set(&json, "timestamp", sentry_json_time(line->wall));
    sentry_json_set_text(&json, "type", "default");
    sentry_json_set_text(&json, "level", crumb_level(line->level));
    sentry_json_set_text(&json, "category", line->connection != 0 ? "connection" : "process");
    sentry_json_set(&json, "message", sentry_json_text(sentry_line_message(line, crumb->text)));
    sentry_json_set(&json, "data", sentry_json_finish(&data));
    return sentry_json_finish(&json);
}

void sentry_json_set_crumbs(struct sentry_json *event, const struct sentry_crumb *crumbs, size_t count)
{
    struct sentry_json values = sentry_json_array();
    for (size_t i = 0; i < count; i++)
        sentry_json_append(&values, json_of_crumb(&crumbs[i]));
    struct sentry_json json = sentry_json_object();
    sentry_json_set(&json, "values", sentry_json_finish(&values));
    sentry_json_set(event, "breadcrumbs", sentry_json_finish(&json));
}

// ---- the envelope

static json_t *envelope_header(const char *id)
{
    struct sentry_json header = sentry_json_object();
    sentry_json_set_text(&header, "event_id", id);
    sentry_json_set(&header, "sent_at", sentry_json_time(clock_wall()));
    sentry_json_set(&header, "sdk", name_and_version("bitflow", BITFLOW_VERSION));
    return sentry_json_finish(&header);
}

static json_t *item_header(const char *type, size_t length)
{
    struct sentry_json header = sentry_json_object();
    sentry_json_set_text(&header, "type", type);
    sentry_json_set(&header, "length", json_integer((json_int_t)length));
    return sentry_json_finish(&header);
}

// https://develop.sentry.dev/sdk/telemetry/client-reports/
static json_t *client_report(const uint64_t *losses)
{
    static const char *const reasons[SENTRY_LOSSES] = {"queue_overflow", "network_error", "send_error",
                                                       "internal_sdk_error"};
    struct sentry_json discarded = sentry_json_array();
    for (size_t i = 0; i < SENTRY_LOSSES; i++) {
        if (losses[i] == 0)
            continue;
        struct sentry_json loss = sentry_json_object();
        sentry_json_set_text(&loss, "reason", reasons[i]);
        sentry_json_set_text(&loss, "category", "error");
        sentry_json_set(&loss, "quantity", json_integer((json_int_t)losses[i]));
        sentry_json_append(&discarded, sentry_json_finish(&loss));
    }
    struct sentry_json report = sentry_json_object();
    sentry_json_set(&report, "timestamp", sentry_json_time(clock_wall()));
    sentry_json_set(&report, "discarded_events", sentry_json_finish(&discarded));
    return sentry_json_finish(&report);
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
    append_text(lines, dump(item_header(type, text == NULL ? 0 : strlen(text))));
    append_text(lines, text);
}

char *sentry_json_envelope(json_t *event, const char *id, const uint64_t *losses, size_t *length)
{
    struct lines lines = {.is_complete = true};
    uint64_t lost = 0;
    for (size_t i = 0; losses != NULL && i < SENTRY_LOSSES; i++)
        lost += losses[i];
    append_text(&lines, dump(envelope_header(id)));
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
