// A record of the connection log as JSON. Written without a tree of objects between: that took more time than all else
// that a record costs.

#include <stdlib.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/json_writer.h"
#include "bitflow/telemetry/connection_log.h"

static const char *name_of_event(enum connection_event event)
{
    static const char *const names[] = {[CONNECTION_ENDED] = "connection",
                                        [CONNECTION_REJECTED] = "rejected",
                                        [CONNECTION_CONNECTED] = "connected",
                                        [CONNECTION_ACTIVE] = "active"};
    return names[event];
}

static void write_header(struct json_writer *writer, const struct connection_header *header)
{
    if (header == NULL) {
        json_put_null(writer, "proxy_header");
        return;
    }
    json_put_begin(writer, "proxy_header");
    json_put_count(writer, "version", header->version);
    json_put_bool(writer, "local", header->is_local);
    json_put_text(writer, "peer", header->peer);
    json_put_text(writer, "authority", header->authority);
    json_put_text(writer, "unique_id", header->unique_id);
    json_put_end(writer);
}

static void write_target(struct json_writer *writer, const struct connection_record *record)
{
    if (record->target_name == NULL) {
        json_put_null(writer, "target");
        return;
    }
    json_put_begin(writer, "target");
    json_put_text(writer, "name", record->target_name);
    json_put_text(writer, "address", record->target_address);
    json_put_text(writer, "via", record->via);
    json_put_end(writer);
}

static void write_tls(struct json_writer *writer, const char *key, const struct connection_tls *tls)
{
    if (tls == NULL) {
        json_put_null(writer, key);
        return;
    }
    json_put_begin(writer, key);
    json_put_text(writer, "version", tls->version);
    json_put_text(writer, "cipher", tls->cipher);
    json_put_text(writer, "server_name", tls->server_name);
    json_put_text(writer, "protocol", tls->protocol);
    json_put_milliseconds(writer, "handshake_ms", tls->handshake_time);
    json_put_text(writer, "peer_subject", tls->peer_subject);
    json_put_text(writer, "peer_names", tls->peer_names);
    json_put_text(writer, "peer_fingerprint", tls->peer_fingerprint);
    json_put_end(writer);
}

static void write_known(struct json_writer *writer, const char *key, int64_t value)
{
    if (value < 0)
        json_put_null(writer, key);
    else
        json_put_count(writer, key, (uint64_t)value);
}

static void write_known_time(struct json_writer *writer, const char *key, int64_t ns)
{
    if (ns < 0)
        json_put_null(writer, key);
    else
        json_put_milliseconds(writer, key, ns);
}

static void write_tcp(struct json_writer *writer, const char *key, const struct tcp_facts *tcp)
{
    if (tcp == NULL) {
        json_put_null(writer, key);
        return;
    }
    json_put_begin(writer, key);
    write_known_time(writer, "rtt_ms", tcp->rtt);
    write_known_time(writer, "rttvar_ms", tcp->rttvar);
    write_known_time(writer, "min_rtt_ms", tcp->min_rtt);
    write_known(writer, "retransmits", tcp->retransmits);
    write_known(writer, "lost", tcp->lost);
    write_known(writer, "unacked", tcp->unacked);
    write_known(writer, "unsent_bytes", tcp->unsent);
    write_known(writer, "bytes_acked", tcp->bytes_acked);
    write_known(writer, "bytes_received", tcp->bytes_received);
    write_known(writer, "delivery_rate", tcp->delivery_rate);
    json_put_end(writer);
}

static void write_phase(struct json_writer *writer, const char *key, int64_t ns)
{
    write_known_time(writer, key, ns == 0 ? -1 : ns);
}

static void write_timings(struct json_writer *writer, const struct connection_timings *timings)
{
    json_put_begin(writer, "timings");
    write_phase(writer, "wait_ms", timings->wait);
    write_phase(writer, "admit_ms", timings->admit);
    write_phase(writer, "client_header_ms", timings->client_header);
    write_phase(writer, "client_hello_ms", timings->client_hello);
    write_phase(writer, "client_handshake_ms", timings->client_handshake);
    write_phase(writer, "dial_ms", timings->dial);
    write_phase(writer, "resolve_ms", timings->resolve);
    write_phase(writer, "connect_ms", timings->connect);
    write_phase(writer, "socks_ms", timings->socks);
    write_phase(writer, "target_handshake_ms", timings->target_handshake);
    write_phase(writer, "relay_ms", timings->relay);
    write_phase(writer, "first_byte_ms", timings->first_byte);
    json_put_end(writer);
}

static void write_times(struct json_writer *writer, const struct connection_record *record)
{
    char start[CLOCK_RFC3339_SIZE], time[CLOCK_RFC3339_SIZE];
    bool has_ended = record->event == CONNECTION_ENDED || record->event == CONNECTION_REJECTED;
    clock_format_rfc3339(record->start, start);
    clock_format_rfc3339(record->time, time);
    json_put_text(writer, "time", time);
    json_put_text(writer, "start", start);
    json_put_text(writer, "end", has_ended ? time : NULL);
}

static void write_record(struct json_writer *writer, const struct connection_record *record)
{
    json_put_begin(writer, NULL);
    json_put_text(writer, "event", name_of_event(record->event));
    json_put_count(writer, "id", record->id);
    json_put_text(writer, "proxy", record->proxy);
    write_times(writer, record);
    json_put_text(writer, "client", record->client);
    json_put_text(writer, "local", record->local);
    write_header(writer, record->proxy_header);
    json_put_text(writer, "sni", record->sni);
    write_tls(writer, "client_tls", record->client_tls);
    write_target(writer, record);
    write_tls(writer, "target_tls", record->target_tls);
    json_put_count(writer, "attempts", record->attempts);
    json_put_milliseconds(writer, "resolve_ms", record->timings.resolve);
    json_put_milliseconds(writer, "connect_ms", record->timings.connect);
    json_put_milliseconds(writer, "total_ms", record->total_time);
    write_timings(writer, &record->timings);
    json_put_count(writer, "bytes_from_client", record->bytes_from_client);
    json_put_count(writer, "bytes_from_target", record->bytes_from_target);
    write_tcp(writer, "client_tcp", record->client_tcp);
    write_tcp(writer, "target_tcp", record->target_tcp);
    json_put_text(writer, "phase", record->phase);
    json_put_text(writer, "step", record->step);
    json_put_text(writer, "reason", record->reason);
    json_put_text(writer, "ended_by", record->ended_by);
    json_put_text(writer, "error", record->error);
    json_put_end(writer);
}

// `size`: of the buffer. Returns how much the object takes, between its newlines.
static size_t render(const struct connection_record *record, char *buffer, size_t size)
{
    struct json_writer writer;
    json_writer_init(&writer, buffer + 1, size - 2);
    write_record(&writer, record);
    if (json_writer_fits(&writer)) {
        buffer[0] = '\n';
        buffer[1 + writer.length] = '\n';
    }
    return writer.length;
}

void connection_line_init(struct connection_line *line, const struct connection_record *record)
{
    line->text = line->room;
    line->length = render(record, line->room, sizeof line->room) + 2;
    if (line->length <= sizeof line->room)
        return;
    line->text = malloc(line->length);
    if (line->text != NULL)
        (void)render(record, line->text, line->length);
}

void connection_line_release(struct connection_line *line)
{
    if (line->text != line->room)
        free(line->text);
    line->text = NULL;
}
