// The one list of ways in which a connection ends. It feeds the enum, the connection log and the application log.
// close_reason_settle() is the only function that gives a connection its reason.

#ifndef BITFLOW_RELAY_CLOSE_REASON_H
#define BITFLOW_RELAY_CLOSE_REASON_H

#include <stdatomic.h>
#include <stdbool.h>

#include "bitflow/base/error.h"
#include "bitflow/base/log.h"

enum ended_by { ENDED_BY_CLIENT, ENDED_BY_TARGET, ENDED_BY_PROXY };

// X(constant, name in logs, who ended it, level in the application log, text for people)
// LOG_ERROR is what operators must see to.
// CLOSE_COMPLETED is ended by whichever side finished first, which the relay tells.
#define CLOSE_REASONS(X)                                                                                              \
    X(CLOSE_COMPLETED, "completed", ENDED_BY_CLIENT, LOG_INFO, "both sides finished")                                 \
    X(CLOSE_CLIENT_RESET, "client_reset", ENDED_BY_CLIENT, LOG_INFO, "the client reset the connection")               \
    X(CLOSE_TARGET_RESET, "target_reset", ENDED_BY_TARGET, LOG_ERROR, "the target reset the connection")              \
    X(CLOSE_TARGET_RESET_AT_END, "target_reset_at_end", ENDED_BY_TARGET, LOG_INFO,                                    \
      "the target answered the client's end by a reset")                                                              \
    X(CLOSE_CLIENT_LOST, "client_lost", ENDED_BY_CLIENT, LOG_INFO, "the client is no longer reachable")               \
    X(CLOSE_TARGET_LOST, "target_lost", ENDED_BY_TARGET, LOG_ERROR, "the target is no longer reachable")              \
    X(CLOSE_CLIENT_READ_TIMEOUT, "client_read_timeout", ENDED_BY_PROXY, LOG_INFO, "nothing came from the client")     \
    X(CLOSE_CLIENT_WRITE_TIMEOUT, "client_write_timeout", ENDED_BY_PROXY, LOG_INFO, "the client takes no more data")  \
    X(CLOSE_TARGET_READ_TIMEOUT, "target_read_timeout", ENDED_BY_PROXY, LOG_ERROR, "nothing came from the target")    \
    X(CLOSE_TARGET_WRITE_TIMEOUT, "target_write_timeout", ENDED_BY_PROXY, LOG_ERROR, "the target takes no more data") \
    X(CLOSE_HALF_CLOSE_TIMEOUT, "half_close_timeout", ENDED_BY_PROXY, LOG_INFO,                                       \
      "one side had ended, and nothing more came from the other")                                                     \
    X(CLOSE_CLIENT_TRUNCATED, "client_truncated", ENDED_BY_CLIENT, LOG_INFO,                                          \
      "the client's stream was cut: it ended without TLS's close_notify")                                             \
    X(CLOSE_TARGET_TRUNCATED, "target_truncated", ENDED_BY_TARGET, LOG_INFO,                                          \
      "the target's stream was cut: it ended without TLS's close_notify")                                             \
    X(CLOSE_CLIENT_TLS_ERROR, "client_tls_error", ENDED_BY_CLIENT, LOG_INFO, "the client's TLS failed")               \
    X(CLOSE_TARGET_TLS_ERROR, "target_tls_error", ENDED_BY_TARGET, LOG_ERROR, "the target's TLS failed")              \
    X(CLOSE_PROXY_HEADER_INVALID, "proxy_header_invalid", ENDED_BY_CLIENT, LOG_INFO,                                  \
      "the client did not begin with a PROXY protocol header")                                                        \
    X(CLOSE_PROXY_HEADER_TIMEOUT, "proxy_header_timeout", ENDED_BY_PROXY, LOG_INFO,                                   \
      "the client's PROXY protocol header took too long")                                                             \
    X(CLOSE_CLIENT_HANDSHAKE_FAILED, "client_handshake_failed", ENDED_BY_CLIENT, LOG_INFO,                            \
      "the client's TLS handshake failed")                                                                            \
    X(CLOSE_CLIENT_HANDSHAKE_TIMEOUT, "client_handshake_timeout", ENDED_BY_PROXY, LOG_INFO,                           \
      "the client's TLS handshake took too long")                                                                     \
    X(CLOSE_TARGET_HANDSHAKE_FAILED, "target_handshake_failed", ENDED_BY_TARGET, LOG_ERROR,                           \
      "the target's TLS handshake failed")                                                                            \
    X(CLOSE_TARGET_HANDSHAKE_TIMEOUT, "target_handshake_timeout", ENDED_BY_PROXY, LOG_ERROR,                          \
      "the target's TLS handshake took too long")                                                                     \
    X(CLOSE_UNRECOGNIZED_NAME, "unrecognized_name", ENDED_BY_PROXY, LOG_INFO,                                         \
      "no target or no certificate has the server name of the client's TLS handshake")                                \
    X(CLOSE_SNI_UNMATCHED, "sni_unmatched", ENDED_BY_PROXY, LOG_INFO,                                                 \
      "no target has the server name that the client asks for")                                                       \
    X(CLOSE_NAME_NOT_AUTHORIZED, "name_not_authorized", ENDED_BY_PROXY, LOG_WARN,                                     \
      "the client's certificate has none of the authorized names")                                                    \
    X(CLOSE_LIFETIME, "lifetime", ENDED_BY_PROXY, LOG_INFO, "the connection's lifetime is over")                      \
    X(CLOSE_DRAIN, "drain", ENDED_BY_PROXY, LOG_INFO, "the proxy is shutting down")                                   \
    X(CLOSE_ENDED_BY_OPERATOR, "ended_by_operator", ENDED_BY_PROXY, LOG_INFO, "an operator ended the connection")     \
    X(CLOSE_CLIENT_LEFT, "client_left", ENDED_BY_CLIENT, LOG_INFO, "the client left before anything was relayed")     \
    X(CLOSE_RESOLVE_FAILED, "resolve_failed", ENDED_BY_PROXY, LOG_ERROR, "the target's name has no address")          \
    X(CLOSE_CONNECT_REFUSED, "connect_refused", ENDED_BY_TARGET, LOG_ERROR, "the target refused the connection")      \
    X(CLOSE_CONNECT_TIMEOUT, "connect_timeout", ENDED_BY_PROXY, LOG_ERROR, "the target did not answer in time")       \
    X(CLOSE_CONNECT_FAILED, "connect_failed", ENDED_BY_PROXY, LOG_ERROR, "the target cannot be reached")              \
    X(CLOSE_SOCKS_AUTH_FAILED, "socks_auth_failed", ENDED_BY_TARGET, LOG_ERROR,                                       \
      "the SOCKS5 server did not accept the credentials")                                                             \
    X(CLOSE_SOCKS_REFUSED, "socks_refused", ENDED_BY_TARGET, LOG_ERROR, "the SOCKS5 server refused the target")       \
    X(CLOSE_SOCKS_FAILED, "socks_failed", ENDED_BY_TARGET, LOG_ERROR, "the SOCKS5 server did not answer as one")      \
    X(CLOSE_SOCKS_TIMEOUT, "socks_timeout", ENDED_BY_PROXY, LOG_ERROR, "the SOCKS5 server did not answer in time")    \
    X(CLOSE_PROXY_SOURCE_NOT_TRUSTED, "proxy_source_not_trusted", ENDED_BY_PROXY, LOG_WARN,                           \
      "the client's address is not trusted to send a PROXY protocol header")                                          \
    X(CLOSE_SOURCE_NOT_AUTHORIZED, "source_not_authorized", ENDED_BY_PROXY, LOG_WARN,                                 \
      "the client's address is not allowed")                                                                          \
    X(CLOSE_PEER_NOT_AUTHORIZED, "peer_not_authorized", ENDED_BY_PROXY, LOG_WARN,                                     \
      "the client's user and groups are not allowed")                                                                 \
    X(CLOSE_SOURCE_CONNECTION_LIMIT, "source_connection_limit", ENDED_BY_PROXY, LOG_WARN,                             \
      "the client's source has as many connections as it may")                                                        \
    X(CLOSE_SOURCE_CONNECTION_RATE, "source_connection_rate", ENDED_BY_PROXY, LOG_WARN,                               \
      "the client's source makes connections faster than it may")                                                     \
    X(CLOSE_CONNECTION_LIMIT, "connection_limit", ENDED_BY_PROXY, LOG_ERROR, "the connection limit is reached")       \
    X(CLOSE_OUT_OF_DESCRIPTORS, "out_of_descriptors", ENDED_BY_PROXY, LOG_ERROR, "out of file descriptors")           \
    X(CLOSE_OUT_OF_PORTS, "out_of_ports", ENDED_BY_PROXY, LOG_ERROR, "out of local ports")                            \
    X(CLOSE_OUT_OF_THREADS, "out_of_threads", ENDED_BY_PROXY, LOG_ERROR, "out of threads")                            \
    X(CLOSE_OUT_OF_MEMORY, "out_of_memory", ENDED_BY_PROXY, LOG_ERROR, "out of memory")

