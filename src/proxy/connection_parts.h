// What a connection is made of, for its story (connection.c) and for what is said of it (connection_record.c).

#ifndef BITFLOW_SRC_PROXY_CONNECTION_PARTS_H
#define BITFLOW_SRC_PROXY_CONNECTION_PARTS_H

#include "bitflow/net/tcp_facts.h"
#include "bitflow/proxy/connection.h"
#include "bitflow/relay/relay.h"
#include "ingress.h"
#include "upstream.h"

// What has been counted of it already. Under the registry's lock while the connection is in there.
struct connection_reported {
    uint64_t bytes[2]; // by enum relay_side
    bool has_first_byte;
};

struct connection {
    uint64_t id;
    struct runtime *runtime;
    struct generation *generation;
    _Atomic(enum connection_stage) stage;
    struct client client;
    struct registry_entry entry; // client socket, target socket, reason, lifetime
    struct report_entry report;
    int64_t start_wall;
    // CLOCK_MONOTONIC; 0: it did not come to that. Durations of them: connection_timings_of().
    int64_t start;
    int64_t served;      // a worker took it over
    int64_t admitted;    // dialling began
    int64_t relay_start; // the target had answered
    int64_t ended;       // closing began
    struct ingress ingress;
    struct upstream upstream;
    struct relay relay;
    struct relay_result relayed;
    struct connection_reported reported;
    struct error error;
};

// The two ends of the client's connection: as it was declared, or else the socket's.
struct connection_ends {
    struct endpoint client;
    struct endpoint local; // where the client connected to
};

// The first of them.
const struct endpoint *connection_client(const struct connection *connection);

// The client's socket is open.
void connection_ends_of(const struct connection *connection, struct connection_ends *ends);

// The family that the client came by; ADDRESS_ANY: no IP.
enum address_family connection_family(const struct connection_ends *ends);

#define CONNECTION_ID_SIZE sizeof "18446744073709551615"
// What is told to a target; the texts are borrowed from the connection and from `id`, which is filled.
void connection_describe(const struct connection *connection, const struct connection_ends *ends,
                         char id[CONNECTION_ID_SIZE], struct proxy_header *header);

struct log_context connection_log_context(const struct connection *connection);

// What must be asked for while the sockets are open.
struct socket_facts {
    char client[ENDPOINT_TEXT_SIZE];
    char local[ENDPOINT_TEXT_SIZE];
    struct tcp_facts tcp[2]; // by enum relay_side
    bool has_tcp[2];
};

// What the connection log does not need is left out where there is none.
void connection_socket_facts(const struct connection *connection, struct socket_facts *facts);

// How long each phase took, or has taken until `now` (clock_now()). Returns the connection's age.
int64_t connection_timings_of(const struct connection *connection, int64_t now, struct connection_timings *timings);

// The phase that the connection is in, or ended in, as the records call it, and the step within it; NULL: none.
const char *connection_phase(const struct connection *connection, const char **step);

// For the metrics: a worker has it, its target has answered, it has left the registry.
void connection_count_accepted(const struct connection *connection);
void connection_count_connected(const struct connection *connection);
void connection_count_closed(struct connection *connection);
void connection_count_rejected(const struct generation *generation, enum close_reason reason);

// Lines of the application log, at level debug.
void connection_log_accepted(const struct connection *connection);
void connection_log_connected(const struct connection *connection);

// Before the relay: the record of the target's answer, where it is wanted, and the place among those that are reported
// from time to time.
void connection_begin_records(struct connection *connection);

// Whether a record of the connection's end would be written anywhere.
bool connection_is_logged(const struct connection *connection);

// The end, in both logs. The sockets are closed already.
void connection_write_records(struct connection *connection, const struct socket_facts *facts);

#endif
