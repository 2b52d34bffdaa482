#include "connection_parts.h"

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

struct connection *connection_create(uint64_t id, struct runtime *runtime, struct generation *generation,
                                     const struct client *client, struct error *error)
{
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) {
        error_set_errno(error, ENOMEM, "cannot create a connection");
        return NULL;
    }
    connection->id = id;
    connection->runtime = runtime;
    connection->generation = generation_hold(generation);
    connection->client = *client;
    connection->start_wall = clock_wall();
    connection->start = clock_now();
    atomic_fetch_add_explicit(&generation->proxy->accepted, 1, memory_order_relaxed);
    connection->upstream.dialled.fd = -1;
    connection->entry.client = client->fd;
    connection->entry.deadline = deadline_after(generation->settings->connection_lifetime);
    registry_add(runtime->registry, &connection->entry);
    return connection;
}

void connection_abandon(struct connection **connection)
{
    if (*connection == NULL)
        return;
    registry_remove((*connection)->runtime->registry, &(*connection)->entry);
    generation_drop(&(*connection)->generation);
    free(*connection);
    *connection = NULL;
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
                                {.fd = connection->upstream.dialled.fd, .events = POLLIN}};
    int64_t deadline = deadline_after(connection->generation->settings->listener.read_timeout);
    int ready = deadline_poll(sockets, ARRAY_LENGTH(sockets), deadline);
    if (!has_reason(connection) && (sockets[1].revents != 0 || socket_has_data(connection->entry.client)))
        return true;
    (void)connection_end(connection, ready == 0 ? CLOSE_CLIENT_READ_TIMEOUT : CLOSE_CLIENT_LEFT);
    return false;
}

// Behind the PROXY protocol the acceptor could not know whose connection it is.
static bool count_source(struct connection *connection, enum close_reason *reason)
{
    const struct proxy_config *settings = connection->generation->settings;
    if (!settings->listener.proxy_protocol)
        return true;
    *reason = source_counts_enter(&connection->generation->proxy->sources, connection_client(connection),
                                  settings->source_connection_limit, &connection->client.source, &connection->error);
    return *reason == CLOSE_NONE;
}

static bool admit_client(struct connection *connection)
{
    const struct generation *generation = connection->generation;
    struct ingress *ingress = &connection->ingress;
    struct error *error = &connection->error;
    int client = connection->entry.client;
    enum close_reason reason;
    connection->served = clock_now();
    connection_enter(connection, STAGE_ADMITTING);
    if (ingress_declare(ingress, &generation->settings->listener, client, &reason, error) &&
        count_source(connection, &reason) && ingress_admit(ingress, generation, client, &reason, error))
        return true;
    if (!connection_end(connection, reason))
        connection->error = ERROR_INIT; // ended from outside, which looked like a client that left
    return false;
}

// Kept out of other frames: the header takes half a kilobyte.
__attribute__((noinline)) static bool reach_target(struct connection *connection, struct client_watch *watch)
{
    const struct generation *generation = connection->generation;
    const struct proxy_config *settings = generation->settings;
    struct upstream_plan plan = {.settings = settings,
                                 .targets = generation->targets,
                                 .rr_counter =
                                     atomic_fetch_add_explicit(&generation->proxy->rr_counter, 1, memory_order_relaxed),
                                 .chosen = connection->ingress.target,
                                 .has_metrics = metrics_are_on(generation->proxy->metrics)};
    struct connection_ends ends;
    struct proxy_header header;
    char id[CONNECTION_ID_SIZE];
    if (settings->enable_proxy_header || settings->enable_dual_stack)
        connection_ends_of(connection, &ends);
    if (settings->enable_dual_stack)
        plan.preferred = connection_family(&ends);
    if (settings->enable_proxy_header) {
        connection_describe(connection, &ends, id, &header);
        plan.header = &header;
    }
    struct log_context context = connection_log_context(connection);
    return upstream_connect(&connection->upstream, &plan, watch, &context, &connection->error);
}

