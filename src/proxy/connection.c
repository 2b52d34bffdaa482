#include "bitflow/proxy/connection.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bitflow/base/clock.h"
#include "bitflow/net/inherited.h"
#include "bitflow/net/socket.h"
#include "bitflow/proxy/egress.h"
#include "bitflow/proxy/relay.h"

struct connection {
    uint64_t id;
    struct engine *engine;
    struct generation *generation;
    _Atomic(enum connection_stage) stage;
    struct client client;
    struct registry_entry entry; // client socket, target socket, reason, lifetime
    int64_t start_wall;
    int64_t start; // CLOCK_MONOTONIC
    uint64_t turn; // among the proxy's connections
    struct egress egress;
    struct relay relay;
    struct relay_result relayed;
    struct error error;
};

void client_close(const struct client *client, bool reset)
{
    if (client->is_inherited)
        socket_disconnect(client->fd, reset);
    else if (reset)
        socket_set_reset_on_close(client->fd);
    (void)close(client->fd);
}

uint64_t connection_next_id(void)
{
    static _Atomic uint64_t last;
    return atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
}

void connection_thread_name(char out[THREAD_NAME_SIZE], const char *proxy, uint64_t id, char role)
{
    // Ids past 13 digits lose their end; at a million connections a second that takes 115 days.
    char tail[sizeof "#18446744073709551615>"];
    (void)snprintf(tail, sizeof tail, "#%" PRIu64 "%c", id, role);
    thread_name(out, proxy, tail);
}

struct connection *connection_create(uint64_t id, struct engine *engine, struct generation *generation,
                                     const struct client *client, struct error *error)
{
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) {
        error_set_errno(error, ENOMEM, "cannot create a connection");
        return NULL;
    }
    connection->id = id;
    connection->engine = engine;
    connection->generation = generation_hold(generation);
    connection->client = *client;
    connection->start_wall = clock_wall();
    connection->start = clock_now();
    connection->turn = atomic_fetch_add_explicit(&generation->proxy->accepted, 1, memory_order_relaxed);
    connection->egress.dialled.fd = -1;
    connection->entry.client = client->fd;
    connection->entry.deadline = deadline_after(generation->settings->connection_lifetime);
    registry_add(engine->registry, &connection->entry);
    return connection;
}

void connection_abandon(struct connection **connection)
{
    if (*connection == NULL)
        return;
    registry_remove((*connection)->engine->registry, &(*connection)->entry);
    generation_drop(&(*connection)->generation);
    free(*connection);
    *connection = NULL;
}

static struct log_context log_context_of(const struct connection *connection)
{
    return (struct log_context){.proxy = connection->generation->proxy->name, .connection = connection->id};
}

static void connection_enter(struct connection *connection, enum connection_stage stage)
{
    atomic_store_explicit(&connection->stage, stage, memory_order_relaxed);
}

// Returns whether this was the first reason, which is the one that counts.
static bool connection_end(struct connection *connection, enum close_reason reason)
{
    return registry_entry_end(&connection->entry, reason);
}

static enum close_reason reason_of_failed_dial(enum error_code code)
{
    switch (code) {
    case ERROR_CANCELLED:
        return CLOSE_CLIENT_LEFT;
    case ERROR_RESOLVE:
        return CLOSE_RESOLVE_FAILED;
    case ERROR_REFUSED:
        return CLOSE_CONNECT_REFUSED;
    case ERROR_TIMEOUT:
        return CLOSE_CONNECT_TIMEOUT;
    case ERROR_NO_DESCRIPTORS:
        return CLOSE_OUT_OF_DESCRIPTORS;
    case ERROR_NO_THREADS:
        return CLOSE_OUT_OF_THREADS;
    case ERROR_NO_MEMORY:
        return CLOSE_OUT_OF_MEMORY;
    default:
        return CLOSE_CONNECT_FAILED;
    }
}

static void log_connected(const struct connection *connection, const struct log_context *context)
{
    if (!log_enabled(LOG_DEBUG))
        return;
    char address[ENDPOINT_TEXT_SIZE], attempts[LOG_NUMBER_SIZE], took[LOG_NUMBER_SIZE];
    const struct egress *egress = &connection->egress;
    endpoint_format(&egress->dialled.remote, address);
    log_debug(context, "connected", "target", egress->target->name, "address", address, "attempts",
              log_number(attempts, egress->attempts), "connect_us", log_number(took, egress->connect_time / NS_PER_US),
              NULL);
}

