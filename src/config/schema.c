#include "schema.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/base/peer_name.h"
#include "bitflow/config/config.h"
#include "syntax.h"

// What Linux takes.
#define KEEPALIVE_MAX (INT64_C(32767) * NS_PER_S)
#define USER_TIMEOUT_MAX (INT64_C(2147483) * NS_PER_S)

#define SOURCE_RATE_MAX 1000000 // more is no limit

// ---- How a row is written: the key, the field of STRUCT that it fills, what leaving the key out means, and the rest.

// The field's offset. It does not compile if the field has another type than the reader stores.
#define FIELD(type, field) (offsetof(STRUCT, field) + 0 * sizeof(_Generic(((STRUCT *)NULL)->field, type: 0)))
#define WORD_FIELD(field) \
    (offsetof(STRUCT, field) + 0 * sizeof(char[sizeof(((STRUCT *)NULL)->field) == sizeof(unsigned) ? 1 : -1]))
#define ROW(name, schema_type, field_offset, ...) \
    {.key = (name), .type = (schema_type), .offset = (field_offset), __VA_ARGS__}
#define LIST(name, schema_type, type, field, field_count, ...) \
    ROW(name, schema_type, FIELD(type, field), .count_offset = FIELD(size_t, field_count), __VA_ARGS__)

#define STRING(name, field, ...) ROW(name, SCHEMA_STRING, FIELD(const char *, field), __VA_ARGS__)
#define PATH(name, field, ...) ROW(name, SCHEMA_PATH, FIELD(const char *, field), .check = syntax_path, __VA_ARGS__)
#define NAMED_FILE(name, field, ...) \
    ROW(name, SCHEMA_NAMED_FILE, FIELD(struct named_file, field), .check = syntax_path, __VA_ARGS__)
#define FLAG(name, field, ...) ROW(name, SCHEMA_BOOL, FIELD(bool, field), __VA_ARGS__)
#define INTEGER(name, field, ...) ROW(name, SCHEMA_INTEGER, FIELD(int64_t, field), __VA_ARGS__)
#define DURATION(name, field, ...) ROW(name, SCHEMA_DURATION, FIELD(int64_t, field), __VA_ARGS__)
#define DURATION_OR_OFF(name, field, ...) ROW(name, SCHEMA_DURATION_OR_OFF, FIELD(int64_t, field), __VA_ARGS__)
#define LISTEN_ADDRESS(name, field, ...) ROW(name, SCHEMA_LISTEN_ADDRESS, FIELD(struct address, field), __VA_ARGS__)
#define TARGET_ADDRESS(name, field, ...) ROW(name, SCHEMA_TARGET_ADDRESS, FIELD(struct address, field), __VA_ARGS__)
#define WORD(name, field, list, ...) ROW(name, SCHEMA_ENUM, WORD_FIELD(field), .words = (list), __VA_ARGS__)
#define WORDS(name, field, list, ...) ROW(name, SCHEMA_WORDS, WORD_FIELD(field), .words = (list), __VA_ARGS__)
#define STRINGS(name, field, count, ...) LIST(name, SCHEMA_STRINGS, const char *const *, field, count, __VA_ARGS__)
#define CIDRS(name, field, count, ...) LIST(name, SCHEMA_CIDRS, const struct cidr *, field, count, __VA_ARGS__)
#define PEERS(name, field, count, ...) LIST(name, SCHEMA_PEERS, const struct unix_peer *, field, count, __VA_ARGS__)
#define OBJECTS(name, type, field, count, items, ...) \
    LIST(name, SCHEMA_OBJECTS, const type *, field, count, .object = &(items), __VA_ARGS__)

// A mapping: of keys that fill the same struct, of keys that fill a struct in it, and of keys that fill one of their
// own, a struct tls_config.
#define GROUP(name, keys, ...) ROW(name, SCHEMA_OBJECT, 0, .object = &(keys), __VA_ARGS__)
#define MEMBER(name, type, field, keys, ...) \
    ROW(name, SCHEMA_OBJECT, FIELD(type, field), .object = &(keys), __VA_ARGS__)
#define OPTIONAL_OBJECT(name, type, field, keys, ...) \
    ROW(name, SCHEMA_OPTIONAL_OBJECT, FIELD(const type *, field), .object = &(keys), __VA_ARGS__)
