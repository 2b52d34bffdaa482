// What is said of a connection: the records of the connection log, and lines of the application log.

#include <stddef.h>
#include <string.h>

#include "../client/proxy_protocol_in.h"
#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"
#include "connection_internal.h"

struct log_context connection_log_context(const struct connection *connection)
{
    return (struct log_context){.proxy = connection->generation->proxy->name, .connection = connection->id};
}

void connection_log_accepted(const struct connection *connection)
{
    if (!log_enabled(LOG_DEBUG))
        return;
    struct log_context context = connection_log_context(connection);
    char client[ENDPOINT_TEXT_SIZE];
    endpoint_format(&connection->client.peer, client);
    log_debug(&context, "accepted", "client", client, NULL);
}

void connection_log_connected(const struct connection *connection)
{
    if (!log_enabled(LOG_DEBUG))
        return;
    struct log_context context = connection_log_context(connection);
    char address[ENDPOINT_TEXT_SIZE], attempts[LOG_NUMBER_SIZE], took[LOG_NUMBER_SIZE];
    const struct upstream *upstream = &connection->upstream;
    endpoint_format(&upstream->dialled.remote, address);
    log_debug(&context, "connected", "target", upstream->target->settings->name, "address", address, "attempts",
              log_number(attempts, upstream->attempts), "connect_us",
              log_number(took, connection->phases.spent[PHASE_CONNECT] / NS_PER_US), NULL);
}

static void name_ends(const struct client *client, struct connection_sockets *sockets)
{
    struct endpoint local;
    client_local_address(client, &local);
    endpoint_format(client_address(client), sockets->client);
    endpoint_format(&local, sockets->local);
}

void connection_look_at_sockets(const struct connection *connection, struct connection_sockets *sockets)
{
    const int fds[] = {[RELAY_CLIENT] = connection->client.fd, [RELAY_TARGET] = connection->upstream.dialled.fd};
    bool is_wanted = connection->generation->log != NULL;
    name_ends(&connection->client, sockets);
    for (size_t i = 0; i < ARRAY_LENGTH(fds); i++)
        sockets->has_tcp[i] = is_wanted && fds[i] >= 0 && tcp_path_info_of(fds[i], &sockets->tcp[i]);
}

static const char *who_ended(const struct connection *connection)
{
    enum close_reason reason = connection->failure.reason;
    return ended_by_name(reason == CLOSE_COMPLETED ? connection->relay_result.ended_by : close_reason_ended_by(reason));
}

static const char *error_of(const struct connection *connection)
{
    return connection->failure.error.code == ERROR_NONE ? NULL : connection->failure.error.text;
}

static uint64_t bytes_from(const struct connection *connection, enum relay_side side)
{
    return atomic_load_explicit(&connection->relay.sockets[side].bytes, memory_order_relaxed);
}

// JSON. A text that is NULL, or empty, is not known, or was not sent.

static void put_text(struct json_line *line, const char *key, const char *value)
{
    json_line_text(line, key, value == NULL || *value == '\0' ? NULL : value);
}

// A negative one is not known.
static void put_known(struct json_line *line, const char *key, int64_t value)
{
    if (value < 0)
        json_line_null(line, key);
    else
        json_line_integer(line, key, value);
}

static void put_known_time(struct json_line *line, const char *key, int64_t ns)
{
    if (ns < 0)
        json_line_null(line, key);
    else
        json_line_milliseconds(line, key, ns);
}

// A text that the other side chose, up to its first zero byte.
static void put_header_text(struct json_line *line, const char *key, const struct proxy_header_text *text)
{
    char copy[(PROXY_HEADER_TEXT_MAX > PROXY_HEADER_ID_MAX ? PROXY_HEADER_TEXT_MAX : PROXY_HEADER_ID_MAX) + 1];
    size_t length = text->length < sizeof copy ? text->length : sizeof copy - 1;
    if (length > 0)
        memcpy(copy, text->bytes, length);
    copy[length] = '\0';
    put_text(line, key, copy);
}

static void put_header(struct json_line *line, const char *key, const struct client *client)
{
    const struct proxy_protocol_in *declared = client->declared;
    char peer[ENDPOINT_TEXT_SIZE];
    if (declared == NULL) {
        json_line_null(line, key);
        return;
    }
    endpoint_format(&client->peer, peer);
    json_line_begin_object(line, key);
    json_line_integer(line, "version", declared->version);
    json_line_boolean(line, "local", declared->header.is_local);
    put_text(line, "peer", peer);
    put_header_text(line, "authority", &declared->header.authority);
    put_header_text(line, "unique_id", &declared->header.unique_id);
    json_line_end_object(line);
}