static bool has_reason(const void *subject)
{
    const struct connection *connection = subject;
    return atomic_load_explicit(&connection->entry.reason, memory_order_relaxed) != CLOSE_NONE;
}

// A borrowed target is of use to one connection only. A client that comes and goes without a word, a health check or a
// port scan, must not use it up: it is not touched before either side has something to say.
static bool await_first_byte(struct connection *connection)
{
    struct pollfd sockets[2] = {{.fd = connection->entry.client, .events = POLLIN},
                                {.fd = connection->egress.dialled.fd, .events = POLLIN}};
    int64_t deadline = deadline_after(connection->generation->settings->listener.read_timeout);
    int ready;
    do
        ready = poll(sockets, ARRAY_LENGTH(sockets), deadline_poll_ms(deadline));
    while (ready < 0 && errno == EINTR);
    if (!has_reason(connection) && (sockets[1].revents != 0 || socket_has_data(connection->entry.client)))
        return true;
    (void)connection_end(connection, ready == 0 ? CLOSE_CLIENT_READ_TIMEOUT : CLOSE_CLIENT_LEFT);
    return false;
}

static bool dial_target(struct connection *connection)
{
    struct log_context context = log_context_of(connection);
    struct patience patience;
    connection_enter(connection, STAGE_DIALLING);
    patience_init(&patience, connection->entry.client);
    patience.is_over = has_reason;
    patience.subject = connection;
    if (!egress_connect(&connection->egress, connection->generation->settings, connection->turn, &patience, &context,
                        &connection->error)) {
        if (!connection_end(connection, reason_of_failed_dial(connection->error.code)))
            connection->error = ERROR_INIT; // ended from outside, which looked like a client that left
        return false;
    }
    if (connection->egress.dialled.is_borrowed && !await_first_byte(connection))
        return false;
    registry_set_target(connection->engine->registry, &connection->entry, connection->egress.dialled.fd);
    log_connected(connection, &context);
    return true;
}

static void relay_target(struct connection *connection)
{
    const struct listener_config *listener = &connection->generation->settings->listener;
    const struct target_config *target = connection->egress.target;
    struct relay *relay = &connection->relay;
    connection_enter(connection, STAGE_RELAYING);
    if (endpoint_is_tcp(&connection->egress.dialled.remote)) {
        socket_set_nodelay(connection->entry.target);
        socket_set_keepalive(connection->entry.target, target->keepalive_interval);
    }
    relay->sockets[RELAY_CLIENT].fd = connection->entry.client;
    relay->sockets[RELAY_CLIENT].read_timeout = listener->read_timeout;
    relay->sockets[RELAY_CLIENT].write_timeout = listener->write_timeout;
    relay->sockets[RELAY_TARGET].fd = connection->entry.target;
    relay->sockets[RELAY_TARGET].read_timeout = target->read_timeout;
    relay->sockets[RELAY_TARGET].write_timeout = target->write_timeout;
    relay->threads = connection->engine->threads;
    relay->reason = &connection->entry.reason;
    connection_thread_name(relay->second_thread_name, connection->generation->proxy->name, connection->id, '<');
    relay_run(relay, &connection->relayed);
}

static void close_target(struct connection *connection)
{
    const struct dial_result *dialled = &connection->egress.dialled;
    if (dialled->fd < 0)
        return;
    if (connection->relayed.reset_target)
        socket_set_reset_on_close(dialled->fd);
    if (!dialled->is_borrowed)
        (void)close(dialled->fd);
    else
        // A relay has touched it, if only by an end of stream.
        inherited_return(dialled->fd, connection->relayed.reason != CLOSE_NONE);
}

static void close_sockets(struct connection *connection)
{
    registry_remove(connection->engine->registry, &connection->entry);
    close_target(connection);
    client_close(&connection->client, connection->relayed.reset_client);
}

static void write_application_log(const struct connection *connection, const struct connection_record *record,
                                  enum close_reason reason)
{
    enum log_level level = close_reason_is_error(reason) ? LOG_ERROR : LOG_INFO;
    if (!log_enabled(level))
        return;
    struct log_context context = log_context_of(connection);
    char from_client[LOG_NUMBER_SIZE], from_target[LOG_NUMBER_SIZE], total[LOG_NUMBER_SIZE];
    log_write(level, &context, close_reason_text(reason), "reason", record->reason, "ended_by", record->ended_by,
              "client", record->client, "target", record->target_name, "bytes_from_client",
              log_number(from_client, (int64_t)record->bytes_from_client), "bytes_from_target",
              log_number(from_target, (int64_t)record->bytes_from_target), "total_ms",
              log_number(total, record->total_time / NS_PER_MS), "error", record->error, NULL);
}

