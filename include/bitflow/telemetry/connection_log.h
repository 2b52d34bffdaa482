// The connection log: one JSON object a line for each connection that ended or was rejected, and, where that is asked
// for, for each that has reached its target, or still lives. docs/connection-log.schema.json describes them.
//
// A record is one write() to a descriptor opened with O_APPEND, so lines never mix, not even those of two proxies that
// share a file, or of another process. Nothing here ever waits: a file that takes nothing loses the record, which is
// counted and said in the application log. Logs are shared by path and reference count; any thread may write, without
// a lock: re-opening replaces the file behind the same descriptor (dup3).

#ifndef BITFLOW_TELEMETRY_CONNECTION_LOG_H
#define BITFLOW_TELEMETRY_CONNECTION_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/error.h"
#include "bitflow/net/tcp_facts.h"

// Of a leg that is TLS. What is NULL is not known, or was not sent; of the peer's certificate only what was verified.
struct connection_tls {
    const char *version;     // "TLSv1.3"
    const char *cipher;      // IANA's name
    const char *server_name; // SNI
    const char *protocol;    // ALPN
    const char *peer_subject;
    const char *peer_names; // SANs
    const char *peer_fingerprint;
    int64_t handshake_time;
};

// Of the PROXY protocol's header that a client began with.
struct connection_header {
    unsigned version;
    bool is_local;         // the sender spoke for itself
    const char *peer;      // who sent it, the socket's other end
    const char *authority; // NULL: none
    const char *unique_id; // NULL: none
};

// How long each phase took, or has taken so far: ns; 0: the connection did not come to it.
struct connection_timings {
    int64_t wait;          // for a worker
    int64_t admit;         // all before the target is chosen
    int64_t client_header; // the next three are parts of it
    int64_t client_hello;
    int64_t client_handshake;
    int64_t dial;    // with the pauses between attempts
    int64_t resolve; // the next four are parts of it, over all attempts
    int64_t connect;
    int64_t socks;
    int64_t target_handshake;
    int64_t relay;
    int64_t first_byte; // of the target, within the relay
};

enum connection_event {
    CONNECTION_ENDED,
    CONNECTION_REJECTED,  // it never got a worker; only what is known then is written
    CONNECTION_CONNECTED, // its target has answered
    CONNECTION_ACTIVE,    // it lives on
};

// Borrowed for the call. Times: ns; start and time on the wall clock.
struct connection_record {
    enum connection_event event;
    uint64_t id;
    const char *proxy;
    int64_t start;
    int64_t time;                                 // of the record; the end, where it is one
    const char *client;                           // endpoint_format()
    const char *local;                            // likewise; the address the client connected to
    const struct connection_header *proxy_header; // NULL: none came; else the two above are what it declares
    const char *sni;                         // the server name that the client asked for; NULL: none, or not looked at
    const struct connection_tls *client_tls; // NULL: plain, or no handshake was begun
    const struct connection_tls *target_tls; // likewise
    const struct tcp_facts *client_tcp;      // NULL: no TCP socket, or none any more
    const struct tcp_facts *target_tcp;      // likewise
    const char *target_name;                 // NULL: none was chosen
    const char *target_address;              // NULL: none was tried, or it has none
    const char *via;                         // the SOCKS5 server; NULL: none
    unsigned attempts;
    struct connection_timings timings;
    int64_t total_time;
    uint64_t bytes_from_client;
    uint64_t bytes_from_target;
    const char *phase;  // that it has come to
    const char *step;   // within the phase; NULL: none
    const char *reason; // NULL: it lives, like the next
    const char *ended_by;
    const char *error; // NULL: none
};

// A record as a line that is ready to be written. A record is bounded by the lengths of its parts; the room holds all
// but those of long certificates' names, which go to the heap.
#define CONNECTION_LINE_ROOM 4096
struct connection_line {
    char *text; // a newline, the object, a newline; NULL: no memory was left for it
    size_t length;
    char room[CONNECTION_LINE_ROOM];
};

void connection_line_init(struct connection_line *line, const struct connection_record *record);
void connection_line_release(struct connection_line *line);

struct connection_log;

// The log at `path`, opened or created (mode 0640), or one more reference if it is open already.
struct connection_log *connection_log_open(const char *path, struct error *error);

// Gives a reference back and nulls the pointer. Accepts NULL.
void connection_log_close(struct connection_log **log);

void connection_log_write(struct connection_log *log, const struct connection_record *record);
void connection_log_write_line(struct connection_log *log, const struct connection_line *line);

// Opens every log's path anew, as after a rotation. Where that fails the old file stays in use and the application log
// says so. Returns false if any failed.
bool connection_log_reopen_all(void);

// How many records no log has taken, of all logs since the start.
uint64_t connection_log_lost(void);

#endif
