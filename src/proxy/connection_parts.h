// What a connection is made of, for its story (connection.c) and for what is said of it (connection_record.c).

#ifndef BITFLOW_SRC_PROXY_CONNECTION_PARTS_H
#define BITFLOW_SRC_PROXY_CONNECTION_PARTS_H

#include "bitflow/proxy/connection.h"
#include "bitflow/proxy/egress.h"
#include "bitflow/proxy/ingress.h"
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
    struct ingress ingress;
    struct egress egress;
    struct relay relay;
    struct relay_result relayed;
    struct error error;
};

struct log_context connection_log_context(const struct connection *connection);

// Two addresses that must be asked for while the sockets are open.
struct socket_names {
    char peer[ENDPOINT_TEXT_SIZE];
    char local[ENDPOINT_TEXT_SIZE];
};

void socket_names_of(struct socket_names *names, const struct client *client);

// Lines of the application log, at level debug.
void connection_log_accepted(const struct connection *connection);
void connection_log_connected(const struct connection *connection);

// Whether a record of the connection's end would be written anywhere.
bool connection_is_logged(const struct connection *connection);

// The end, in both logs. The sockets are closed already.
void connection_write_records(struct connection *connection, const struct socket_names *names);

#endif
