#include "connection_internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../upstream/proxy_protocol_out.h"
#include "bitflow/base/clock.h"
#include "bitflow/base/invariant.h"
#include "bitflow/base/text.h"
#include "bitflow/net/inherited.h"
#include "bitflow/net/socket.h"
#include "bitflow/proxy/admission.h"

uint64_t connection_next_id(void)
{
    static _Atomic uint64_t last;
    return atomic_fetch_add_explicit(&last, 1, memory_order_relaxed) + 1;
}

void connection_thread_name(char out[THREAD_NAME_SIZE], const char *proxy, uint64_t id, char role)
{
    // Ids past 13 digits lose their end; at a million connections a second that takes 115 days.
    char tail[1 + TEXT_DECIMAL_MAX + sizeof ">"];
    char *end = tail + 1 + TEXT_DECIMAL_MAX;
    end[0] = role;
    end[1] = '\0';
    char *begin = text_decimal(end, id, 1) - 1;
    *begin = '#';
    thread_name(out, proxy, begin);
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
    admission_drop(&(*connection)->admission);
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
                                   .is_client_plain = connection->client.tls == NULL,
                                   .watch = &watch,
                                   .context = &context};
    if (settings->enable_dual_stack)
        terms.preferred = family_of(client_address(&connection->client));
    if (settings->enable_proxy_header) {
        proxy_protocol_out_describe(&connection->client, settings, connection->id, id, &header);
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

static bool accepts_truncation(const struct tls_config *tls)
{
    return tls != NULL && tls->truncation == TLS_TRUNCATION_ACCEPT;
}

// Where tcp_user_timeout says how long is waited for an acknowledgement, the kernel sees to it.
static int64_t interval_to_watch(int64_t keepalive_interval, int64_t tcp_user_timeout)
{
    return tcp_user_timeout == 0 && keepalive_interval > 0 ? keepalive_interval : 0;
}

// What the silence before a rest is to last at least, and what is added for some connections, so that those that began
// together do not all rest at once.
#define REST_AFTER (3 * NS_PER_S)
#define REST_AFTER_SPREAD_MS 1024

static void begin_relay(struct connection *connection)
{
    const struct listener_config *listener = &connection->generation->settings->listener;
    const struct target_config *target = connection->upstream.target->settings;
    const struct dial_result *dialled = &connection->upstream.dialled;
    struct relay *relay = &connection->relay;
    phases_enter(&connection->phases, PHASE_RELAYING);
    connection_begin_records(connection);
    // A record that is being written may hold the end up.
    bool are_closed_next = connection->generation->periodic_records.interval <= 0;
    relay->sockets[RELAY_CLIENT].fd = connection->entry.client;
    relay->sockets[RELAY_CLIENT].is_closed_next = are_closed_next && !connection->client.is_inherited;
    relay->sockets[RELAY_CLIENT].is_own_tcp =
        endpoint_is_tcp(&connection->client.peer) && !connection->client.is_inherited;
    relay->sockets[RELAY_CLIENT].tls = connection->client.tls;
    relay->sockets[RELAY_CLIENT].accepts_truncation = accepts_truncation(listener->tls);
    relay->sockets[RELAY_CLIENT].read_timeout = listener->read_timeout;
    relay->sockets[RELAY_CLIENT].write_timeout = listener->write_timeout;
    relay->sockets[RELAY_CLIENT].keepalive_interval =
        interval_to_watch(listener->keepalive_interval, listener->tcp_user_timeout);
    relay->sockets[RELAY_TARGET].fd = connection->entry.target;
    relay->sockets[RELAY_TARGET].is_nonblocking = !dialled->is_lent;
    relay->sockets[RELAY_TARGET].is_closed_next = are_closed_next && !dialled->is_lent;
    relay->sockets[RELAY_TARGET].is_own_tcp = endpoint_is_tcp(&dialled->remote) && !dialled->is_lent;
    relay->sockets[RELAY_TARGET].is_unprepared = connection->upstream.is_unprepared;
    relay->sockets[RELAY_TARGET].tls = connection->upstream.tls;
    relay->sockets[RELAY_TARGET].accepts_truncation = accepts_truncation(target->tls);
    relay->sockets[RELAY_TARGET].read_timeout = target->read_timeout;
    relay->sockets[RELAY_TARGET].write_timeout = target->write_timeout;
    relay->sockets[RELAY_TARGET].keepalive_interval =
        interval_to_watch(target->keepalive_interval, target->tcp_user_timeout);
    relay->half_close_timeout = connection->generation->settings->half_close_timeout;
    relay->threads = connection->runtime->threads;
    relay->settled_reason = &connection->entry.settled_reason;
    relay->rest_after = REST_AFTER + (int64_t)(connection->id % REST_AFTER_SPREAD_MS) * NS_PER_MS;
    connection_thread_name(relay->second_thread_name, connection->generation->proxy->name, connection->id, '<');
}

// A relay that rests goes on on a new thread, which has touched nothing yet. False: it does, and the connection is that
// thread's.
static bool relay_target(struct connection *connection)
{
    while (!relay_run(&connection->relay, &connection->relay_result, &connection->failure))
        if (thread_pool_move(connection->runtime->threads, connection_serve, connection, NULL))
            return false;
    return true;
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

// Whether the client has come and gone without a byte of its own. Whoever waits for its first bytes, and the relay, say
// client_left of nobody else; while its target is dialled, nobody reads what a plain client sends.
static bool is_probe(const struct connection *connection)
{
    if (connection->failure.reason != CLOSE_CLIENT_LEFT)
        return false;
    return connection->phases.reached != PHASE_DIALLING ||
           (connection->client.tls == NULL && !socket_has_data(connection->client.fd));
}

// The clients see the end before the records are written: a slow disk delays no one but this thread.
__attribute__((noinline)) static void finish(struct connection *connection)
{
    struct runtime *runtime = connection->runtime;
    struct proxy *proxy = connection->generation->proxy;
    struct connection_sockets sockets;
    INVARIANT(has_reason(connection) && connection->failure.reason == settled_reason(connection));
    // Before anything changes that those records tell of.
    periodic_records_remove(runtime->periodic_records, &connection->periodic_record);
    connection->is_unlogged_probe = !connection->generation->settings->log_probes && is_probe(connection);
    bool is_logged = connection_is_logged(connection);
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

// Kept out of the frame that the relay stands on, as finish() is.
__attribute__((noinline)) static bool begin(struct connection *connection)
{
    connection_log_accepted(connection);
    connection_count_accepted(connection);
    if (!admit_client(connection) || !dial_target(connection))
        return false;
    begin_relay(connection);
    return true;
}

// False: the connection goes on on another thread.
static bool serve(struct connection *connection)
{
    char name[THREAD_NAME_SIZE];
    bool has_rested = connection->relay.rest != NULL;
    connection_thread_name(name, connection->generation->proxy->name, connection->id, '>');
    thread_set_name(name);
    if ((has_rested || begin(connection)) && !relay_target(connection))
        return false;
    finish(connection);
    return true;
}

void connection_serve(void *argument)
{
    struct connection *connection = argument;
    struct thread_pool *threads = connection->runtime->threads;
    struct admission *admission = connection->admission;
    for (;;) {
        if (!serve(connection) || admission == NULL)
            return;
        thread_pool_rest(threads);
        connection = admission_await(admission);
        if (connection == NULL)
            break;
        // Each connection has a reference of its own, which goes with it when it moves to another thread.
        admission_drop(&admission);
        admission = connection->admission;
        thread_pool_begin_task(threads, connection_serve, connection);
    }
    admission_drop(&admission);
}
