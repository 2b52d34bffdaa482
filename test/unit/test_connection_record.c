// What a record of the connection log looks like, whatever is in it.

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "proxy/client/proxy_protocol_in.h"
#include "proxy/connection/connection_internal.h"

#define START (INT64_C(1767225600) * NS_PER_S + 1999 * NS_PER_US) // 2026-01-01, 1.999 ms

static struct tls_session client_tls = {.info = {.version = TLS_1_3,
                                                 .cipher = "TLS_AES_128_GCM_SHA256",
                                                 .server_name = "a.example",
                                                 .protocol = "h2",
                                                 .handshake_time = 2500 * NS_PER_US,
                                                 .peer_subject = "CN=c",
                                                 .peer_names = "DNS:c.example",
                                                 .peer_fingerprint = "00ff",
                                                 .peer_identity = "dns:c.example"}};
static struct tls_session target_tls = {.info.handshake_time = 1};
static struct proxy_protocol_in declared = {.version = 2,
                                            .header.authority = {.bytes = (const uint8_t *)"b.example", .length = 9}};

static const struct connection_sockets full_sockets = {.client = "[2001:db8::1]:50000",
                                                       .local = "[2001:db8::2]:443",
                                                       .has_tcp = {true, true},
                                                       .tcp = {{.rtt = 20500 * NS_PER_US,
                                                                .rttvar = 250 * NS_PER_US,
                                                                .min_rtt = 19 * NS_PER_MS,
                                                                .retransmits = 3,
                                                                .lost = 1,
                                                                .unacked = 2,
                                                                .unsent = 1448,
                                                                .bytes_acked = INT64_C(5000000000000),
                                                                .bytes_received = 517,
                                                                .delivery_rate = 1000000},
                                                               {.rtt = 0,
                                                                .rttvar = -1,
                                                                .min_rtt = -1,
                                                                .retransmits = 0,
                                                                .lost = -1,
                                                                .unacked = -1,
                                                                .unsent = -1,
                                                                .bytes_acked = -1,
                                                                .bytes_received = -1,
                                                                .delivery_rate = -1}}};

static struct endpoint endpoint(const char *text)
{
    struct address address;
    struct endpoint endpoint;
    assert_true(address_parse(text, ADDRESS_TO_CONNECT, &address, NULL));
    assert_true(endpoint_of_address(&address, &endpoint));
    return endpoint;
}

static struct target_config target_settings = {.name = "blue", .socks_proxy = "10.0.0.6:1080"};
static struct target target = {.settings = &target_settings};
static struct proxy proxy = {.name = "web"};
static struct generation generation = {.proxy = &proxy};

// With everything that a connection can have.
static void fill(struct connection *connection)
{
    assert_true(address_parse("tcp://10.0.0.5:8080", ADDRESS_TO_CONNECT, &target_settings.address, NULL));
    proxy.name = "web";
    *connection = (struct connection){
        .id = 42,
        .generation = &generation,
        .start_wall = START,
        .client = {.peer = endpoint("10.0.0.9:4711"),
                   .declared = &declared,
                   .tls = &client_tls,
                   .server_name = "a.example"},
        .upstream = {.target = &target, .attempts = 3, .dialled.remote = endpoint("10.0.0.6:1080"), .tls = &target_tls},
        .relay = {.sockets = {{.bytes = 517}, {.bytes = UINT64_C(5000000000000)}}, .first_byte = 1 + 30050 * NS_PER_US},
        .relay_result.ended_by = ENDED_BY_CLIENT,
        .phases = {.current = PHASE_CLOSING,
                   .reached = PHASE_RELAYING,
                   .step = PHASE_TARGET_HANDSHAKE,
                   .started = 1,
                   .since = 1,
                   .ended = 1 + INT64_C(61500) * NS_PER_MS + 999,
                   .spent = {[PHASE_ACCEPTING] = 50 * NS_PER_US,
                             [PHASE_ADMITTING] = 3 * NS_PER_MS,
                             [PHASE_CLIENT_HEADER] = 1,
                             [PHASE_CLIENT_HELLO] = 999,
                             [PHASE_CLIENT_HANDSHAKE] = 2500 * NS_PER_US,
                             [PHASE_DIALLING] = 1100 * NS_PER_MS,
                             [PHASE_RESOLVE] = 1234567,
                             [PHASE_CONNECT] = 20 * NS_PER_MS,
                             [PHASE_SOCKS] = 7 * NS_PER_MS,
                             [PHASE_TARGET_HANDSHAKE] = 1,
                             [PHASE_RELAYING] = 60 * NS_PER_S}},
    };
    connection->failure.reason = CLOSE_COMPLETED;
}