#define TLS_CONTEXT(name, field, keys, ...) \
    OPTIONAL_OBJECT(name, struct tls_config, field, keys, NEEDS_VALUE, __VA_ARGS__)

#define REQUIRED .is_required = true
#define OPTIONAL .is_required = false
#define NEEDS_VALUE .needs_value = true
#define SECRET .is_secret = true
#define DEFAULT(value) .fallback = (value)
#define UNSET(text) .fallback_text = (text) // in words, for people
#define FROM(least) .min = (least)
#define UP_TO(most) .max = (most)
#define UNIT(name) .unit = (name)
#define CHECK(function) .check = (function)
#define SYNTAX(text) .syntax = (text)

#define OBJECT(name, type)                                                                 \
    _Static_assert(ARRAY_LENGTH(name##_rows) <= SCHEMA_ROWS_MAX, "raise SCHEMA_ROWS_MAX"); \
    static const struct schema_object name##_object = {                                    \
        .rows = name##_rows, .row_count = ARRAY_LENGTH(name##_rows), .size = sizeof(type)}

// ---- The words that some keys take.

static const struct schema_word log_levels[] = {
    {"debug", LOG_DEBUG}, {"info", LOG_INFO}, {"warn", LOG_WARN}, {"error", LOG_ERROR}, {NULL, 0}};

static const struct schema_word log_formats[] = {{"logfmt", LOG_LOGFMT}, {"json", LOG_JSON}, {NULL, 0}};

static const struct schema_word verify_modes[] = {
    {"none", VERIFY_NONE}, {"relaxed", VERIFY_RELAXED}, {"strict", VERIFY_STRICT}, {NULL, 0}};

static const struct schema_word tls_versions[] = {{"1.2", TLS_MINIMUM_1_2}, {"1.3", TLS_MINIMUM_1_3}, {NULL, 0}};

static const struct schema_word truncations[] = {
    {"reset", TLS_TRUNCATION_RESET}, {"accept", TLS_TRUNCATION_ACCEPT}, {NULL, 0}};

static const struct schema_word balancers[] = {{"none", BALANCER_NONE},
                                               {"failover", BALANCER_FAILOVER},
                                               {"round-robin", BALANCER_ROUND_ROBIN},
                                               {"least-connections", BALANCER_LEAST_CONNECTIONS},
                                               {"sni", BALANCER_SNI},
                                               {NULL, 0}};

static const struct schema_word proxy_header_versions[] = {
    {"1", PROXY_HEADER_VERSION_1}, {"2", PROXY_HEADER_VERSION_2}, {NULL, 0}};

static const struct schema_word proxy_header_tlvs[] = {{"alpn", PROXY_HEADER_TLV_ALPN},
                                                       {"authority", PROXY_HEADER_TLV_AUTHORITY},
                                                       {"unique-id", PROXY_HEADER_TLV_UNIQUE_ID},
                                                       {"ssl", PROXY_HEADER_TLV_SSL},
                                                       {"ssl-cipher", PROXY_HEADER_TLV_SSL_CIPHER},
                                                       {"cert-cn", PROXY_HEADER_TLV_CERT_CN},
                                                       {"crc32c", PROXY_HEADER_TLV_CRC32C},
                                                       {NULL, 0}};

static const struct schema_word metrics_tag_formats[] = {
    {"none", METRICS_TAGS_NONE}, {"dogstatsd", METRICS_TAGS_DOGSTATSD}, {"influxdb", METRICS_TAGS_INFLUXDB}, {NULL, 0}};

static const struct schema_word schedulings[] = {
    {"batch", THREAD_SCHEDULING_BATCH}, {"normal", THREAD_SCHEDULING_NORMAL}, {NULL, 0}};

// ---- The keys.

#define STRUCT struct control_config

static const struct schema_row control_rows[] = {
    LISTEN_ADDRESS("address", address, REQUIRED),
    STRING("mode", mode, UNSET("0600"), NEEDS_VALUE, CHECK(syntax_unix_mode), SYNTAX("`\"0660\"` and the like")),
    STRING("user", user, UNSET("bitflow's"), NEEDS_VALUE, CHECK(syntax_unix_user), SYNTAX("name or number")),
    STRING("group", group, UNSET("bitflow's"), NEEDS_VALUE, CHECK(syntax_unix_group), SYNTAX("name or number")),
};
OBJECT(control, struct control_config);

#undef STRUCT
#define STRUCT struct config

static const struct schema_row metrics_rows[] = {
    STRING("address", metrics_address, UNSET("off"), CHECK(syntax_metrics_address),
           SYNTAX("`HOST:PORT`, `udp://HOST:PORT` or `unix:///path`")),
    STRING("prefix", metrics_prefix, UNSET("none"), CHECK(syntax_metric_prefix)),
    WORD("tag_format", metrics_tag_format, metrics_tag_formats, DEFAULT(METRICS_TAGS_NONE)),
};
OBJECT(metrics, struct config);

static const struct schema_row log_rows[] = {
    WORD("level", log_level, log_levels, DEFAULT(LOG_OFF), UNSET("off")),
    WORD("format", log_format, log_formats, DEFAULT(LOG_LOGFMT)),
};
OBJECT(log, struct config);

static const struct schema_row application_rows[] = {
    STRING("sentry_dsn", sentry_dsn, UNSET("off"), SECRET, CHECK(syntax_sentry_dsn),
           SYNTAX("`https://KEY@HOST[:PORT]/[PATH/]PROJECT`")),
    STRING("sentry_environment", sentry_environment, UNSET("production"), CHECK(syntax_sentry_environment)),
    NAMED_FILE("sentry_authority", sentry_authority, UNSET("the system's")),
    FLAG("watch_files", watch_files, DEFAULT(true)),
    FLAG("watch_configuration", watch_configuration, DEFAULT(false)),
    GROUP("metrics", metrics_object, OPTIONAL),
    GROUP("log", log_object, OPTIONAL),
    OPTIONAL_OBJECT("control", struct control_config, control, control_object, UNSET("off")),
};
OBJECT(application, struct config);

#undef STRUCT
#define STRUCT struct certificate_config

static const struct schema_row certificate_rows[] = {
    NAMED_FILE("key", key, UNSET("none")),
    NAMED_FILE("certificate", certificate, UNSET("none")),
    NAMED_FILE("authority", authority, UNSET("none")),
    NAMED_FILE("revocation_list", revocation_list, UNSET("none"), NEEDS_VALUE),
};
OBJECT(certificate, struct certificate_config);

#undef STRUCT
#define STRUCT struct tls_config

// What both sides' contexts have.
#define CERTIFICATES                                                                                        \
    OBJECTS("certificates", struct certificate_config, certificates, certificate_count, certificate_object, \
            UNSET("none"))
#define APPLICATION_PROTOCOLS                                                                          \
    STRINGS("application_protocols", application_protocols, application_protocol_count, UNSET("none"), \
            CHECK(syntax_alpn_protocol))
#define MINIMUM_VERSION WORD("minimum_version", minimum_version, tls_versions, DEFAULT(TLS_MINIMUM_1_2))
#define HANDSHAKE_TIMEOUT DURATION("handshake_timeout", handshake_timeout, DEFAULT(10 * NS_PER_S))
// Who leaves it without a value, or empty, means fewer peers, not all.
#define AUTHORIZED_NAMES(unset)                                                                              \
    STRINGS("authorized_names", authorized_names, authorized_name_count, UNSET(unset), NEEDS_VALUE, FROM(1), \
            CHECK(peer_name_check))
#define TRUNCATION WORD("truncation", truncation, truncations, DEFAULT(TLS_TRUNCATION_RESET))

static const struct schema_row listener_tls_rows[] = {
    WORD("verify_mode", verify_mode, verify_modes, DEFAULT(VERIFY_NONE)),
    AUTHORIZED_NAMES("all"),
    CERTIFICATES,
    APPLICATION_PROTOCOLS,
    MINIMUM_VERSION,
    HANDSHAKE_TIMEOUT,
    TRUNCATION,
};
OBJECT(listener_tls, struct tls_config);

static const struct schema_row target_tls_rows[] = {
    WORD("verify_mode", verify_mode, verify_modes, DEFAULT(VERIFY_STRICT)),
    AUTHORIZED_NAMES("none beside the host"),
    CERTIFICATES,
    APPLICATION_PROTOCOLS,
    STRING("server_name", server_name, UNSET("the address's host"), CHECK(syntax_server_name)),
    MINIMUM_VERSION,
    HANDSHAKE_TIMEOUT,
    TRUNCATION,
};
OBJECT(target_tls, struct tls_config);

#undef STRUCT
#define STRUCT struct listener_config

// What both sides' connections have.
#define KEEPALIVE_INTERVAL DURATION_OR_OFF("keepalive_interval", keepalive_interval, UNSET("0"), UP_TO(KEEPALIVE_MAX))
#define USER_TIMEOUT DURATION("tcp_user_timeout", tcp_user_timeout, DEFAULT(0), UP_TO(USER_TIMEOUT_MAX))

static const struct schema_row listener_rows[] = {
    LISTEN_ADDRESS("address", address, REQUIRED),
    STRING("unix_mode", unix_mode, UNSET("0777 less the umask"), NEEDS_VALUE, CHECK(syntax_unix_mode),
           SYNTAX("`\"0660\"` and the like")),
    STRING("unix_user", unix_user, UNSET("bitflow's"), NEEDS_VALUE, CHECK(syntax_unix_user), SYNTAX("name or number")),
    STRING("unix_group", unix_group, UNSET("bitflow's"), NEEDS_VALUE, CHECK(syntax_unix_group),
           SYNTAX("name or number")),
    DURATION("read_timeout", read_timeout, DEFAULT(0)),
    DURATION("write_timeout", write_timeout, DEFAULT(0)),
    KEEPALIVE_INTERVAL,
    USER_TIMEOUT,
    CIDRS("authorized_sources", authorized_sources, authorized_source_count, UNSET("all"), NEEDS_VALUE, FROM(1)),
    PEERS("authorized_peers", authorized_peers, authorized_peer_count, UNSET("all"), NEEDS_VALUE, FROM(1)),
    TLS_CONTEXT("tls_context", tls, listener_tls_object, UNSET("plain")),
    DURATION("client_hello_timeout", client_hello_timeout, DEFAULT(10 * NS_PER_S)),
    FLAG("proxy_protocol", proxy_protocol, DEFAULT(false)),
    CIDRS("proxy_protocol_sources", proxy_protocol_sources, proxy_protocol_source_count,
          UNSET("all that `authorized_sources` lets in"), NEEDS_VALUE, FROM(1)),
    DURATION("proxy_protocol_timeout", proxy_protocol_timeout, DEFAULT(3 * NS_PER_S)),
};
OBJECT(listener, struct listener_config);

#undef STRUCT
#define STRUCT struct target_config

static const struct schema_row target_rows[] = {
    STRING("name", name, REQUIRED, CHECK(syntax_target_name)),
    TARGET_ADDRESS("address", address, REQUIRED),
    STRING("proxy", socks_proxy, UNSET("none"), SECRET, CHECK(syntax_socks_proxy),
           SYNTAX("`socks5://[USER[:PASS]@]HOST:PORT`, `HOST:PORT` or `socks5+unix://[USER[:PASS]@]/path`")),
    DURATION("proxy_timeout", proxy_timeout, DEFAULT(10 * NS_PER_S)),
    DURATION("connect_backoff", connect_backoff, UNSET("0")),
    INTEGER("connect_attempts", connect_attempts, DEFAULT(1), FROM(1), UP_TO(1000), UNIT("attempts")),
    DURATION("connect_timeout", connect_timeout, DEFAULT(0)),
    DURATION("resolve_timeout", resolve_timeout, DEFAULT(0)),
    INTEGER("max_fails", max_fails, DEFAULT(0), UP_TO(1000), UNIT("failures")),
    DURATION("fail_timeout", fail_timeout, DEFAULT(10 * NS_PER_S)),
    DURATION("write_timeout", write_timeout, DEFAULT(0)),
    DURATION("read_timeout", read_timeout, DEFAULT(0)),
    KEEPALIVE_INTERVAL,
    USER_TIMEOUT,
    TLS_CONTEXT("tls_context", tls, target_tls_object, UNSET("plain")),
};
OBJECT(target, struct target_config);

#undef STRUCT
#define STRUCT struct proxy_config

static const struct schema_row options_rows[] = {
    INTEGER("connection_limit", connection_limit, UNSET("none"), FROM(1), UNIT("connections")),
    INTEGER("source_connection_limit", source_connection_limit, UNSET("none"), FROM(1), UNIT("connections")),
    INTEGER("source_connection_rate", source_connection_rate, UNSET("none"), FROM(1), UP_TO(SOURCE_RATE_MAX),
            UNIT("connections a second")),
    INTEGER("source_connection_burst", source_connection_burst, UNSET("`source_connection_rate`"), FROM(1),
            UP_TO(SOURCE_RATE_MAX), UNIT("connections")),
    INTEGER("source_ipv4_prefix", source_ipv4_prefix, DEFAULT(32), FROM(1), UP_TO(32), UNIT("bits")),
    INTEGER("source_ipv6_prefix", source_ipv6_prefix, DEFAULT(64), FROM(1), UP_TO(128), UNIT("bits")),
    DURATION("connection_lifetime", connection_lifetime, DEFAULT(0)),
    DURATION("half_close_timeout", half_close_timeout, DEFAULT(0)),
    PATH("connection_log", connection_log, UNSET("off"), SYNTAX("path, `stdout` or `stderr`")),
    FLAG("connection_log_connect", connection_log_connect, DEFAULT(false)),
    DURATION("connection_log_interval", connection_log_interval, DEFAULT(0)),
    FLAG("log_probes", log_probes, DEFAULT(true)),
    WORD("connection_load_balancer", balancer, balancers, DEFAULT(BALANCER_NONE)),
    FLAG("enable_proxy_header", enable_proxy_header, DEFAULT(false)),
    WORD("proxy_header_version", proxy_header_version, proxy_header_versions, DEFAULT(PROXY_HEADER_VERSION_1)),
    WORDS("proxy_header_tlvs", proxy_header_tlvs, proxy_header_tlvs, DEFAULT(PROXY_HEADER_TLV_ALL), UNSET("all")),
    FLAG("proxy_header_pass_tlvs", proxy_header_pass_tlvs, DEFAULT(false)),
    FLAG("enable_dual_stack", enable_dual_stack, DEFAULT(false)),
};
OBJECT(options, struct proxy_config);

static const struct schema_row proxy_rows[] = {
    STRING("name", name, REQUIRED, CHECK(syntax_name)),
    MEMBER("listener", struct listener_config, listener, listener_object, REQUIRED),
    OBJECTS("targets", struct target_config, targets, target_count, target_object, REQUIRED, FROM(1)),
    GROUP("options", options_object, OPTIONAL),
};
OBJECT(proxy, struct proxy_config);

#undef STRUCT
#define STRUCT struct config

static const struct schema_row server_rows[] = {
    DURATION("drain_delay", drain_delay, DEFAULT(0)),
    DURATION("drain_timeout", drain_timeout, DEFAULT(25 * NS_PER_S)),
    FLAG("upgrade_in_place", upgrade_in_place, DEFAULT(false)),
    WORD("scheduling", scheduling, schedulings, DEFAULT(THREAD_SCHEDULING_BATCH)),
    FLAG("carriers", carriers, DEFAULT(true)),
    OBJECTS("proxies", struct proxy_config, proxies, proxy_count, proxy_object, REQUIRED, FROM(1)),
};
OBJECT(server, struct config);

static const struct schema_row root_rows[] = {
    GROUP("application", application_object, OPTIONAL),
    GROUP("server", server_object, REQUIRED),
};

const struct schema_object schema_root = {
    .rows = root_rows, .row_count = ARRAY_LENGTH(root_rows), .size = sizeof(struct config)};

const struct schema_row *schema_find(const struct schema_object *object, const char *key)
{
    for (size_t i = 0; i < object->row_count; i++)
        if (strcmp(object->rows[i].key, key) == 0)
            return &object->rows[i];
    return NULL;
}

static void walk(const struct schema_object *object, const char *above,
                 void (*visit)(void *context, const char *path, const struct schema_row *row), void *context)
{
    for (size_t i = 0; i < object->row_count; i++) {
        const struct schema_row *row = &object->rows[i];
        char path[SCHEMA_PATH_SIZE];
        bool is_list = row->type == SCHEMA_OBJECTS || row->type == SCHEMA_CIDRS || row->type == SCHEMA_PEERS ||
                       row->type == SCHEMA_STRINGS || row->type == SCHEMA_WORDS;
        (void)snprintf(path, sizeof path, "%s%s%s%s", above, *above != '\0' ? "." : "", row->key, is_list ? "[]" : "");
        visit(context, path, row);
        if (row->object != NULL)
            walk(row->object, path, visit, context);
    }
}

void schema_walk(void (*visit)(void *context, const char *path, const struct schema_row *row), void *context)
{
    walk(&schema_root, "", visit, context);
}
