// The one list of what is reported. It feeds the reports to statsd and to Prometheus, and the test that holds
// docs/metrics.md to it. Reports are in its order: of what goes to statsd durations alone are lost with a datagram that
// does not arrive, so they come last.

#ifndef BITFLOW_SRC_SERVER_METRIC_NAMES_H
#define BITFLOW_SRC_SERVER_METRIC_NAMES_H

#include "bitflow/telemetry/prometheus.h"

// X(constant, pattern (telemetry/metric.h), type, unit, help)
#define METRIC_NAMES(X)                                                                                                \
    X(METRIC_THREADS_BUSY, "threads.busy", "gauge", "threads", "Threads that serve connections: one or two each.")     \
    X(METRIC_THREADS_PARKED, "threads.parked", "gauge", "threads", "Threads that wait for the next connection.")       \
    X(METRIC_CPU_USER, "process.cpu.user", "counter", "ms", "CPU time in the program itself.")                         \
    X(METRIC_CPU_SYSTEM, "process.cpu.system", "counter", "ms", "CPU time in the kernel.")                             \
    X(METRIC_MEMORY, "process.memory.resident", "gauge", "bytes", "Memory in use.")                                    \
    X(METRIC_DESCRIPTORS, "process.descriptors.open", "gauge", "descriptors",                                          \
      "Files, sockets and pipes that are "                                                                             \
      "open.")                                                                                                         \
    X(METRIC_DESCRIPTOR_LIMIT, "process.descriptors.limit", "gauge", "descriptors", "How many may be open.")           \
    X(METRIC_PROCESS_THREADS, "process.threads", "gauge", "threads", "All threads of the process.")                    \
    X(METRIC_UPTIME, "process.uptime", "gauge", "s", "Time since the start.")                                          \
    X(METRIC_CONFIG_RELOAD_SUCCESSFUL, "config.last_reload.successful", "gauge", "0 or 1",                             \
      "Whether the last reload of the configuration was put in force; 1 before the first one.")                        \
    X(METRIC_CONFIG_RELOAD_TIME, "config.last_reload.success_timestamp", "gauge", "s",                                 \
      "Unix time of the last reload of the configuration that was put in force; of the start before.")                 \
    X(METRIC_CERTIFICATES_RELOAD_SUCCESSFUL, "certificates.last_reload.successful", "gauge", "0 or 1",                 \
      "Whether the last reload of certificates was put in force; 1 before the first one.")                             \
    X(METRIC_CERTIFICATES_RELOAD_TIME, "certificates.last_reload.success_timestamp", "gauge", "s",                     \
      "Unix time of the last reload of certificates that was put in force; of the start before.")                      \
    X(METRIC_DROPPED_DATAGRAMS, "telemetry.dropped.datagrams", "counter", "datagrams",                                 \
      "Datagrams that did not go to the statsd server.")                                                               \
    X(METRIC_DROPPED_TIMINGS, "telemetry.dropped.timings", "counter", "durations",                                     \
      "Durations that were in datagrams that did not go to the statsd server.")                                        \
    X(METRIC_DROPPED_RECORDS, "telemetry.dropped.connection_records", "counter", "records",                            \
      "Records that could not be written to a connection log.")                                                        \
    X(METRIC_DROPPED_LOG_LINES, "telemetry.dropped.log_lines", "counter", "lines",                                     \
      "Lines of the application log that stderr did not take.")                                                        \
    X(METRIC_DROPPED_SENTRY_EVENTS, "telemetry.dropped.sentry_events", "counter", "events",                            \
      "Errors that could not be reported to Sentry.")                                                                  \
    X(METRIC_ACCEPTED, "proxy.{proxy}.connections.accepted", "counter", "connections",                                 \
      "Clients that were let in, and got a thread.")                                                                   \
    X(METRIC_REJECTED, "proxy.{proxy}.connections.rejected.{reason}", "counter", "connections",                        \
      "Clients that were turned away at the door.")                                                                    \
    X(METRIC_ACTIVE, "proxy.{proxy}.connections.active", "gauge", "connections", "Connections that live.")             \
    X(METRIC_CLOSED, "proxy.{proxy}.connections.closed.{reason}", "counter", "connections",                            \
      "Connections that have ended, by the reason.")                                                                   \
    X(METRIC_BYTES_FROM_CLIENT, "proxy.{proxy}.bytes.from_client", "counter", "bytes",                                 \
      "Bytes read from clients and given to targets, without what TLS adds.")                                          \
    X(METRIC_BYTES_FROM_TARGET, "proxy.{proxy}.bytes.from_target", "counter", "bytes",                                 \
      "Bytes read from targets and given to clients, without what TLS adds.")                                          \
    X(METRIC_HANDSHAKE_FAILED, "proxy.{proxy}.handshakes.failed.{cause}", "counter", "handshakes",                     \
      "TLS handshakes with clients that failed, by the cause.")                                                        \
    X(METRIC_CERTIFICATE, "proxy.{proxy}.certificate.days_left", "gauge", "days",                                      \
      "Time until the first of the listener's own certificates expires, its chain included; 0 once it has.")           \
    X(METRIC_DIALS, "proxy.{proxy}.target.{target}.dials.attempted", "counter", "attempts",                            \
      "Attempts to connect to the target.")                                                                            \
    X(METRIC_DIALS_FAILED, "proxy.{proxy}.target.{target}.dials.failed.{cause}", "counter", "attempts",                \
      "Attempts to connect to the target that failed, by the reason that the connection would end for.")               \
    X(METRIC_TARGET_HANDSHAKE_FAILED, "proxy.{proxy}.target.{target}.handshakes.failed.{cause}", "counter",            \
      "handshakes", "TLS handshakes with the target that failed, by the cause.")                                       \
    X(METRIC_TARGET_CERTIFICATE, "proxy.{proxy}.target.{target}.certificate.days_left", "gauge", "days",               \
      "Time until the first of the certificates that the target is shown expires, its chain included; 0 once it has.") \
    X(METRIC_TIME_RESOLVE, "proxy.{proxy}.time.resolve", "timer", "ms",                                                \
      "Looking up the target's name, where there was one to look up.")                                                 \
    X(METRIC_TIME_CONNECT, "proxy.{proxy}.time.connect", "timer", "ms",                                                \
      "Connecting to the target, over all attempts; of connections whose target answered.")                            \
    X(METRIC_TIME_CLIENT_HANDSHAKE, "proxy.{proxy}.time.client_handshake", "timer", "ms",                              \
      "The client's TLS handshake; of connections whose target answered.")                                             \
    X(METRIC_TIME_TARGET_HANDSHAKE, "proxy.{proxy}.time.target_handshake", "timer", "ms",                              \
      "The target's TLS handshake; of connections whose target answered.")                                             \
    X(METRIC_TIME_FIRST_BYTE, "proxy.{proxy}.time.first_byte", "timer", "ms",                                          \
      "From the moment the target was connected to until its first byte was given to the client.")                     \
    X(METRIC_TIME_LIFETIME, "proxy.{proxy}.time.lifetime", "timer", "ms",                                              \
      "Of a connection, from the accept to the end.")

#define METRIC_CONSTANT(constant, pattern, type, unit, help) constant,
enum metric { METRIC_NAMES(METRIC_CONSTANT) METRIC_COUNT };
#undef METRIC_CONSTANT

struct metric_kind {
    const char *pattern;
    const char *type;
    const char *unit;
    const char *help;
};

const struct metric_kind *metric_kind(enum metric metric);

// What Prometheus calls it, and of which type it is there.
enum prometheus_type metric_prometheus_type(enum metric metric);
void metric_prometheus_name(enum metric metric, char out[PROMETHEUS_NAME_SIZE]);

#endif