static void render(const struct connection *connection, enum connection_event event,
                   const struct connection_sockets *sockets, struct json_line *line)
{
    int64_t lasted = event == CONNECTION_REJECTED ? 0 : INT64_C(61500) * NS_PER_MS;
    connection_record_render(connection, event, sockets, 1 + lasted, START + lasted, line);
}

static void assert_line(const struct connection *connection, enum connection_event event,
                        const struct connection_sockets *sockets, const char *expected)
{
    struct json_line line;
    render(connection, event, sockets, &line);
    assert_non_null(line.text);
    assert_true(line.length > 2 && line.text[0] == '\n' && line.text[line.length - 1] == '\n');
    line.text[line.length - 1] = '\0';
    assert_string_equal(line.text + 1, expected);
    json_line_release(&line);
    assert_null(line.text);
}

static void test_the_record_of_an_end_has_every_field(void **state)
{
    (void)state;
    struct connection full;
    fill(&full);
    assert_line(&full, CONNECTION_ENDED, &full_sockets,
                "{\"event\":\"connection\",\"id\":42,\"proxy\":\"web\",\"time\":\"2026-01-01T00:01:01.501Z\","
                "\"start\":\"2026-01-01T00:00:00.001Z\",\"end\":\"2026-01-01T00:01:01.501Z\","
                "\"client\":\"[2001:db8::1]:50000\",\"local\":\"[2001:db8::2]:443\","
                "\"proxy_header\":{\"version\":2,\"local\":false,\"peer\":\"10.0.0.9:4711\","
                "\"authority\":\"b.example\",\"unique_id\":null},\"sni\":\"a.example\","
                "\"client_tls\":{\"version\":\"TLSv1.3\",\"cipher\":\"TLS_AES_128_GCM_SHA256\","
                "\"server_name\":\"a.example\",\"protocol\":\"h2\",\"handshake_ms\":2.5,\"truncated\":false,"
                "\"peer_subject\":\"CN=c\",\"peer_names\":\"DNS:c.example\",\"peer_fingerprint\":\"00ff\"},"
                "\"client_identity\":\"dns:c.example\","
                "\"target\":{\"name\":\"blue\",\"address\":\"10.0.0.5:8080\",\"via\":\"10.0.0.6:1080\"},"
                "\"target_tls\":{\"version\":null,\"cipher\":null,\"server_name\":null,\"protocol\":null,"
                "\"handshake_ms\":0.0,\"truncated\":false,"
                "\"peer_subject\":null,\"peer_names\":null,\"peer_fingerprint\":null},"
                "\"target_identity\":null,\"attempts\":3,\"resolve_ms\":1.234,\"connect_ms\":20.0,\"total_ms\":61500.0,"
                "\"timings\":{\"wait_ms\":0.05,\"admit_ms\":3.0,\"client_header_ms\":0.0,"
                "\"client_hello_ms\":0.0,\"client_handshake_ms\":2.5,\"dial_ms\":1100.0,"
                "\"resolve_ms\":1.234,\"connect_ms\":20.0,\"socks_ms\":7.0,\"target_handshake_ms\":0.0,"
                "\"relay_ms\":60000.0,\"first_byte_ms\":30.05},"
                "\"bytes_from_client\":517,\"bytes_from_target\":5000000000000,"
                "\"client_tcp\":{\"rtt_ms\":20.5,\"rttvar_ms\":0.25,\"min_rtt_ms\":19.0,\"retransmits\":3,"
                "\"lost\":1,\"unacked\":2,\"unsent_bytes\":1448,\"bytes_acked\":5000000000000,"
                "\"bytes_received\":517,\"delivery_rate\":1000000},"
                "\"target_tcp\":{\"rtt_ms\":0.0,\"rttvar_ms\":null,\"min_rtt_ms\":null,\"retransmits\":0,"
                "\"lost\":null,\"unacked\":null,\"unsent_bytes\":null,\"bytes_acked\":null,"
                "\"bytes_received\":null,\"delivery_rate\":null},"
                "\"phase\":\"relaying\",\"step\":null,\"reason\":\"completed\",\"ended_by\":\"client\","
                "\"error\":null}");
}