// Of a side that is TLS; of the peer's certificate only what was verified.
static void put_tls(struct json_line *line, const char *key, const struct tls_session *session)
{
    if (session == NULL) { // or no handshake was begun
        json_line_null(line, key);
        return;
    }
    const struct tls_info *info = &session->info;
    const char *version = info->version == TLS_1_3 ? "TLSv1.3" : "TLSv1.2";
    json_line_begin_object(line, key);
    put_text(line, "version", *info->cipher == '\0' ? NULL : version); // both are agreed upon together
    put_text(line, "cipher", info->cipher);
    put_text(line, "server_name", info->server_name);
    put_text(line, "protocol", info->protocol);
    json_line_milliseconds(line, "handshake_ms", info->handshake_time);
    put_text(line, "peer_subject", info->peer_subject);
    put_text(line, "peer_names", info->peer_names);
    put_text(line, "peer_fingerprint", info->peer_fingerprint);
    json_line_end_object(line);
}

// With SOCKS5, which of a name's addresses it is, the server knows; what was dialled is the server's.
static void put_target(struct json_line *line, const char *key, const struct upstream *upstream)
{
    if (upstream->target == NULL) {
        json_line_null(line, key);
        return;
    }
    const struct target_config *settings = upstream->target->settings;
    bool has_socks = settings->socks_proxy != NULL;
    char configured[ADDRESS_TEXT_SIZE], dialled[ENDPOINT_TEXT_SIZE] = "";
    if (upstream->dialled.remote.length > 0)
        endpoint_format(&upstream->dialled.remote, dialled);
    address_format(&settings->address, configured);
    static const char scheme[] = "tcp://";
    const char *name =
        strncmp(configured, scheme, sizeof scheme - 1) == 0 ? configured + sizeof scheme - 1 : configured;
    json_line_begin_object(line, key);
    put_text(line, "name", settings->name);
    put_text(line, "address", has_socks && *dialled != '\0' ? name : dialled);
    put_text(line, "via", has_socks ? dialled : NULL);
    json_line_end_object(line);
}

static void put_tcp(struct json_line *line, const char *key, const struct connection_sockets *sockets,
                    enum relay_side side)
{
    const struct tcp_path_info *tcp = &sockets->tcp[side];
    if (!sockets->has_tcp[side]) {
        json_line_null(line, key);
        return;
    }
    json_line_begin_object(line, key);
    put_known_time(line, "rtt_ms", tcp->rtt);
    put_known_time(line, "rttvar_ms", tcp->rttvar);
    put_known_time(line, "min_rtt_ms", tcp->min_rtt);
    put_known(line, "retransmits", tcp->retransmits);
    put_known(line, "lost", tcp->lost);
    put_known(line, "unacked", tcp->unacked);
    put_known(line, "unsent_bytes", tcp->unsent);
    put_known(line, "bytes_acked", tcp->bytes_acked);
    put_known(line, "bytes_received", tcp->bytes_received);
    put_known(line, "delivery_rate", tcp->delivery_rate);
    json_line_end_object(line);
}

// A phase that it did not come to has no duration.
static void put_timings(struct json_line *line, const char *key, const int64_t durations[PHASE_COUNT])
{
    json_line_begin_object(line, key);
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
        if (phase_rows[phase].key != NULL)
            put_known_time(line, phase_rows[phase].key, durations[phase] == 0 ? -1 : durations[phase]);
    json_line_end_object(line);
}

// The phase that it is in, or has ended in, and the step that it came to within that.
static void put_phase(struct json_line *line, const struct phases *phases)
{
    const struct phase_row *phase = &phase_rows[phases->reached], *step = &phase_rows[phases->step];
    put_text(line, "phase", phase->name);
    put_text(line, "step", strcmp(step->name, phase->name) == 0 ? step->step : NULL);
}

void connection_record_render(const struct connection *connection, enum connection_event event,
                              const struct connection_sockets *sockets, int64_t now, int64_t wall,
                              struct json_line *line)
{
    static const char *const events[] = {[CONNECTION_ENDED] = "connection",
                                         [CONNECTION_REJECTED] = "rejected",
                                         [CONNECTION_CONNECTED] = "connected",
                                         [CONNECTION_ACTIVE] = "active"};
    bool has_ended = event == CONNECTION_ENDED || event == CONNECTION_REJECTED;
    int64_t durations[PHASE_COUNT];
    int64_t first_byte = atomic_load_explicit(&connection->relay.first_byte, memory_order_relaxed);
    int64_t age = phases_durations(&connection->phases, first_byte, now, durations);
    json_line_begin(line);
    put_text(line, "event", events[event]);
    json_line_integer(line, "id", (int64_t)connection->id);
    put_text(line, "proxy", connection->generation->proxy->name);
    json_line_time(line, "time", wall);
    json_line_time(line, "start", connection->start_wall);
    if (has_ended)
        json_line_time(line, "end", wall);
    else
        json_line_null(line, "end");
    put_text(line, "client", sockets->client);
    put_text(line, "local", sockets->local);
    put_header(line, "proxy_header", &connection->client);
    put_text(line, "sni", connection->client.server_name);
    put_tls(line, "client_tls", connection->client.tls);
    put_target(line, "target", &connection->upstream);
    put_tls(line, "target_tls", connection->upstream.tls);
    json_line_integer(line, "attempts", connection->upstream.attempts);
    json_line_milliseconds(line, "resolve_ms", durations[PHASE_RESOLVE]);
    json_line_milliseconds(line, "connect_ms", durations[PHASE_CONNECT]);
    json_line_milliseconds(line, "total_ms", age);
    put_timings(line, "timings", durations);
    json_line_integer(line, "bytes_from_client", (int64_t)bytes_from(connection, RELAY_CLIENT));
    json_line_integer(line, "bytes_from_target", (int64_t)bytes_from(connection, RELAY_TARGET));
    put_tcp(line, "client_tcp", sockets, RELAY_CLIENT);
    put_tcp(line, "target_tcp", sockets, RELAY_TARGET);
    put_phase(line, &connection->phases);
    put_text(line, "reason", has_ended ? close_reason_name(connection->failure.reason) : NULL);
    put_text(line, "ended_by", has_ended ? who_ended(connection) : NULL);
    put_text(line, "error", has_ended ? error_of(connection) : NULL);
    json_line_end(line);
}

