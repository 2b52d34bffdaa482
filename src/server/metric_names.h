// The one list of what is reported. It feeds the reports, and the test that holds docs/metrics.md to it.

#ifndef BITFLOW_SRC_SERVER_METRIC_NAMES_H
#define BITFLOW_SRC_SERVER_METRIC_NAMES_H

// X(constant, pattern (telemetry/statsd_batch.h), type, unit)
#define METRIC_NAMES(X)                                                                                     \
    X(METRIC_ACCEPTED, "proxy.{proxy}.connections.accepted", "counter", "connections")                      \
    X(METRIC_REJECTED, "proxy.{proxy}.connections.rejected.{reason}", "counter", "connections")             \
    X(METRIC_ACTIVE, "proxy.{proxy}.connections.active", "gauge", "connections")                            \
    X(METRIC_CLOSED, "proxy.{proxy}.connections.closed.{reason}", "counter", "connections")                 \
    X(METRIC_BYTES_FROM_CLIENT, "proxy.{proxy}.bytes.from_client", "counter", "bytes")                      \
    X(METRIC_BYTES_FROM_TARGET, "proxy.{proxy}.bytes.from_target", "counter", "bytes")                      \
    X(METRIC_HANDSHAKE_FAILED, "proxy.{proxy}.handshakes.failed.{cause}", "counter", "handshakes")          \
    X(METRIC_CERTIFICATE, "proxy.{proxy}.certificate.days_left", "gauge", "days")                           \
    X(METRIC_DIALS, "proxy.{proxy}.target.{target}.dials.attempted", "counter", "attempts")                 \
    X(METRIC_DIALS_FAILED, "proxy.{proxy}.target.{target}.dials.failed.{cause}", "counter", "attempts")     \
    X(METRIC_TARGET_HANDSHAKE_FAILED, "proxy.{proxy}.target.{target}.handshakes.failed.{cause}", "counter", \
      "handshakes")                                                                                         \
    X(METRIC_TARGET_CERTIFICATE, "proxy.{proxy}.target.{target}.certificate.days_left", "gauge", "days")    \
    X(METRIC_TIME_RESOLVE, "proxy.{proxy}.time.resolve", "timer", "ms")                                     \
    X(METRIC_TIME_CONNECT, "proxy.{proxy}.time.connect", "timer", "ms")                                     \
    X(METRIC_TIME_CLIENT_HANDSHAKE, "proxy.{proxy}.time.client_handshake", "timer", "ms")                   \
    X(METRIC_TIME_TARGET_HANDSHAKE, "proxy.{proxy}.time.target_handshake", "timer", "ms")                   \
    X(METRIC_TIME_FIRST_BYTE, "proxy.{proxy}.time.first_byte", "timer", "ms")                               \
    X(METRIC_TIME_LIFETIME, "proxy.{proxy}.time.lifetime", "timer", "ms")                                   \
    X(METRIC_THREADS_BUSY, "threads.busy", "gauge", "threads")                                              \
    X(METRIC_THREADS_PARKED, "threads.parked", "gauge", "threads")                                          \
    X(METRIC_CPU_USER, "process.cpu.user", "counter", "ms")                                                 \
    X(METRIC_CPU_SYSTEM, "process.cpu.system", "counter", "ms")                                             \
    X(METRIC_MEMORY, "process.memory.resident", "gauge", "bytes")                                           \
    X(METRIC_DESCRIPTORS, "process.descriptors.open", "gauge", "descriptors")                               \
    X(METRIC_DESCRIPTOR_LIMIT, "process.descriptors.limit", "gauge", "descriptors")                         \
    X(METRIC_PROCESS_THREADS, "process.threads", "gauge", "threads")                                        \
    X(METRIC_UPTIME, "process.uptime", "gauge", "s")                                                        \
    X(METRIC_DROPPED_DATAGRAMS, "telemetry.dropped.datagrams", "counter", "datagrams")                      \
    X(METRIC_DROPPED_TIMINGS, "telemetry.dropped.timings", "counter", "durations")                          \
    X(METRIC_DROPPED_RECORDS, "telemetry.dropped.connection_records", "counter", "records")                 \
    X(METRIC_DROPPED_LOG_LINES, "telemetry.dropped.log_lines", "counter", "lines")                          \
    X(METRIC_DROPPED_SENTRY_EVENTS, "telemetry.dropped.sentry_events", "counter", "events")

#define METRIC_CONSTANT(constant, pattern, type, unit) constant,
enum metric { METRIC_NAMES(METRIC_CONSTANT) METRIC_COUNT };
#undef METRIC_CONSTANT

struct metric_kind {
    const char *pattern;
    const char *type;
    const char *unit;
};

const struct metric_kind *metric_kind(enum metric metric);

#endif
