#include "connection_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../upstream/proxy_protocol_out.h"
#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"
#include "bitflow/net/inherited.h"
#include "bitflow/net/socket.h"

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
    phases_begin(&connection->phases);
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

static enum close_reason settled_reason(const struct connection *connection)
{
    return atomic_load_explicit(&connection->entry.settled_reason, memory_order_relaxed);
}

static bool has_reason(const void *subject)
{
    return settled_reason(subject) != CLOSE_NONE;
}

// The failure is the reason that the connection ends, unless it was ended from outside already: then a client that is
// gone, or a call that was cancelled, is only what that looked like from here.
static bool connection_end(struct connection *connection)
{
    struct failure *failure = &connection->failure;
    INVARIANT(failure->reason != CLOSE_NONE);
    if (!close_reason_settle(&connection->entry.settled_reason, failure->reason))
        *failure = (struct failure){.reason = settled_reason(connection)};
    return false;
}

// A lent target is of use to one connection only. A client that comes and goes without a word, a health check or a
// port scan, must not use it up: it is not touched before either side has something to say.
static bool await_first_byte(struct connection *connection)
{
    struct pollfd sockets[2] = {{.fd = connection->entry.client, .events = POLLIN},
                                {.fd = connection->upstream.dialled.fd, .events = POLLIN}};
    int64_t deadline = deadline_after(connection->generation->settings->listener.read_timeout);
    phases_enter(&connection->phases, PHASE_AWAIT_FIRST_BYTE);
    int ready = deadline_poll(sockets, ARRAY_LENGTH(sockets), deadline);
    if (!has_reason(connection) && (sockets[1].revents != 0 || socket_has_data(connection->entry.client)))
        return true;
    return failed_with(&connection->failure, ready == 0 ? CLOSE_CLIENT_READ_TIMEOUT : CLOSE_CLIENT_LEFT);
}

// The family that the client came by; ADDRESS_ANY: no IP. The client of a socket of both families came by IPv4, too.
static enum address_family family_of(const struct endpoint *client)
{
    sa_family_t family = endpoint_family(client);
    if (family == AF_INET)
        return ADDRESS_IPV4;
    if (family != AF_INET6)
        return ADDRESS_ANY;
    struct sockaddr_in6 inet;
    memcpy(&inet, &client->address, sizeof inet);
    return IN6_IS_ADDR_V4MAPPED(&inet.sin6_addr) ? ADDRESS_IPV4 : ADDRESS_IPV6;
}

// Kept out of other frames: the header takes half a kilobyte.
__attribute__((noinline)) static bool dial_target(struct connection *connection)
{
    const struct proxy_config *settings = connection->generation->settings;
    struct upstream *upstream = &connection->upstream;
    struct client_watch watch;
    struct proxy_header header;
    char id[PROXY_PROTOCOL_OUT_ID_SIZE];
    phases_enter(&connection->phases, PHASE_DIALLING);
    client_watch_init(&watch, connection->entry.client);
    watch.is_over = has_reason;
    watch.subject = connection;
    struct log_context context = connection_log_context(connection);
    struct upstream_terms terms = {.generation = connection->generation,
                                   .chosen = connection->client.target,
                                   .watch = &watch,
                                   .context = &context};
    if (settings->enable_dual_stack)
        terms.preferred = family_of(client_address(&connection->client));
    if (settings->enable_proxy_header) {
        proxy_protocol_out_describe(&connection->client, connection->id, id, &header);
        terms.header = &header;
    }
    if (!upstream_connect(upstream, &terms, &connection->phases, &connection->failure) ||
        (upstream->dialled.is_lent && !await_first_byte(connection)))
        return connection_end(connection);
    registry_set_target(connection->runtime->registry, &connection->entry, upstream->dialled.fd);
    connection_log_connected(connection);
    connection_count_connected(connection);
    return true;
}

static bool admit_client(struct connection *connection)
{
    phases_enter(&connection->phases, PHASE_ADMITTING);
    return client_admit(&connection->client, connection->generation, &connection->phases, &connection->failure) ||
           connection_end(connection);
}

static void relay_target(struct connection *connection)
{
    const struct listener_config *listener = &connection->generation->settings->listener;
    const struct target_config *target = connection->upstream.target->settings;
    struct relay *relay = &connection->relay;
    phases_enter(&connection->phases, PHASE_RELAYING);
    connection_begin_records(connection);
    relay->sockets[RELAY_CLIENT].fd = connection->entry.client;
    relay->sockets[RELAY_CLIENT].tls = connection->client.tls;
    relay->sockets[RELAY_CLIENT].read_timeout = listener->read_timeout;
    relay->sockets[RELAY_CLIENT].write_timeout = listener->write_timeout;
    relay->sockets[RELAY_TARGET].fd = connection->entry.target;
    relay->sockets[RELAY_TARGET].is_nonblocking = !connection->upstream.dialled.is_lent;
    relay->sockets[RELAY_TARGET].tls = connection->upstream.tls;
    relay->sockets[RELAY_TARGET].read_timeout = target->read_timeout;
    relay->sockets[RELAY_TARGET].write_timeout = target->write_timeout;
    relay->threads = connection->runtime->threads;
    relay->settled_reason = &connection->entry.settled_reason;
    connection_thread_name(relay->second_thread_name, connection->generation->proxy->name, connection->id, '<');
    relay_run(relay, &connection->relay_result, &connection->failure);
}

static void close_target(const struct connection *connection)
{
    const struct dial_result *dialled = &connection->upstream.dialled;
    if (dialled->fd < 0)
        return;
    if (connection->relay_result.reset[RELAY_TARGET])
        socket_set_reset_on_close(dialled->fd);
    if (!dialled->is_lent)
        (void)close(dialled->fd);
    else
        // Used up once a relay has touched it, if only to pass on an end of stream, or a header or a handshake has.
        inherited_return(dialled->fd, connection->phases.reached == PHASE_RELAYING ||
                                          connection->upstream.is_header_sent || connection->upstream.tls != NULL);
}

// The clients see the end before the records are written: a slow disk delays no one but this thread.
static void finish(struct connection *connection)
{
    struct runtime *runtime = connection->runtime;
    struct proxy *proxy = connection->generation->proxy;
    bool is_logged = connection_is_logged(connection);
    struct connection_sockets sockets;
    INVARIANT(has_reason(connection) && connection->failure.reason == settled_reason(connection));
    // Before anything changes that those records tell of.
    periodic_records_remove(runtime->periodic_records, &connection->periodic_record);
    phases_enter(&connection->phases, PHASE_CLOSING);
    if (is_logged)
        connection_look_at_sockets(connection, &sockets);
    registry_remove(runtime->registry, &connection->entry);
    close_target(connection);
    client_close(&connection->client, connection->relay_result.reset[RELAY_CLIENT]);
    connection_count_closed(connection);
    upstream_leave(&connection->upstream);
    proxy_leave(proxy);
    source_counts_leave(&proxy->sources, &connection->client.source);
    periodic_records_settle(runtime->periodic_records, &connection->periodic_record);
    if (is_logged)
        connection_write_records(connection, &sockets);
    client_release(&connection->client);
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