static bool dial_target(struct connection *connection)
{
    struct client_watch watch;
    connection->admitted = clock_now();
    connection_enter(connection, STAGE_DIALLING);
    client_watch_init(&watch, connection->entry.client);
    watch.is_over = has_reason;
    watch.subject = connection;
    if (!reach_target(connection, &watch)) {
        if (!connection_end(connection, upstream_failure(&connection->upstream, connection->error.code)))
            connection->error = ERROR_INIT; // ended from outside, which looked like a client that left
        return false;
    }
    if (connection->upstream.dialled.is_borrowed && !await_first_byte(connection))
        return false;
    registry_set_target(connection->runtime->registry, &connection->entry, connection->upstream.dialled.fd);
    connection_log_connected(connection);
    connection_count_connected(connection);
    return true;
}

static void relay_target(struct connection *connection)
{
    const struct listener_config *listener = &connection->generation->settings->listener;
    const struct target_config *target = connection->upstream.target->settings;
    struct relay *relay = &connection->relay;
    connection->relay_start = clock_now();
    connection_enter(connection, STAGE_RELAYING);
    connection_begin_records(connection);
    relay->sockets[RELAY_CLIENT].fd = connection->entry.client;
    relay->sockets[RELAY_CLIENT].tls = connection->ingress.tls;
    relay->sockets[RELAY_CLIENT].read_timeout = listener->read_timeout;
    relay->sockets[RELAY_CLIENT].write_timeout = listener->write_timeout;
    relay->sockets[RELAY_TARGET].fd = connection->entry.target;
    relay->sockets[RELAY_TARGET].tls = connection->upstream.tls;
    relay->sockets[RELAY_TARGET].read_timeout = target->read_timeout;
    relay->sockets[RELAY_TARGET].write_timeout = target->write_timeout;
    relay->threads = connection->runtime->threads;
    relay->reason = &connection->entry.reason;
    connection_thread_name(relay->second_thread_name, connection->generation->proxy->name, connection->id, '<');
    struct failure failure = {.reason = CLOSE_NONE};
    relay_run(relay, &connection->relayed, &failure);
    error_pass(&connection->error, &failure.error);
}

static void close_target(struct connection *connection)
{
    const struct dial_result *dialled = &connection->upstream.dialled;
    if (dialled->fd < 0)
        return;
    if (connection->relayed.reset_target)
        socket_set_reset_on_close(dialled->fd);
    if (!dialled->is_borrowed)
        (void)close(dialled->fd);
    else
        // A relay has touched it, if only by an end of stream, or a header or a handshake has.
        inherited_return(dialled->fd, connection->relay_start != 0 || connection->upstream.is_header_sent ||
                                          connection->upstream.tls != NULL);
}

static void close_sockets(struct connection *connection)
{
    registry_remove(connection->runtime->registry, &connection->entry);
    close_target(connection);
    client_close(&connection->client, connection->relayed.reset_client);
}

// The clients see the end before the records are written: a slow disk delays no one but this thread.
static void finish(struct connection *connection)
{
    bool is_logged = connection_is_logged(connection);
    struct socket_facts facts;
    reports_remove(connection->runtime->reports, &connection->report); // before anything is changed that they tell of
    connection->ended = clock_now();
    connection_enter(connection, STAGE_CLOSING);
    if (is_logged)
        connection_socket_facts(connection, &facts);
    close_sockets(connection);
    connection_count_closed(connection);
    upstream_leave(&connection->upstream);
    proxy_leave(connection->generation->proxy);
    source_counts_leave(&connection->generation->proxy->sources, &connection->client.source);
    reports_settle(connection->runtime->reports, &connection->report);
    if (is_logged)
        connection_write_records(connection, &facts);
    ingress_release(&connection->ingress);
    upstream_release(&connection->upstream);
    generation_drop(&connection->generation);
    free(connection);
}

void connection_serve(void *argument)
{
    struct connection *connection = argument;
    char name[THREAD_NAME_SIZE];
    connection_thread_name(name, connection->generation->proxy->name, connection->id, '>');
    thread_set_name(name);
    connection_log_accepted(connection);
    connection_count_accepted(connection);
    if (admit_client(connection) && dial_target(connection))
        relay_target(connection);
    finish(connection);
}
