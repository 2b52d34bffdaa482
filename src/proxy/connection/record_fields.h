// Members that the records of the connection log and the view of live connections have in common. A text that is NULL,
// or empty, is not known, or was not sent: null. Whoever calls sees to it that nobody changes what is told. Any thread.

#ifndef BITFLOW_SRC_PROXY_CONNECTION_RECORD_FIELDS_H
#define BITFLOW_SRC_PROXY_CONNECTION_RECORD_FIELDS_H

#include "bitflow/telemetry/json_line.h"
#include "connection_internal.h"

static inline void record_text(struct json_line *line, const char *key, const char *value)
{
    json_line_text(line, key, value == NULL || *value == '\0' ? NULL : value);
}

// In ns; a negative one is not known.
static inline void record_known_time(struct json_line *line, const char *key, int64_t ns)
{
    if (ns < 0)
        json_line_null(line, key);
    else
        json_line_milliseconds(line, key, ns);
}

// An address as the configuration has it, without tcp://.
void record_address(struct json_line *line, const char *key, const struct address *address);

// The PROXY protocol's header that the client began with.
void record_header(struct json_line *line, const char *key, const struct client *client);

// Who the client is: by its certificate, or by the Unix socket that it came through.
void record_client_identity(struct json_line *line, const struct client *client, const struct tls_session *session);

// Likewise of the target, which only its certificate tells.
void record_target_identity(struct json_line *line, const struct tls_session *session);

// Of a side that is TLS (NULL: it is not); of the peer's certificate only what was verified.
void record_tls(struct json_line *line, const char *key, const struct tls_session *session,
                const struct relay_socket *socket);

// With SOCKS5, which of a name's addresses it is, the server knows; what was dialled is the server's.
void record_target(struct json_line *line, const char *key, const struct upstream *upstream);

void record_tcp(struct json_line *line, const char *key, const struct connection_sockets *sockets,
                enum relay_side side);

#endif
