// What is said of a connection: the records of its end, and lines of the application log.

#include "connection_parts.h"

#include <stddef.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/compiler.h"
#include "bitflow/net/socket.h"

struct log_context connection_log_context(const struct connection *connection)
{
    return (struct log_context){.proxy = connection->generation->proxy->name, .connection = connection->id};
}

static void name_ends(const struct connection_ends *ends, struct socket_facts *facts)
{
    endpoint_format(&ends->client, facts->client);
    endpoint_format(&ends->local, facts->local);
}

void connection_socket_facts(const struct connection *connection, struct socket_facts *facts)
{
    const int sockets[] = {[RELAY_CLIENT] = connection->client.fd, [RELAY_TARGET] = connection->upstream.dialled.fd};
    bool is_wanted = connection->generation->log != NULL; // in the application log it is not
    struct connection_ends ends;
    connection_ends_of(connection, &ends);
    name_ends(&ends, facts);
    for (size_t i = 0; i < ARRAY_LENGTH(sockets); i++)
        facts->has_tcp[i] = is_wanted && sockets[i] >= 0 && tcp_facts_of(sockets[i], &facts->tcp[i]);
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
              log_number(took, upstream->connect_time / NS_PER_US), NULL);
}

static enum log_level level_of(enum close_reason reason)
{
    if (reason == CLOSE_SOURCE_CONNECTION_LIMIT)
        return LOG_WARN; // as where the client could be rejected before it was let in
    return close_reason_is_error(reason) ? LOG_ERROR : LOG_INFO;
}

static void write_application_log(const struct connection *connection, const struct connection_record *record,
                                  enum close_reason reason)
{
    enum log_level level = level_of(reason);
    if (!log_enabled(level))
        return;
    struct log_context context = connection_log_context(connection);
    char from_client[LOG_NUMBER_SIZE], from_target[LOG_NUMBER_SIZE], total[LOG_NUMBER_SIZE];
    log_write(level, &context, close_reason_text(reason), "reason", record->reason, "ended_by", record->ended_by,
              "client", record->client, "sni", record->sni, "target", record->target_name, "bytes_from_client",
              log_number(from_client, (int64_t)record->bytes_from_client), "bytes_from_target",
              log_number(from_target, (int64_t)record->bytes_from_target), "total_ms",
              log_number(total, record->total_time / NS_PER_MS), "error", record->error, NULL);
}

static enum ended_by who_ended(const struct connection *connection, enum close_reason reason)
{
    return reason == CLOSE_COMPLETED ? connection->relayed.ended_by : close_reason_ended_by(reason);
}

static const char *text_or_null(const char *text)
{
    return *text == '\0' ? NULL : text;
}

// NULL: no handshake was begun.
static const struct connection_tls *describe_tls(const struct tls_session *session, struct connection_tls *out)
{
    if (session == NULL)
        return NULL;
    const struct tls_info *info = &session->info;
    const char *version = info->version == TLS_1_3 ? "TLSv1.3" : "TLSv1.2";
    *out = (struct connection_tls){
        .version = *info->cipher == '\0' ? NULL : version, // both are agreed upon together
        .cipher = text_or_null(info->cipher),
        .server_name = text_or_null(info->server_name),
        .protocol = text_or_null(info->protocol),
        .peer_subject = text_or_null(info->peer_subject),
        .peer_names = text_or_null(info->peer_names),
        .peer_fingerprint = text_or_null(info->peer_fingerprint),
        .handshake_time = info->handshake_time,
    };
    return out;
}

// A text that the other side chose, as a string that ends at the first zero byte; NULL: none.
static const char *copy_text(const struct proxy_header_text *text, char *out, size_t size)
{
    size_t length = text->length < size ? text->length : size - 1;
    if (length > 0)
        memcpy(out, text->bytes, length);
    out[length] = '\0';
    return text_or_null(out);
}

// Room for what of a header is told.
struct header_room {
    struct connection_header header;
    char peer[ENDPOINT_TEXT_SIZE];
    char authority[PROXY_HEADER_TEXT_MAX + 1];
    char unique_id[PROXY_HEADER_ID_MAX + 1];
};

// NULL: none came.
static const struct connection_header *describe_header(const struct connection *connection, struct header_room *room)
{
    const struct declaration *declared = connection->ingress.declared;
    if (declared == NULL)
        return NULL;
    endpoint_format(&connection->client.peer, room->peer);
    room->header = (struct connection_header){
        .version = declared->version,
        .is_local = declared->header.is_local,
        .peer = room->peer,
        .authority = copy_text(&declared->header.authority, room->authority, sizeof room->authority),
        .unique_id = copy_text(&declared->header.unique_id, room->unique_id, sizeof room->unique_id),
    };
    return &room->header;
}

// Where the connection really goes, if it isn't to the target itself.
static const char *describe_via(const struct upstream *upstream, char out[ENDPOINT_TEXT_SIZE])
{
    if (upstream->target == NULL || upstream->target->settings->socks_proxy == NULL ||
        upstream->dialled.remote.length == 0)
        return NULL;
    endpoint_format(&upstream->dialled.remote, out);
    return out;
}

// NULL: none was tried, or it has none.
static const char *describe_address(const struct upstream *upstream, char out[ADDRESS_TEXT_SIZE])
{
    _Static_assert(ADDRESS_TEXT_SIZE >= ENDPOINT_TEXT_SIZE, "either fits");
    if (upstream->target == NULL || upstream->dialled.remote.length == 0)
        return NULL;
    if (upstream->target->settings->socks_proxy != NULL) {
        // Which of a name's addresses it is, the SOCKS5 server knows.
        static const char scheme[] = "tcp://";
        address_format(&upstream->target->settings->address, out);
        return strncmp(out, scheme, sizeof scheme - 1) == 0 ? out + sizeof scheme - 1 : out;
    }
    endpoint_format(&upstream->dialled.remote, out);
    return out;
}