// When the records are written.

bool connection_is_logged(const struct connection *connection)
{
    return connection->generation->log != NULL || log_enabled(close_reason_level(connection->failure.reason));
}

static void write_record(const struct connection *connection, enum connection_event event,
                         const struct connection_sockets *sockets, int64_t wall)
{
    struct json_line line;
    connection_record_render(connection, event, sockets, clock_now(), wall, &line);
    connection_log_write(connection->generation->log, &line);
    json_line_release(&line);
}

void connection_write_records(const struct connection *connection, const struct connection_sockets *sockets)
{
    enum close_reason reason = connection->failure.reason;
    enum log_level level = close_reason_level(reason);
    if (log_enabled(level)) {
        const struct phases *phases = &connection->phases;
        const struct target *target = connection->upstream.target;
        const char *sni = connection->client.server_name;
        struct log_context context = connection_log_context(connection);
        char from_client[LOG_NUMBER_SIZE], from_target[LOG_NUMBER_SIZE], total[LOG_NUMBER_SIZE];
        log_write(level, &context, close_reason_text(reason), "reason", close_reason_name(reason), "ended_by",
                  who_ended(connection), "client", sockets->client, "sni", *sni == '\0' ? NULL : sni, "target",
                  target == NULL ? NULL : target->settings->name, "bytes_from_client",
                  log_number(from_client, (int64_t)bytes_from(connection, RELAY_CLIENT)), "bytes_from_target",
                  log_number(from_target, (int64_t)bytes_from(connection, RELAY_TARGET)), "total_ms",
                  log_number(total, (phases->ended - phases->started) / NS_PER_MS), "error", error_of(connection),
                  NULL);
    }
    if (connection->generation->log != NULL)
        write_record(connection, CONNECTION_ENDED, sockets, clock_wall());
}

static const struct connection *connection_of(const struct periodic_record *periodic_record)
{
    return (const struct connection *)((const char *)periodic_record - offsetof(struct connection, periodic_record));
}

static void render_periodic(struct periodic_record *periodic_record, struct json_line *line)
{
    struct connection_sockets sockets;
    const struct connection *connection = connection_of(periodic_record);
    connection_look_at_sockets(connection, &sockets);
    connection_record_render(connection, CONNECTION_ACTIVE, &sockets, clock_now(), clock_wall(), line);
}

static void write_periodic(struct periodic_record *periodic_record, const struct json_line *line)
{
    connection_log_write(connection_of(periodic_record)->generation->log, line);
}

const struct periodic_actions connection_periodic_actions = {.render = render_periodic, .write = write_periodic};

// Kept out of other frames: a line takes four kilobytes, which are not to lie below the relay's.
__attribute__((noinline)) static void write_connected(const struct connection *connection)
{
    struct connection_sockets sockets;
    connection_look_at_sockets(connection, &sockets);
    write_record(connection, CONNECTION_CONNECTED, &sockets, clock_wall());
}

void connection_begin_records(struct connection *connection)
{
    struct generation *generation = connection->generation;
    if (generation->log == NULL)
        return;
    if (generation->settings->connection_log_connect)
        write_connected(connection);
    if (generation->periodic_records.interval > 0)
        periodic_records_add(connection->runtime->periodic_records, &generation->periodic_records,
                             &connection->periodic_record);
}

void connection_reject(uint64_t id, struct generation *generation, const struct client *client,
                       const struct failure *failure)
{
    enum log_level level = close_reason_level(failure->reason);
    connection_count_rejected(generation, failure->reason);
    if (generation->log == NULL && !log_enabled(level))
        return;
    struct connection rejected = {
        .id = id, .generation = generation, .start_wall = clock_wall(), .client = *client, .failure = *failure};
    struct connection_sockets sockets = {.has_tcp = {false, false}}; // nothing has happened on it yet
    name_ends(client, &sockets);
    struct log_context context = connection_log_context(&rejected);
    log_at(level, &context, "rejected", "reason", close_reason_name(failure->reason), "client", sockets.client, "error",
           error_of(&rejected), NULL);
    if (generation->log != NULL)
        write_record(&rejected, CONNECTION_REJECTED, &sockets, rejected.start_wall);
}
