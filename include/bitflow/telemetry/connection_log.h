// The connection log: one JSON object a line for each connection that ended or was rejected (jansson).
//
// A record is one write() to a descriptor opened with O_APPEND, so lines never mix, not even those of two proxies that
// share a file, or of another process. Nothing here ever waits: a file that takes nothing loses the record, which is
// counted and said in the application log. Logs are shared by path and reference count; any thread may write, without
// a lock: re-opening replaces the file behind the same descriptor (dup3).

#ifndef BITFLOW_TELEMETRY_CONNECTION_LOG_H
#define BITFLOW_TELEMETRY_CONNECTION_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "bitflow/base/error.h"

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

// Borrowed for the call. Times: ns; start and end on the wall clock.
struct connection_record {
    bool is_rejected; // it never got a worker; only what is known then is written
    uint64_t id;
    const char *proxy;
    int64_t start;
    int64_t end;
    const char *client;                           // endpoint_format()
    const char *local;                            // likewise; the address the client connected to
    const struct connection_header *proxy_header; // NULL: none came; else the two above are what it declares
    const char *sni;                         // the server name that the client asked for; NULL: none, or not looked at
    const struct connection_tls *client_tls; // NULL: plain, or no handshake was begun
    const struct connection_tls *target_tls; // likewise
    const char *target_name;                 // NULL: none was chosen
    const char *target_address;              // NULL: none was tried, or it has none
    const char *via;                         // the SOCKS5 server; NULL: none
    unsigned attempts;
    int64_t resolve_time;
    int64_t connect_time;
    int64_t total_time;
    uint64_t bytes_from_client;
    uint64_t bytes_from_target;
    const char *reason;
    const char *ended_by;
    const char *error; // NULL: none
};

struct connection_log;

// The log at `path`, opened or created (mode 0640), or one more reference if it is open already.
struct connection_log *connection_log_open(const char *path, struct error *error);

// One more reference; accepts and returns NULL.
struct connection_log *connection_log_hold(struct connection_log *log);

// Gives a reference back and nulls the pointer. Accepts NULL.
void connection_log_close(struct connection_log **log);

void connection_log_write(struct connection_log *log, const struct connection_record *record);

// Opens every log's path anew, as after a rotation. Where that fails the old file stays in use and the application log
// says so. Returns false if any failed.
bool connection_log_reopen_all(void);

#endif
