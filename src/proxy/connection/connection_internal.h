// What a connection is made of, for its story (connection.c), for what is said of it (connection_record.c) and for what
// is counted of it (connection_metrics.c).

#ifndef BITFLOW_SRC_PROXY_CONNECTION_CONNECTION_INTERNAL_H
#define BITFLOW_SRC_PROXY_CONNECTION_CONNECTION_INTERNAL_H

#include "../upstream/upstream.h"
#include "bitflow/net/tcp_path_info.h"
#include "bitflow/proxy/connection.h"
#include "bitflow/relay/relay.h"
#include "phases.h"

// What has been counted of it already. Under the registry's lock while the connection is in there.
struct connection_reported {
    uint64_t bytes[2]; // by enum relay_side
    bool has_first_byte;
};

struct connection {
    uint64_t id;
    struct runtime *runtime;
    struct generation *generation;
    struct admission *admission; // by which it came in; NULL: by none that others come by
    int64_t start_wall;
    struct phases phases;
    struct client client;
    struct upstream upstream;
    struct relay relay;
    struct relay_result relay_result;
    struct failure failure;      // the thread's own; once it has ended, the reason is the one that stands
    struct registry_entry entry; // client socket, target socket, the reason that stands, lifetime
    struct periodic_record periodic_record;
    struct connection_reported reported;
    // One of its records was written while it lived. Until periodic_records_remove() whoever writes them sets it.
    bool has_record;
    bool is_unlogged_probe; // once it has ended: it was a probe, and those are not to be logged
};

struct log_context connection_log_context(const struct connection *connection);

// For the metrics: a worker has it, its target has answered, it has left the registry.
void connection_count_accepted(const struct connection *connection);
void connection_count_connected(const struct connection *connection);
void connection_count_closed(struct connection *connection);
void connection_count_rejected(const struct generation *generation, enum close_reason reason);

// Lines of the application log, at level debug.
void connection_log_accepted(const struct connection *connection);
void connection_log_connected(const struct connection *connection);

// What a record tells of the sockets, which must be asked while they are open, and when.
struct connection_sockets {
    char client[ENDPOINT_TEXT_SIZE];
    char local[ENDPOINT_TEXT_SIZE];
    struct tcp_path_info tcp[2]; // by enum relay_side; only the connection log wants it
    bool has_tcp[2];
};

void connection_look_at_sockets(const struct connection *connection, struct connection_sockets *sockets);

enum connection_event {
    CONNECTION_ENDED,
    CONNECTION_REJECTED,  // it never got a worker; only what is known then is written
    CONNECTION_CONNECTED, // its target has answered
    CONNECTION_ACTIVE,    // it lives on
};

// A record of the connection log. `now` and `wall`: when (clock_now(), clock_wall()). The line is to be released.
void connection_record_render(const struct connection *connection, enum connection_event event,
                              const struct connection_sockets *sockets, int64_t now, int64_t wall,
                              struct json_line *line);

// Before the relay: the record of the target's answer, where it is wanted, and the place among those that are reported
// from time to time.
void connection_begin_records(struct connection *connection);

// Whether a record of the connection's end would be written anywhere. A connection log that has another record of it
// has that of its end, too.
bool connection_is_logged(const struct connection *connection);

// The end, in both logs. The sockets are closed already.
void connection_write_records(const struct connection *connection, const struct connection_sockets *sockets);

#endif