#define NO_TIMINGS                                                                                             \
    "\"timings\":{\"wait_ms\":null,\"admit_ms\":null,\"client_header_ms\":null,\"client_hello_ms\":null,"      \
    "\"client_handshake_ms\":null,\"dial_ms\":null,\"resolve_ms\":null,\"connect_ms\":null,\"socks_ms\":null," \
    "\"target_handshake_ms\":null,\"relay_ms\":null,\"first_byte_ms\":null}"

static void test_a_rejection_has_the_same_keys_without_values(void **state)
{
    (void)state;
    struct connection rejected = {.id = INT64_MAX, .generation = &generation, .start_wall = START};
    rejected.client.credentials = (struct unix_credentials){.is_known = true, .user = 1000, .group = 33};
    const struct connection_sockets sockets = {.client = "192.0.2.1:1", .local = "192.0.2.2:80"};
    rejected.failure.reason = CLOSE_CONNECTION_LIMIT;
    error_set(&rejected.failure.error, ERROR_INVALID, "why");
    assert_line(
        &rejected, CONNECTION_REJECTED, &sockets,
        "{\"event\":\"rejected\",\"id\":9223372036854775807,\"proxy\":\"web\","
        "\"time\":\"2026-01-01T00:00:00.001Z\",\"start\":\"2026-01-01T00:00:00.001Z\","
        "\"end\":\"2026-01-01T00:00:00.001Z\",\"client\":\"192.0.2.1:1\",\"local\":\"192.0.2.2:80\","
        "\"proxy_header\":null,\"sni\":null,\"client_tls\":null,\"client_identity\":\"uid:1000\",\"target\":null,"
        "\"target_tls\":null,\"target_identity\":null,\"attempts\":0,\"resolve_ms\":0.0,\"connect_ms\":0.0,\"total_"
        "ms\":0.0," NO_TIMINGS
        ",\"bytes_from_client\":0,\"bytes_from_target\":0,\"client_tcp\":null,\"target_tcp\":null,"
        "\"phase\":\"accepting\",\"step\":null,\"reason\":\"connection_limit\",\"ended_by\":\"proxy\","
        "\"error\":\"why\"}");
}