bool connection_is_logged(const struct connection *connection)
{
    enum close_reason reason = atomic_load_explicit(&connection->entry.reason, memory_order_relaxed);
    return connection->generation->log != NULL || log_enabled(level_of(reason));
}

// Where the texts of a record lie that are not the connection's own.
struct record_room {
    char target_address[ADDRESS_TEXT_SIZE];
    char via[ENDPOINT_TEXT_SIZE];
    struct connection_tls client_tls, target_tls;
    struct header_room header;
};

static const struct tcp_facts *tcp_of(const struct socket_facts *facts, enum relay_side side)
{
    return facts->has_tcp[side] ? &facts->tcp[side] : NULL;
}

// All but how it ended.
static struct connection_record describe(const struct connection *connection, enum connection_event event,
                                         const struct socket_facts *facts, struct record_room *room)
{
    const struct upstream *upstream = &connection->upstream;
    struct connection_record record = {
        .event = event,
        .id = connection->id,
        .proxy = connection->generation->proxy->name,
        .start = connection->start_wall,
        .time = clock_wall(),
        .client = facts->client,
        .local = facts->local,
        .proxy_header = describe_header(connection, &room->header),
        .sni = text_or_null(connection->ingress.server_name),
        .client_tls = describe_tls(connection->ingress.tls, &room->client_tls),
        .target_tls = describe_tls(upstream->tls, &room->target_tls),
        .client_tcp = tcp_of(facts, RELAY_CLIENT),
        .target_tcp = tcp_of(facts, RELAY_TARGET),
        .target_name = upstream->target == NULL ? NULL : upstream->target->settings->name,
        .target_address = describe_address(upstream, room->target_address),
        .via = describe_via(upstream, room->via),
        .attempts = upstream->attempts,
        .bytes_from_client = atomic_load_explicit(&connection->relay.sockets[RELAY_CLIENT].bytes, memory_order_relaxed),
        .bytes_from_target = atomic_load_explicit(&connection->relay.sockets[RELAY_TARGET].bytes, memory_order_relaxed),
    };
    record.total_time = connection_timings_of(connection, clock_now(), &record.timings);
    record.phase = connection_phase(connection, &record.step);
    return record;
}

void connection_write_records(struct connection *connection, const struct socket_facts *facts)
{
    enum close_reason reason = atomic_load(&connection->entry.reason);
    struct record_room room;
    struct connection_record record = describe(connection, CONNECTION_ENDED, facts, &room);
    record.reason = close_reason_name(reason);
    record.ended_by = ended_by_name(who_ended(connection, reason));
    record.error = connection->error.code == ERROR_NONE ? NULL : connection->error.text;
    write_application_log(connection, &record, reason);
    if (connection->generation->log != NULL)
        connection_log_write(connection->generation->log, &record);
}

static void render_alive(const struct connection *connection, enum connection_event event, struct connection_line *line)
{
    struct record_room room;
    struct socket_facts facts;
    connection_socket_facts(connection, &facts);
    struct connection_record record = describe(connection, event, &facts, &room);
    connection_line_init(line, &record);
}

static const struct connection *connection_of(const struct report_entry *entry)
{
    return (const struct connection *)((const char *)entry - offsetof(struct connection, report));
}

static void render_report(struct report_entry *entry, struct connection_line *line)
{
    render_alive(connection_of(entry), CONNECTION_ACTIVE, line);
}

static void write_report(struct report_entry *entry, const struct connection_line *line)
{
    connection_log_write_line(connection_of(entry)->generation->log, line);
}

const struct report_actions connection_reports = {.render = render_report, .write = write_report};

// Kept out of other frames: a line takes four kilobytes, which are not to lie below the relay's.
__attribute__((noinline)) static void write_connected(const struct connection *connection)
{
    struct connection_line line;
    render_alive(connection, CONNECTION_CONNECTED, &line);
    connection_log_write_line(connection->generation->log, &line);
    connection_line_release(&line);
}

void connection_begin_records(struct connection *connection)
{
    struct generation *generation = connection->generation;
    if (generation->log == NULL)
        return;
    if (generation->settings->connection_log_connect)
        write_connected(connection);
    if (generation->reports.interval > 0)
        reports_add(connection->runtime->reports, &generation->reports, &connection->report);
}

void connection_reject(uint64_t id, struct generation *generation, const struct client *client,
                       enum close_reason reason, const char *error_text)
{
    enum log_level level = close_reason_is_error(reason) ? LOG_ERROR : LOG_WARN;
    connection_count_rejected(generation, reason);
    if (generation->log == NULL && !log_enabled(level))
        return;
    struct connection_ends ends = {.client = client->peer};
    struct socket_facts facts;
    (void)socket_local(client->fd, &ends.local);
    name_ends(&ends, &facts);
    int64_t now = clock_wall();
    struct connection_record record = {
        .event = CONNECTION_REJECTED,
        .id = id,
        .proxy = generation->proxy->name,
        .start = now,
        .time = now,
        .client = facts.client,
        .local = facts.local,
        .phase = "accepting",
        .reason = close_reason_name(reason),
        .ended_by = ended_by_name(close_reason_ended_by(reason)),
        .error = error_text,
    };
    struct log_context context = {.proxy = record.proxy, .connection = id};
    log_at(level, &context, "rejected", "reason", record.reason, "client", record.client, "error", error_text, NULL);
    if (generation->log != NULL)
        connection_log_write(generation->log, &record);
}