// Two addresses that must be asked for while the sockets are open.
struct socket_names {
    char peer[ENDPOINT_TEXT_SIZE];
    char local[ENDPOINT_TEXT_SIZE];
};

static void name_client(struct socket_names *names, const struct client *client)
{
    struct endpoint local = {.length = 0};
    (void)socket_local(client->fd, &local);
    endpoint_format(&client->peer, names->peer);
    endpoint_format(&local, names->local);
}

static enum ended_by who_ended(const struct connection *connection, enum close_reason reason)
{
    return reason == CLOSE_COMPLETED ? connection->relayed.ended_by : close_reason_ended_by(reason);
}

static void write_records(struct connection *connection, const struct socket_names *names)
{
    const struct egress *egress = &connection->egress;
    enum close_reason reason = atomic_load(&connection->entry.reason);
    char target_address[ENDPOINT_TEXT_SIZE];
    endpoint_format(&egress->dialled.remote, target_address);
    if (connection->error.code == ERROR_NONE && connection->relayed.os_errno != 0)
        error_set_errno(&connection->error, connection->relayed.os_errno, "%s", close_reason_text(reason));
    struct connection_record record = {
        .id = connection->id,
        .proxy = connection->generation->proxy->name,
        .start = connection->start_wall,
        .end = clock_wall(),
        .client = names->peer,
        .local = names->local,
        .target_name = egress->target == NULL ? NULL : egress->target->name,
        .target_address = egress->dialled.remote.length == 0 ? NULL : target_address,
        .attempts = egress->attempts,
        .resolve_time = egress->resolve_time,
        .connect_time = egress->connect_time,
        .total_time = clock_now() - connection->start,
        .bytes_from_client = atomic_load(&connection->relay.sockets[RELAY_CLIENT].bytes),
        .bytes_from_target = atomic_load(&connection->relay.sockets[RELAY_TARGET].bytes),
        .reason = close_reason_name(reason),
        .ended_by = ended_by_name(who_ended(connection, reason)),
        .error = connection->error.code == ERROR_NONE ? NULL : connection->error.text,
    };
    write_application_log(connection, &record, reason);
    if (connection->generation->log != NULL)
        connection_log_write(connection->generation->log, &record);
}

static bool anything_is_logged(const struct connection *connection)
{
    return connection->generation->log != NULL || log_enabled(LOG_ERROR);
}

// The clients see the end before the records are written: a slow disk delays no one but this thread.
static void finish(struct connection *connection)
{
    bool is_logged = anything_is_logged(connection);
    struct socket_names names;
    connection_enter(connection, STAGE_CLOSING);
    if (is_logged)
        name_client(&names, &connection->client);
    close_sockets(connection);
    atomic_fetch_sub(&connection->generation->proxy->active, 1);
    if (is_logged)
        write_records(connection, &names);
    generation_drop(&connection->generation);
    free(connection);
}

static void log_accepted(const struct connection *connection)
{
    if (!log_enabled(LOG_DEBUG))
        return;
    struct log_context context = log_context_of(connection);
    char client[ENDPOINT_TEXT_SIZE];
    endpoint_format(&connection->client.peer, client);
    log_debug(&context, "accepted", "client", client, NULL);
}

void connection_serve(void *argument)
{
    struct connection *connection = argument;
    char name[THREAD_NAME_SIZE];
    connection_thread_name(name, connection->generation->proxy->name, connection->id, '>');
    thread_set_name(name);
    log_accepted(connection);
    if (dial_target(connection))
        relay_target(connection);
    finish(connection);
}

void connection_reject(uint64_t id, struct generation *generation, const struct client *client,
                       enum close_reason reason, const char *error_text)
{
    enum log_level level = LOG_WARN;
    if (generation->log == NULL && !log_enabled(level))
        return;
    struct socket_names names;
    name_client(&names, client);
    int64_t now = clock_wall();
    struct connection_record record = {
        .is_rejected = true,
        .id = id,
        .proxy = generation->proxy->name,
        .start = now,
        .end = now,
        .client = names.peer,
        .local = names.local,
        .reason = close_reason_name(reason),
        .ended_by = ended_by_name(close_reason_ended_by(reason)),
        .error = error_text,
    };
    struct log_context context = {.proxy = record.proxy, .connection = id};
    log_at(level, &context, "rejected", "reason", record.reason, "client", record.client, "error", error_text, NULL);
    if (generation->log != NULL)
        connection_log_write(generation->log, &record);
}
