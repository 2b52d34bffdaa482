// Envelopes as a server reads them: of errors and of crashes.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>

#include "bitflow/base/compiler.h"
#include "bitflow/version.h"
#include "sentry/crash_report.h"
#include "sentry/event.h"
#include "sentry/symbols.h"

static const struct sentry_identity identity = {
    .dsn = "https://cret@sentry.example/1", .environment = "staging", .server_name = "host1"};

static struct sentry_error make_error(const struct log_event *event)
{
    struct sentry_error error = {.repeated = 0};
    assert_true(sentry_make_id(error.id));
    sentry_line_pack(event, &error.line, error.text, sizeof error.text);
    return error;
}

// The next line as JSON; `at` moves on.
static json_t *read_line(const char **at)
{
    const char *end = strchr(*at, '\n');
    assert_non_null(end);
    json_t *json = json_loadb(*at, (size_t)(end - *at), JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(json);
    *at = end + 1;
    return json;
}

static json_t *read_item(const char **at, const char *type)
{
    json_t *header = read_line(at);
    assert_string_equal(json_string_value(json_object_get(header, "type")), type);
    json_int_t length = json_integer_value(json_object_get(header, "length"));
    json_decref(header);
    const char *from = *at;
    json_t *payload = read_line(at);
    assert_int_equal(*at - from - 1, length);
    return payload;
}

// The event; the envelope is freed. What comes behind it is the report of the losses, or nothing.
static json_t *read_envelope(char *envelope, const size_t *length, const char *id, json_t **losses)
{
    assert_non_null(envelope);
    assert_int_equal(strlen(envelope), *length);
    assert_null(strstr(envelope, "cret"));
    const char *at = envelope;
    json_t *header = read_line(&at);
    assert_string_equal(json_string_value(json_object_get(header, "event_id")), id);
    assert_null(json_object_get(header, "dsn"));
    json_decref(header);
    json_t *event = read_item(&at, "event");
    *losses = *at == '\0' ? NULL : read_item(&at, "client_report");
    assert_int_equal(*at, '\0');
    free(envelope);
    return event;
}

// The value at "a.b.0.c".
static const json_t *find(const json_t *json, const char *path)
{
    char key[64];
    for (const char *at = path; *at != '\0';) {
        size_t length = strcspn(at, ".");
        (void)snprintf(key, sizeof key, "%.*s", (int)length, at);
        json = json_is_array(json) ? json_array_get(json, (size_t)strtoul(key, NULL, 10)) : json_object_get(json, key);
        if (json == NULL)
            fail_msg("there is no %s", path);
        at += length + (at[length] == '.');
    }
    return json;
}

static void assert_text(const json_t *json, const char *path, const char *wanted)
{
    const char *text = json_string_value(find(json, path));
    if (text == NULL || strcmp(text, wanted) != 0)
        fail_msg("%s is %s and not %s", path, text == NULL ? "no string" : text, wanted);
}

struct expected {
    const char *path;
    const char *text;
};

static void assert_texts(const json_t *json, const struct expected *expected, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_text(json, expected[i].path, expected[i].text);
}

static void assert_is_ours(const json_t *event, const char *id, const char *level)
{
    static const struct expected expected[] = {
        {"platform", "native"},           {"logger", "bitflow"},    {"release", "bitflow@" BITFLOW_VERSION},
        {"environment", "staging"},       {"server_name", "host1"}, {"sdk.name", "bitflow"},
        {"sdk.version", BITFLOW_VERSION},
    };
    assert_text(event, "event_id", id);
    assert_texts(event, expected, ARRAY_LENGTH(expected));
    assert_text(event, "level", level);
}

static void test_each_id_is_another(void **state)
{
    (void)state;
    char first[SENTRY_ID_SIZE], second[SENTRY_ID_SIZE];
    assert_true(sentry_make_id(first) && sentry_make_id(second));
    assert_int_equal(strspn(first, "0123456789abcdef"), 32);
    assert_int_equal(strlen(first), 32);
    assert_string_not_equal(first, second);
    assert_int_equal(first[12], '4');
}

static void test_an_error_of_a_connection_tells_all_of_it(void **state)
{
    (void)state;
    static const struct expected expected[] = {
        {"timestamp", "2026-07-14T13:20:00.123Z"},
        {"logentry.message", "the target refused the connection"},
        {"logentry.formatted", "the target refused the connection: cannot connect"},
        {"tags.proxy", "web"},
        {"tags.target", "blue"},
        {"tags.reason", "connect_refused"},
        {"tags.connection", "42"},
        {"fingerprint.0", "the target refused the connection"},
        {"fingerprint.1", "web"},
        {"fingerprint.2", "blue"},
        {"fingerprint.3", "connect_refused"},
        {"contexts.connection.proxy", "web"},
        {"contexts.os.name", "Linux"},
        {"breadcrumbs.values.0.message", "reloaded"},
        {"breadcrumbs.values.0.category", "process"},
        {"breadcrumbs.values.0.level", "info"},
        {"breadcrumbs.values.1.level", "warning"},
        {"breadcrumbs.values.1.category", "connection"},
        {"breadcrumbs.values.1.data.target", "blue"},
    };
    const struct log_field fields[] = {{"reason", "connect_refused"},
                                       {"ended_by", "target"},
                                       {"client", "192.0.2.1:5"},
                                       {"target", "blue"},
                                       {"error", "cannot connect"}};
    const struct log_event event = {.level = LOG_ERROR,
                                    .wall = INT64_C(1784035200123) * NS_PER_MS,
                                    .proxy = "web",
                                    .connection = 42,
                                    .message = "the target refused the connection",
                                    .fields = fields,
                                    .field_count = ARRAY_LENGTH(fields)};
    struct sentry_error error = make_error(&event);
    const struct log_event warning = {.level = LOG_WARN,
                                      .wall = event.wall - 1,
                                      .proxy = "web",
                                      .connection = 42,
                                      .message = "cannot connect to the target",
                                      .fields = fields + 3,
                                      .field_count = 2};
    const struct log_event info = {.level = LOG_INFO, .wall = event.wall - 2, .message = "reloaded"};
    sentry_line_pack(&info, &error.breadcrumbs[0].line, error.breadcrumbs[0].text, SENTRY_BREADCRUMB_TEXT);
    sentry_line_pack(&warning, &error.breadcrumbs[1].line, error.breadcrumbs[1].text, SENTRY_BREADCRUMB_TEXT);
    error.breadcrumb_count = 2;
    error.repeated = 17;
    size_t length;
    json_t *losses;
    char *envelope = sentry_error_envelope(&identity, &error, NULL, &length);
    json_t *json = read_envelope(envelope, &length, error.id, &losses);
    assert_null(losses);
    assert_is_ours(json, error.id, "error");
    assert_texts(json, expected, ARRAY_LENGTH(expected));
    assert_int_equal(json_array_size(json_object_get(json, "fingerprint")), 4);
    assert_int_equal(json_integer_value(find(json, "contexts.connection.id")), 42);
    for (size_t i = 0; i < ARRAY_LENGTH(fields); i++) {
        char path[64];
        (void)snprintf(path, sizeof path, "contexts.connection.%s", fields[i].key);
        assert_text(json, path, fields[i].value);
    }
    assert_int_equal(json_integer_value(find(json, "extra.repeated")), 17);
    assert_int_equal(json_array_size(find(json, "breadcrumbs.values")), 2);
    assert_int_equal(json_integer_value(find(json, "breadcrumbs.values.1.data.conn")), 42);
    json_decref(json);
}

static void test_an_error_of_the_process_has_no_tags_and_tells_losses(void **state)
{
    (void)state;
    const struct log_field fields[] = {{"file", "/a.yaml"}};
    const struct log_event event = {.level = LOG_ERROR, .message = "reload failed", .fields = fields, .field_count = 1};
    struct sentry_error error = make_error(&event);
    const uint64_t lost[SENTRY_LOSSES] = {[SENTRY_LOST_QUEUE] = 3, [SENTRY_LOST_REFUSED] = 1};
    size_t length;
    json_t *losses;
    json_t *json = read_envelope(sentry_error_envelope(&identity, &error, lost, &length), &length, error.id, &losses);
    assert_text(json, "logentry.formatted", "reload failed");
    assert_text(json, "contexts.details.file", "/a.yaml");
    assert_text(json, "fingerprint.1", "");
    assert_int_equal(json_object_size(json_object_get(json, "tags")), 0);
    assert_null(json_object_get(json, "extra"));
    assert_non_null(losses);
    assert_int_equal(json_array_size(find(losses, "discarded_events")), 2);
    assert_text(losses, "discarded_events.0.reason", "queue_overflow");
    assert_text(losses, "discarded_events.0.category", "error");
    assert_int_equal(json_integer_value(find(losses, "discarded_events.0.quantity")), 3);
    assert_text(losses, "discarded_events.1.reason", "send_error");
    json_decref(losses);
    json_decref(json);
}

// What a peer chose may be anything.
static void test_hostile_text_leaves_valid_json(void **state)
{
    (void)state;
    const struct log_field fields[] = {{"sni", "a\xff\xc3(\n\"\\\x01"}, {"target", "\u00e4\"\n"}};
    const struct log_event event = {.level = LOG_ERROR,
                                    .proxy = "\xfe",
                                    .connection = UINT64_MAX,
                                    .message = "m",
                                    .fields = fields,
                                    .field_count = 2};
    struct sentry_error error = make_error(&event);
    size_t length;
    json_t *losses;
    json_t *json = read_envelope(sentry_error_envelope(&identity, &error, NULL, &length), &length, error.id, &losses);
    assert_text(json, "contexts.connection.sni", "a?\?(\n\"\\\x01");
    assert_text(json, "tags.target", "\u00e4\"\n");
    assert_text(json, "tags.proxy", "?");
    json_decref(json);
}

static void test_a_crash_has_its_signal_thread_and_frames(void **state)
{
    (void)state;
    static const struct expected expected[] = {
        {"tags.signal", "SIGSEGV"},
        {"tags.thread", "web#42>"},
        {"tags.connection", "42"},
        {"exception.values.0.type", "SIGSEGV"},
        {"exception.values.0.value", "SEGV_MAPERR at address 0x10"},
        {"exception.values.0.mechanism.type", "signalhandler"},
        {"exception.values.0.stacktrace.frames.0.package", "/lib/libc.so.6"},
        {"exception.values.0.stacktrace.frames.0.instruction_addr", "0x7f0000001000"},
        {"exception.values.0.stacktrace.frames.1.function", "test_a_crash_has_its_signal_thread_and_frames"},
        {"exception.values.0.stacktrace.frames.2.function", "test_hostile_text_leaves_valid_json"},
        {"threads.values.0.name", "web#42>"},
    };
    extern char __executable_start; // the linker's: where the program begins in memory
    uint64_t base = (uint64_t)(uintptr_t)&__executable_start;
    struct crash crash = {.signal = 11,
                          .code = 1,
                          .address = 16,
                          .has_address = true,
                          .process = 10,
                          .thread = 12,
                          .thread_name = "web#42>",
                          .frame_count = 3};
    crash.frames[0] =
        (struct crash_frame){.address = (uint64_t)(uintptr_t)test_hostile_text_leaves_valid_json, .base = base};
    // What a function returns to is not the function's any more where the call is the last thing in it.
    crash.frames[1] = (struct crash_frame){
        .address = (uint64_t)(uintptr_t)test_a_crash_has_its_signal_thread_and_frames + 1, .base = base};
    crash.frames[2] =
        (struct crash_frame){.address = 0x7f0000001000, .base = 0x7f0000000000, .module = "/lib/libc.so.6"};
    char id[SENTRY_ID_SIZE];
    assert_true(sentry_make_id(id));
    assert_int_equal(sentry_crashed_connection(&crash), 42);
    size_t length;
    json_t *losses;
    json_t *json = read_envelope(sentry_crash_envelope(&identity, id, &crash, NULL, 0, &length), &length, id, &losses);
    assert_is_ours(json, id, "fatal");
    assert_texts(json, expected, ARRAY_LENGTH(expected));
    assert_true(json_is_false(find(json, "exception.values.0.mechanism.handled")));
    assert_int_equal(json_integer_value(find(json, "exception.values.0.mechanism.meta.signal.number")), 11);
    assert_int_equal(json_array_size(find(json, "exception.values.0.stacktrace.frames")), 3);
    assert_true(json_is_false(find(json, "exception.values.0.stacktrace.frames.0.in_app")));
    assert_true(json_is_true(find(json, "exception.values.0.stacktrace.frames.2.in_app")));
    assert_null(json_object_get(json, "fingerprint"));
    json_decref(json);
    crash.frame_count = 0;
    (void)snprintf(crash.thread_name, sizeof crash.thread_name, "bitflow");
    assert_int_equal(sentry_crashed_connection(&crash), 0);
    json = read_envelope(sentry_crash_envelope(&identity, id, &crash, NULL, 0, &length), &length, id, &losses);
    assert_null(json_object_get(json_object_get(json, "tags"), "connection"));
    json_decref(json);
}

// ---- each allocation of JSON fails in turn

static unsigned allocations_left;

static void *allocate(size_t size)
{
    return allocations_left == 0 || --allocations_left == 0 ? NULL : malloc(size);
}

static void test_any_failing_allocation_leaves_no_envelope_or_a_whole_one(void **state)
{
    (void)state;
    const struct log_field fields[] = {{"reason", "connect_refused"}, {"target", "bl\xffue"}};
    const struct log_event event = {.level = LOG_ERROR,
                                    .proxy = "web",
                                    .connection = 42,
                                    .message = "m",
                                    .fields = fields,
                                    .field_count = ARRAY_LENGTH(fields)};
    struct sentry_error error = make_error(&event);
    sentry_line_pack(&event, &error.breadcrumbs[0].line, error.breadcrumbs[0].text, SENTRY_BREADCRUMB_TEXT);
    error.breadcrumb_count = 1;
    error.repeated = 3;
    const uint64_t lost[SENTRY_LOSSES] = {3};
    struct crash crash = {.signal = 6, .frame_count = 1};
    json_set_alloc_funcs(allocate, free);
    for (unsigned kind = 0; kind < 2; kind++) {
        char *envelope = NULL;
        unsigned limit = 1;
        for (; envelope == NULL; limit++) {
            size_t length;
            allocations_left = limit;
            envelope = kind == 0 ? sentry_error_envelope(&identity, &error, lost, &length)
                                 : sentry_crash_envelope(&identity, error.id, &crash, error.breadcrumbs, 1, &length);
            if (envelope != NULL)
                assert_int_equal(strlen(envelope), length);
        }
        assert_true(limit > 50);
        free(envelope);
    }
    json_set_alloc_funcs(malloc, free);
}

static void test_an_address_that_is_none_of_ours_has_no_symbol(void **state)
{
    (void)state;
    struct symbols symbols;
    symbols_init(&symbols);
    assert_non_null(symbols.table);
    assert_null(symbols_find(&symbols, 0));
    assert_null(symbols_find(&symbols, UINT64_MAX));
    assert_true(symbols.memory_size > 0);
    symbols_release(&symbols);
    assert_null(symbols_find(&symbols, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_id_is_another),
        cmocka_unit_test(test_an_error_of_a_connection_tells_all_of_it),
        cmocka_unit_test(test_an_error_of_the_process_has_no_tags_and_tells_losses),
        cmocka_unit_test(test_hostile_text_leaves_valid_json),
        cmocka_unit_test(test_a_crash_has_its_signal_thread_and_frames),
        cmocka_unit_test(test_any_failing_allocation_leaves_no_envelope_or_a_whole_one),
        cmocka_unit_test(test_an_address_that_is_none_of_ours_has_no_symbol),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
