// A record of the connection log as JSON.

#include <stdlib.h>

#include "bitflow/base/clock.h"
#include "bitflow/telemetry/connection_log.h"
#include "bitflow/telemetry/json_builder.h"

static const char *name_of_event(enum connection_event event)
{
    static const char *const names[] = {[CONNECTION_ENDED] = "connection",
                                        [CONNECTION_REJECTED] = "rejected",
                                        [CONNECTION_CONNECTED] = "connected",
                                        [CONNECTION_ACTIVE] = "active"};
    return names[event];
}

static void set_text(struct json_builder *builder, const char *key, const char *value)
{
    json_builder_set(builder, key, json_builder_text(value));
}

static void set_count(struct json_builder *builder, const char *key, uint64_t value)
{
    json_builder_set(builder, key, json_integer((json_int_t)value));
}

static void set_milliseconds(struct json_builder *builder, const char *key, int64_t ns)
{
    json_builder_set(builder, key, json_builder_milliseconds(ns));
}

// A negative one is not known.
static void set_known(struct json_builder *builder, const char *key, int64_t value)
{
    json_builder_set(builder, key, value < 0 ? json_null() : json_integer(value));
}

static void set_known_time(struct json_builder *builder, const char *key, int64_t ns)
{
    json_builder_set(builder, key, ns < 0 ? json_null() : json_builder_milliseconds(ns));
}

// None is as long as 0: the phase did not happen.
static void set_phase(struct json_builder *builder, const char *key, int64_t ns)
{
    set_known_time(builder, key, ns == 0 ? -1 : ns);
}

static json_t *json_of_header(const struct connection_header *header)
{
    if (header == NULL)
        return json_null();
    struct json_builder builder = json_builder_object();
    set_count(&builder, "version", header->version);
    json_builder_set(&builder, "local", json_boolean(header->is_local));
    set_text(&builder, "peer", header->peer);
    set_text(&builder, "authority", header->authority);
    set_text(&builder, "unique_id", header->unique_id);
    return json_builder_finish(&builder);
}

static json_t *json_of_target(const struct connection_record *record)
{
    if (record->target_name == NULL)
        return json_null();
    struct json_builder builder = json_builder_object();
    set_text(&builder, "name", record->target_name);
    set_text(&builder, "address", record->target_address);
    set_text(&builder, "via", record->via);
    return json_builder_finish(&builder);
}

static json_t *json_of_tls(const struct connection_tls *tls)
{
    if (tls == NULL)
        return json_null();
    struct json_builder builder = json_builder_object();
    set_text(&builder, "version", tls->version);
    set_text(&builder, "cipher", tls->cipher);
    set_text(&builder, "server_name", tls->server_name);
    set_text(&builder, "protocol", tls->protocol);
    set_milliseconds(&builder, "handshake_ms", tls->handshake_time);
    set_text(&builder, "peer_subject", tls->peer_subject);
    set_text(&builder, "peer_names", tls->peer_names);
    set_text(&builder, "peer_fingerprint", tls->peer_fingerprint);
    return json_builder_finish(&builder);
}

static json_t *json_of_tcp(const struct tcp_facts *tcp)
{
    if (tcp == NULL)
        return json_null();
    struct json_builder builder = json_builder_object();
    set_known_time(&builder, "rtt_ms", tcp->rtt);
    set_known_time(&builder, "rttvar_ms", tcp->rttvar);
    set_known_time(&builder, "min_rtt_ms", tcp->min_rtt);
    set_known(&builder, "retransmits", tcp->retransmits);
    set_known(&builder, "lost", tcp->lost);
    set_known(&builder, "unacked", tcp->unacked);
    set_known(&builder, "unsent_bytes", tcp->unsent);
    set_known(&builder, "bytes_acked", tcp->bytes_acked);
    set_known(&builder, "bytes_received", tcp->bytes_received);
    set_known(&builder, "delivery_rate", tcp->delivery_rate);
    return json_builder_finish(&builder);
}

