// The configuration as plain immutable structs: the result of config_load(), shared by reference count. A connection
// holds the snapshot it began with; a reload builds a new one. Everything in a snapshot lives as long as the snapshot
// and is never written after config_load() has returned it, so any thread may read it without a lock.
//
// Durations are ns, 0 = none. Strings are never NULL unless said so. The keys' meanings are in the README's table.

#ifndef BITFLOW_CONFIG_CONFIG_H
#define BITFLOW_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/log.h"
#include "bitflow/base/thread.h"
#include "bitflow/config/mark.h"
#include "bitflow/net/address.h"
#include "bitflow/net/cidr.h"

enum verify_mode { VERIFY_NONE, VERIFY_RELAXED, VERIFY_STRICT };

enum tls_minimum { TLS_MINIMUM_1_2, TLS_MINIMUM_1_3 };

enum balancer_policy {
    BALANCER_NONE,
    BALANCER_FAILOVER,
    BALANCER_ROUND_ROBIN,
    BALANCER_LEAST_CONNECTIONS,
    BALANCER_SNI
};

enum proxy_header_version { PROXY_HEADER_VERSION_1, PROXY_HEADER_VERSION_2 };

enum metrics_tag_format { METRICS_TAGS_NONE, METRICS_TAGS_DOGSTATSD, METRICS_TAGS_INFLUXDB };

struct certificate_config {
    const char *key;             // path; NULL if not given
    const char *certificate;     // path; NULL if not given
    const char *authority;       // path; NULL if not given
    const char *revocation_list; // path; NULL if not given
    // Where each path stands in the file: what is wrong with what it names is found later.
    struct yaml_mark key_mark;
    struct yaml_mark certificate_mark;
    struct yaml_mark authority_mark;
    struct yaml_mark revocation_list_mark;
};

struct tls_config {
    struct yaml_mark mark; // of the tls_context's key
    enum verify_mode verify_mode;
    const struct certificate_config *certificates;
    size_t certificate_count;
    const char *const *application_protocols;
    size_t application_protocol_count;
    enum tls_minimum minimum_version;
    int64_t handshake_timeout;
    const char *server_name; // a target's; NULL: the address's host
};

struct listener_config {
    struct address address;
    int64_t read_timeout;
    int64_t write_timeout;
    const struct cidr *authorized_sources;
    size_t authorized_source_count; // 0: everyone
    const struct tls_config *tls;   // NULL: plain
    int64_t client_hello_timeout;   // of SNI routing without TLS
    bool proxy_protocol;            // clients begin with its header
    const struct cidr *proxy_protocol_sources;
    size_t proxy_protocol_source_count; // 0: everyone who is authorized
    int64_t proxy_protocol_timeout;
};

#define KEEPALIVE_OFF INT64_C(-1)

struct target_config {
    const char *name;
    struct address address;
    const char *socks_proxy;             // as written, validated; NULL: none. It may hold a password: never log it.
    int64_t proxy_timeout;               // of the dialogue with that
    struct yaml_mark proxy_timeout_mark; // of the key; line 0: it is not there
    int64_t connect_backoff;
    int64_t connect_attempts; // >= 1
    int64_t connect_timeout;
    int64_t resolve_timeout;
    struct yaml_mark resolve_timeout_mark; // likewise
    int64_t max_fails;                     // 0: it is never out
    int64_t fail_timeout;
    int64_t write_timeout;
    int64_t read_timeout;
    int64_t keepalive_interval;   // 0: the system's default; KEEPALIVE_OFF
    const struct tls_config *tls; // NULL: plain
};

struct proxy_config {
    const char *name;
    struct listener_config listener;
    const struct target_config *targets;
    size_t target_count;             // >= 1
    struct yaml_mark targets_mark;   // of the key
    int64_t connection_limit;        // 0: none
    int64_t source_connection_limit; // likewise; for each source of clients
    struct yaml_mark source_connection_limit_mark;
    int64_t connection_lifetime;
    const char *connection_log; // path; NULL: off
    bool connection_log_connect;
    int64_t connection_log_interval; // 0: none
    enum balancer_policy balancer;
    struct yaml_mark balancer_mark; // of the key; line 0: it is not there
    bool enable_proxy_header;
    enum proxy_header_version proxy_header_version;
    bool enable_dual_stack;
};

struct config {
    const char *sentry_dsn;         // NULL: off. It holds a key: never log it.
    const char *sentry_environment; // NULL: the default
    const char *sentry_authority;   // path; NULL: the system's
    struct yaml_mark sentry_authority_mark;
    const char *metrics_address; // NULL: off
    const char *metrics_prefix;  // NULL: none
    enum metrics_tag_format metrics_tag_format;
    enum log_level log_level; // LOG_OFF if omitted
    enum log_format log_format;
    int64_t drain_timeout;
    enum thread_scheduling scheduling; // of the threads that serve connections
    const struct proxy_config *proxies;
    size_t proxy_count; // >= 1
};

// One more reference to the same snapshot; returns it.
const struct config *config_hold(const struct config *config);

// Gives one reference back and nulls the pointer; the last one frees the snapshot. Accepts NULL.
void config_drop(const struct config **config);

#endif