#define CLOSE_REASON_CONSTANT(constant, name, by, level, text) constant,
enum close_reason { CLOSE_NONE, CLOSE_REASONS(CLOSE_REASON_CONSTANT) CLOSE_REASON_COUNT };
#undef CLOSE_REASON_CONSTANT

// How a stage of a connection failed: filled where it happens, and passed on by every stage alike.
struct failure {
    enum close_reason reason; // CLOSE_NONE: it did not
    struct error error;       // ERROR_NONE: the reason says it all
};

// What a stage returns that failed: false. Its error is set already.
static inline bool failed_with(struct failure *failure, enum close_reason reason)
{
    if (failure->reason == CLOSE_NONE)
        failure->reason = reason;
    return false;
}

// Whoever ends a connection first gives it its reason: false, and nothing has changed, where it has one. Any thread.
bool close_reason_settle(_Atomic(enum close_reason) *settled, enum close_reason reason);

// The reason where we have run out of something (descriptors, ports, threads, memory); CLOSE_NONE for any other error.
enum close_reason close_reason_of_shortage(enum error_code code);

const char *close_reason_name(enum close_reason reason);
const char *close_reason_text(enum close_reason reason);
enum ended_by close_reason_ended_by(enum close_reason reason);
enum log_level close_reason_level(enum close_reason reason);
const char *ended_by_name(enum ended_by by);

#endif
