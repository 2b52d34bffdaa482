// What is said of a connection: the records of the connection log, and lines of the application log.

#include <stddef.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/socket.h"
#include "connection_internal.h"
#include "record_fields.h"

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

// The local one is for a record alone.
static void name_ends(const struct client *client, bool has_record, struct connection_sockets *sockets)
{
    struct endpoint local = {.length = 0};
    endpoint_format(client_address(client), sockets->client);
    if (has_record)
        client_local_address(client, &local);
    endpoint_format(&local, sockets->local);
}

void connection_look_at_sockets(const struct connection *connection, struct connection_sockets *sockets)
{
    const int fds[] = {[RELAY_CLIENT] = connection->client.fd, [RELAY_TARGET] = connection->upstream.dialled.fd};
    bool is_wanted = connection->generation->log != NULL;
    name_ends(&connection->client, is_wanted, sockets);
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

// A phase that it did not come to has no duration.
static void put_timings(struct json_line *line, const char *key, const int64_t durations[PHASE_COUNT])
{
    json_line_begin_object(line, key);
    for (enum phase phase = 0; phase < PHASE_COUNT; phase++)
        if (phase_rows[phase].key != NULL)
            record_known_time(line, phase_rows[phase].key, durations[phase] == 0 ? -1 : durations[phase]);
    json_line_end_object(line);
}

// The phase that it is in, or has ended in, and the step that it came to within that.
static void put_phase(struct json_line *line, const struct phases *phases)
{
    const struct phase_row *phase = &phase_rows[phases->reached], *step = &phase_rows[phases->step];
    record_text(line, "phase", phase->name);
    record_text(line, "step", strcmp(step->name, phase->name) == 0 ? step->step : NULL);
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
    char time[CLOCK_RFC3339_SIZE];
    clock_format_rfc3339(wall, time);
    int64_t durations[PHASE_COUNT];
    int64_t first_byte = atomic_load_explicit(&connection->relay.first_byte, memory_order_relaxed);
    int64_t age = phases_durations(&connection->phases, first_byte, now, durations);
    json_line_begin(line);
    record_text(line, "event", events[event]);
    json_line_integer(line, "id", (int64_t)connection->id);
    record_text(line, "proxy", connection->generation->proxy->name);
    json_line_text(line, "time", time);
    json_line_time(line, "start", connection->start_wall);
    json_line_text(line, "end", has_ended ? time : NULL);
    record_text(line, "client", sockets->client);
    record_text(line, "local", sockets->local);
    record_header(line, "proxy_header", &connection->client);
    record_text(line, "sni", connection->client.server_name);
    record_tls(line, "client_tls", connection->client.tls, &connection->relay.sockets[RELAY_CLIENT]);
    record_client_identity(line, &connection->client, connection->client.tls);
    record_target(line, "target", &connection->upstream);
    record_tls(line, "target_tls", connection->upstream.tls, &connection->relay.sockets[RELAY_TARGET]);
    record_target_identity(line, connection->upstream.tls);
    json_line_integer(line, "attempts", connection->upstream.attempts);
    json_line_milliseconds(line, "resolve_ms", durations[PHASE_RESOLVE]);
    json_line_milliseconds(line, "connect_ms", durations[PHASE_CONNECT]);
    json_line_milliseconds(line, "total_ms", age);
    put_timings(line, "timings", durations);
    json_line_integer(line, "bytes_from_client", (int64_t)bytes_from(connection, RELAY_CLIENT));
    json_line_integer(line, "bytes_from_target", (int64_t)bytes_from(connection, RELAY_TARGET));
    record_tcp(line, "client_tcp", sockets, RELAY_CLIENT);
    record_tcp(line, "target_tcp", sockets, RELAY_TARGET);
    put_phase(line, &connection->phases);
    record_text(line, "reason", has_ended ? close_reason_name(connection->failure.reason) : NULL);
    record_text(line, "ended_by", has_ended ? who_ended(connection) : NULL);
    record_text(line, "error", has_ended ? error_of(connection) : NULL);
    json_line_end(line);
}

// When the records are written.

static bool has_log_line(const struct connection *connection)
{
    return !connection->is_unlogged_probe && log_enabled(close_reason_level(connection->failure.reason));
}

static bool has_last_record(const struct connection *connection)
{
    return connection->generation->log != NULL && (!connection->is_unlogged_probe || connection->has_record);
}

bool connection_is_logged(const struct connection *connection)
{
    return has_last_record(connection) || has_log_line(connection);
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
    if (has_log_line(connection)) {
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
    if (has_last_record(connection))
        write_record(connection, CONNECTION_ENDED, sockets, clock_wall());
}

static struct connection *connection_of(struct periodic_record *periodic_record)
{
    return (struct connection *)((char *)periodic_record - offsetof(struct connection, periodic_record));
}

static void render_periodic(struct periodic_record *periodic_record, struct json_line *line)
{
    struct connection_sockets sockets;
    struct connection *connection = connection_of(periodic_record);
    connection->has_record = true;
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
    if (generation->settings->connection_log_connect) {
        connection->has_record = true;
        write_connected(connection);
    }
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
    name_ends(client, generation->log != NULL, &sockets);
    struct log_context context = connection_log_context(&rejected);
    log_at(level, &context, "rejected", "reason", close_reason_name(failure->reason), "client", sockets.client, "error",
           error_of(&rejected), NULL);
    if (generation->log != NULL)
        write_record(&rejected, CONNECTION_REJECTED, &sockets, rejected.start_wall);
}
