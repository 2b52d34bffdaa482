// Which phases a connection went through and how long each took, for the connection log.

#include <stdatomic.h>

#include "connection_parts.h"

// At least 1: what was come to is told from what was not, however coarse the clock is.
static int64_t between(int64_t begin, int64_t end)
{
    return end > begin ? end - begin : 1;
}

// From one point to the next that was reached; `now` if none was yet.
static int64_t lasted(int64_t begin, int64_t end, int64_t now)
{
    return begin == 0 ? 0 : between(begin, end != 0 ? end : now);
}

static int64_t first_of(int64_t one, int64_t other)
{
    return one != 0 ? one : other;
}

int64_t connection_timings_of(const struct connection *connection, int64_t now, struct connection_timings *timings)
{
    const struct ingress *ingress = &connection->ingress;
    const struct upstream *upstream = &connection->upstream;
    const int64_t ended = connection->ended;
    int64_t first_byte = atomic_load_explicit(&connection->relay.first_byte, memory_order_relaxed);
    *timings = (struct connection_timings){
        .wait = lasted(connection->start, first_of(connection->served, ended), now),
        .admit = lasted(connection->served, first_of(connection->admitted, ended), now),
        .client_header = ingress->proxy_header_time,
        .client_hello = ingress->client_hello_time,
        .client_handshake = ingress->tls == NULL ? 0 : ingress->tls->info.handshake_time,
        .dial = lasted(connection->admitted, first_of(connection->relay_start, ended), now),
        .resolve = upstream->resolve_time,
        .connect = upstream->connect_time,
        .socks = upstream->socks_time,
        .target_handshake = upstream->handshake_time,
        .relay = lasted(connection->relay_start, ended, now),
        .first_byte = first_byte == 0 ? 0 : between(connection->relay_start, first_byte),
    };
    return lasted(connection->start, ended, now);
}

static const char *step_of_ingress(const struct ingress *ingress)
{
    static const char *const names[] = {[INGRESS_NONE] = NULL,
                                        [INGRESS_PROXY_HEADER] = "proxy_header",
                                        [INGRESS_CLIENT_HELLO] = "client_hello",
                                        [INGRESS_TLS] = "tls_handshake"};
    return names[ingress->step];
}

// Of the last attempt, also in the pause that follows it.
static const char *step_of_upstream(const struct upstream *upstream)
{
    if (upstream->attempts == 0)
        return NULL;
    if (upstream->dialled.fd >= 0) // all steps are done: await_first_byte()
        return "first_byte";
    switch (upstream->step) {
    case UPSTREAM_DIAL:
        return upstream->dialled.remote.length == 0 && upstream->dialled.resolve_time > 0 ? "resolve" : "connect";
    case UPSTREAM_SOCKS:
        return "socks";
    case UPSTREAM_HEADER:
        return "proxy_header";
    case UPSTREAM_TLS:
        return "tls_handshake";
    }
    return NULL;
}

const char *connection_phase(const struct connection *connection, const char **step)
{
    *step = NULL;
    if (connection->relay_start != 0)
        return "relaying";
    if (connection->admitted != 0) {
        *step = step_of_upstream(&connection->upstream);
        return "dialling";
    }
    *step = step_of_ingress(&connection->ingress);
    return "admitting";
}
