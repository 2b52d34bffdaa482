// The configuration as plain immutable structs, read from a YAML file by config_load() and shared by reference count. A
// connection holds the snapshot it began with; a reload builds a new one. Everything in a snapshot lives as long as the
// snapshot and is never written after config_load() has returned it, so any thread may read it without a lock.
//
// Durations are ns, 0 = none. Strings are never NULL unless said so. docs/configuration.md says what the keys mean.

#ifndef BITFLOW_CONFIG_CONFIG_H
#define BITFLOW_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/base/log.h"
#include "bitflow/base/thread.h"
#include "bitflow/config/diagnostics.h"
#include "bitflow/net/address.h"
#include "bitflow/net/cidr.h"
#include "bitflow/net/unix_peer.h"

enum verify_mode { VERIFY_NONE, VERIFY_RELAXED, VERIFY_STRICT };

enum tls_minimum { TLS_MINIMUM_1_2, TLS_MINIMUM_1_3 };

// What a TLS stream without a close_notify at its end is taken for.
enum tls_truncation { TLS_TRUNCATION_RESET, TLS_TRUNCATION_ACCEPT };

enum balancer_policy {
    BALANCER_NONE,
    BALANCER_FAILOVER,
    BALANCER_ROUND_ROBIN,
    BALANCER_LEAST_CONNECTIONS,
    BALANCER_SNI
};

enum proxy_header_version { PROXY_HEADER_VERSION_1, PROXY_HEADER_VERSION_2 };

// Of version 2's fields, those that are sent: a set of bits. The words of HAProxy's proxy-v2-options; what is told
// within SSL implies that.
enum proxy_header_tlv {
    PROXY_HEADER_TLV_ALPN = 1 << 0,
    PROXY_HEADER_TLV_AUTHORITY = 1 << 1,
    PROXY_HEADER_TLV_UNIQUE_ID = 1 << 2,
    PROXY_HEADER_TLV_SSL = 1 << 3,
    PROXY_HEADER_TLV_SSL_CIPHER = 1 << 4 | PROXY_HEADER_TLV_SSL,
    PROXY_HEADER_TLV_CERT_CN = 1 << 5 | PROXY_HEADER_TLV_SSL,
    PROXY_HEADER_TLV_CRC32C = 1 << 6,
    PROXY_HEADER_TLV_ALL = (1 << 7) - 1,
};

enum metrics_tag_format { METRICS_TAGS_NONE, METRICS_TAGS_DOGSTATSD, METRICS_TAGS_INFLUXDB };

// A file that the configuration names. What is wrong with its content is found later, and told at the mark.
struct named_file {
    const char *path; // NULL: not given
    struct yaml_mark mark;
};

struct certificate_config {
    struct named_file key;
    struct named_file certificate;
    struct named_file authority;
    struct named_file revocation_list;
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
    enum tls_truncation truncation;
    const char *server_name; // a target's; NULL: the address's host
    // As base/peer_name.h checks them. A listener's: who may come in; a target's: who it may be, beside its host.
    const char *const *authorized_names;
    size_t authorized_name_count; // 0: a client may have any name; a target, its host's
};

#define KEEPALIVE_OFF INT64_C(-1)

struct listener_config {
    struct address address;
    // Of a Unix socket's file, as written, validated (net/unix_access.h); NULL: not given
    const char *unix_mode;
    const char *unix_user;
    const char *unix_group;
    int64_t read_timeout;
    int64_t write_timeout;
    int64_t keepalive_interval; // 0: the system's default; KEEPALIVE_OFF
    int64_t tcp_user_timeout;
    const struct cidr *authorized_sources;
    size_t authorized_source_count; // 0: everyone
    const struct unix_peer *authorized_peers;
    size_t authorized_peer_count; // 0: everyone
    const struct tls_config *tls; // NULL: plain
    int64_t client_hello_timeout; // of SNI routing without TLS
    bool proxy_protocol;          // clients begin with its header
    const struct cidr *proxy_protocol_sources;
    size_t proxy_protocol_source_count; // 0: everyone who is authorized
    int64_t proxy_protocol_timeout;
};