static json_t *json_of_timings(const struct connection_timings *timings)
{
    struct json_builder builder = json_builder_object();
    set_phase(&builder, "wait_ms", timings->wait);
    set_phase(&builder, "admit_ms", timings->admit);
    set_phase(&builder, "client_header_ms", timings->client_header);
    set_phase(&builder, "client_hello_ms", timings->client_hello);
    set_phase(&builder, "client_handshake_ms", timings->client_handshake);
    set_phase(&builder, "dial_ms", timings->dial);
    set_phase(&builder, "resolve_ms", timings->resolve);
    set_phase(&builder, "connect_ms", timings->connect);
    set_phase(&builder, "socks_ms", timings->socks);
    set_phase(&builder, "target_handshake_ms", timings->target_handshake);
    set_phase(&builder, "relay_ms", timings->relay);
    set_phase(&builder, "first_byte_ms", timings->first_byte);
    return json_builder_finish(&builder);
}

static void set_times(struct json_builder *builder, const struct connection_record *record)
{
    bool has_ended = record->event == CONNECTION_ENDED || record->event == CONNECTION_REJECTED;
    json_builder_set(builder, "time", json_builder_time(record->time));
    json_builder_set(builder, "start", json_builder_time(record->start));
    json_builder_set(builder, "end", has_ended ? json_builder_time(record->time) : json_null());
}

// NULL: out of memory.
static json_t *json_of_record(const struct connection_record *record)
{
    struct json_builder builder = json_builder_object();
    set_text(&builder, "event", name_of_event(record->event));
    set_count(&builder, "id", record->id);
    set_text(&builder, "proxy", record->proxy);
    set_times(&builder, record);
    set_text(&builder, "client", record->client);
    set_text(&builder, "local", record->local);
    json_builder_set(&builder, "proxy_header", json_of_header(record->proxy_header));
    set_text(&builder, "sni", record->sni);
    json_builder_set(&builder, "client_tls", json_of_tls(record->client_tls));
    json_builder_set(&builder, "target", json_of_target(record));
    json_builder_set(&builder, "target_tls", json_of_tls(record->target_tls));
    set_count(&builder, "attempts", record->attempts);
    set_milliseconds(&builder, "resolve_ms", record->timings.resolve);
    set_milliseconds(&builder, "connect_ms", record->timings.connect);
    set_milliseconds(&builder, "total_ms", record->total_time);
    json_builder_set(&builder, "timings", json_of_timings(&record->timings));
    set_count(&builder, "bytes_from_client", record->bytes_from_client);
    set_count(&builder, "bytes_from_target", record->bytes_from_target);
    json_builder_set(&builder, "client_tcp", json_of_tcp(record->client_tcp));
    json_builder_set(&builder, "target_tcp", json_of_tcp(record->target_tcp));
    set_text(&builder, "phase", record->phase);
    set_text(&builder, "step", record->step);
    set_text(&builder, "reason", record->reason);
    set_text(&builder, "ended_by", record->ended_by);
    set_text(&builder, "error", record->error);
    return json_builder_finish(&builder);
}

#define DUMP_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(15) | JSON_ENSURE_ASCII)

// The object between its newlines. Where the room does not do, the text is allocated; NULL: out of memory, which
// jansson needs to walk through the object, too, and tells by a length of 0.
static void render(struct connection_line *line, const json_t *object)
{
    line->text = line->room;
    size_t length = json_dumpb(object, line->room + 1, sizeof line->room - 2, DUMP_FLAGS);
    if (length > sizeof line->room - 2) {
        line->text = malloc(length + 2);
        length = line->text == NULL ? 0 : json_dumpb(object, line->text + 1, length, DUMP_FLAGS);
    }
    if (length == 0) {
        connection_line_release(line);
        return;
    }
    line->text[0] = '\n';
    line->text[1 + length] = '\n';
    line->length = length + 2;
}

void connection_line_init(struct connection_line *line, const struct connection_record *record)
{
    json_t *object = json_of_record(record);
    line->text = NULL;
    if (object != NULL)
        render(line, object);
    json_decref(object);
}

void connection_line_release(struct connection_line *line)
{
    if (line->text != line->room)
        free(line->text);
    line->text = NULL;
}