static json_t *parse(const struct connection *connection, enum connection_event event)
{
    struct json_line line;
    json_error_t error;
    render(connection, event, &full_sockets, &line);
    assert_non_null(line.text);
    assert_null(memchr(line.text + 1, '\n', line.length - 2)); // it is one line
    json_t *object = json_loadb(line.text, line.length, JSON_REJECT_DUPLICATES, &error);
    if (object == NULL)
        fail_msg("%s: %.*s", error.text, (int)line.length, line.text);
    json_line_release(&line);
    return object;
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

// What lives has no end, no reason and nobody who ended it, but the same keys.
static void test_the_record_of_a_living_connection_has_no_end(void **state)
{
    (void)state;
    static const enum connection_event events[] = {CONNECTION_CONNECTED, CONNECTION_ACTIVE};
    static const char *const names[] = {"connected", "active"};
    struct connection full;
    fill(&full);
    json_t *end = parse(&full, CONNECTION_ENDED);
    for (size_t i = 0; i < ARRAY_LENGTH(events); i++) {
        json_t *object = parse(&full, events[i]);
        assert_int_equal(json_object_size(object), json_object_size(end));
        assert_string_equal(text_of(object, "event"), names[i]);
        assert_string_equal(text_of(object, "time"), "2026-01-01T00:01:01.501Z");
        assert_true(json_is_null(json_object_get(object, "end")));
        assert_true(json_is_null(json_object_get(object, "reason")));
        assert_true(json_is_null(json_object_get(object, "ended_by")));
        json_decref(object);
    }
    json_decref(end);
}

// Names of a certificate, every character of which takes six in JSON.
static void test_a_record_beyond_the_buffer_is_whole(void **state)
{
    (void)state;
    char names[512] = "";
    for (size_t i = 0; i + 2 < sizeof names; i += 2)
        memcpy(names + i, "\xc3\xa9", 3);
    struct tls_session tls = {.info.handshake_time = 1};
    memcpy(tls.info.peer_subject, names, sizeof tls.info.peer_subject - 2);
    memcpy(tls.info.peer_names, names, sizeof tls.info.peer_names);
    memcpy(tls.info.protocol, names, sizeof tls.info.protocol - 2);
    memcpy(tls.info.server_name, names, sizeof tls.info.server_name - 2);
    struct connection connection;
    fill(&connection);
    connection.client.tls = connection.upstream.tls = &tls;
    struct json_line line;
    render(&connection, CONNECTION_ENDED, &full_sockets, &line);
    assert_true(line.length > 2 * JSON_LINE_SIZE);
    json_line_release(&line);
    json_t *object = parse(&connection, CONNECTION_ENDED);
    assert_string_equal(text_of(json_object_get(object, "target_tls"), "peer_names"), names);
    json_decref(object);
}

// Around the length at which a line goes to the heap, no byte is lost or doubled.
static void test_a_record_around_the_buffers_size_is_whole(void **state)
{
    (void)state;
    static char text[JSON_LINE_SIZE];
    struct connection connection;
    struct json_line line;
    fill(&connection);
    proxy.name = text;
    render(&connection, CONNECTION_ENDED, &full_sockets, &line);
    size_t others = line.length - strlen("null"); // what an empty name is
    json_line_release(&line);
    for (size_t length = JSON_LINE_SIZE - others - 5; length <= JSON_LINE_SIZE - others + 1; length++) {
        memset(text, 'x', length);
        text[length] = '\0';
        render(&connection, CONNECTION_ENDED, &full_sockets, &line);
        assert_int_equal(line.length, others + length + strlen("\"\""));
        assert_int_equal(line.text == line.buffer, line.length <= JSON_LINE_SIZE);
        assert_memory_equal(line.text + line.length - 7, ":null}\n", 7);
        json_line_release(&line);
        json_t *object = parse(&connection, CONNECTION_ENDED);
        assert_string_equal(text_of(object, "proxy"), text);
        json_decref(object);
    }
}

// Whatever text gets there, a record stays one line of JSON with all of its keys.
static void test_hostile_text_leaves_one_line_of_json(void **state)
{
    (void)state;
    static const char *const texts[] = {"a\"b\\c\nd\te\x7f", "caf\xc3\xa9 \xf0\x9f\x90\xa7", "cut \xc3", "\xff\xfe"};
    struct connection connection;
    fill(&connection);
    json_t *like = parse(&connection, CONNECTION_ENDED);
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++) {
        fill(&connection);
        proxy.name = texts[i];
        error_set(&connection.failure.error, ERROR_INVALID, "%s", texts[i]);
        json_t *object = parse(&connection, CONNECTION_ENDED);
        assert_int_equal(json_object_size(object), json_object_size(like));
        const char *expected = i == 2 ? "cut ?" : i == 3 ? "??" : texts[i]; // JSON holds UTF-8 only
        assert_string_equal(text_of(object, "error"), expected);
        assert_string_equal(text_of(object, "proxy"), expected);
        json_decref(object);
    }
    json_decref(like);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_record_of_an_end_has_every_field),
        cmocka_unit_test(test_a_rejection_has_the_same_keys_without_values),
        cmocka_unit_test(test_the_record_of_a_living_connection_has_no_end),
        cmocka_unit_test(test_a_record_beyond_the_buffer_is_whole),
        cmocka_unit_test(test_a_record_around_the_buffers_size_is_whole),
        cmocka_unit_test(test_hostile_text_leaves_one_line_of_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