struct target_config {
    const char *name;
    struct address address;
    const char *socks_proxy; // as written, validated; NULL: none. It may hold a password: never log it.
    int64_t proxy_timeout;   // of the dialogue with that
    int64_t connect_backoff;
    int64_t connect_attempts; // >= 1
    int64_t connect_timeout;
    int64_t resolve_timeout;
    int64_t max_fails; // 0: it is never out
    int64_t fail_timeout;
    int64_t write_timeout;
    int64_t read_timeout;
    int64_t keepalive_interval; // 0: the system's default; KEEPALIVE_OFF
    int64_t tcp_user_timeout;
    const struct tls_config *tls; // NULL: plain
};

struct proxy_config {
    const char *name;
    struct listener_config listener;
    const struct target_config *targets;
    size_t target_count;             // >= 1
    int64_t connection_limit;        // 0: none
    int64_t source_connection_limit; // likewise; for each source of clients
    int64_t source_connection_rate;  // a second; 0: none
    int64_t source_connection_burst; // 0: the rate
    int64_t source_ipv4_prefix;      // 1 to 32
    int64_t source_ipv6_prefix;      // 1 to 128
    int64_t connection_lifetime;
    int64_t half_close_timeout;
    const char *connection_log; // path, or `stdout`, `stderr`; NULL: off
    bool connection_log_connect;
    int64_t connection_log_interval; // 0: none
    bool log_probes;                 // clients that leave without a byte
    enum balancer_policy balancer;
    bool enable_proxy_header;
    enum proxy_header_version proxy_header_version;
    unsigned proxy_header_tlvs; // bits of enum proxy_header_tlv
    bool proxy_header_pass_tlvs;
    bool enable_dual_stack;
};

// How the process is looked at and told what to do while it runs.
struct control_config {
    struct yaml_mark mark; // of the control key
    struct address address;
    // Of a Unix socket's file, as written, validated (net/unix_access.h); NULL: not given
    const char *mode;
    const char *user;
    const char *group;
};

struct config {
    uint64_t text_hash;                 // of the file (base/hash.h)
    const char *sentry_dsn;             // NULL: off. It holds a key: never log it.
    const char *sentry_environment;     // NULL: the default
    struct named_file sentry_authority; // none: the system's
    const char *metrics_address;        // NULL: off
    const char *metrics_prefix;         // NULL: none
    enum metrics_tag_format metrics_tag_format;
    bool watch_files;         // those that TLS contexts and sentry_authority name
    bool watch_configuration; // the file itself
    enum log_level log_level; // LOG_OFF if omitted
    enum log_format log_format;
    int64_t drain_delay;
    const struct control_config *control; // NULL: off
    int64_t drain_timeout;
    bool upgrade_in_place;             // whatever the process's number
    enum thread_scheduling scheduling; // of the threads that serve connections
    bool carriers;                     // relay/relay.h: relay_allow_carriers()
    const struct proxy_config *proxies;
    size_t proxy_count; // >= 1
};

// A snapshot with one reference, the caller's; or NULL with at least one error. All of the file is validated, and all
// that is wrong with it is told; what it names (addresses, other files) is neither resolved nor opened, but users and
// groups are looked up, and there are warnings of directories that are not there, and of targets that are known to be
// listeners of this host's own. `diagnostics` is initialized, with the name that stands for the file.
const struct config *config_load(const char *path, struct diagnostics *diagnostics);

// The same from memory; the text is only read.
const struct config *config_load_text(const char *bytes, size_t length, struct diagnostics *diagnostics);

// Whether the file still says what it said when it was loaded, byte by byte. One that cannot be read says something
// else.
bool config_is_same(const struct config *config, const char *path);

// One more reference to the same snapshot; returns it.
const struct config *config_hold(const struct config *config);

// Gives one reference back and nulls the pointer; the last one frees the snapshot. Accepts NULL.
void config_drop(const struct config **config);

#endif
