#include "schema.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "bitflow/base/clock.h"
#include "bitflow/config/config.h"
#include "syntax.h"

#define KEEPALIVE_MAX (INT64_C(32767) * NS_PER_S) // what Linux takes

#define OBJECT(name, type)                                                                 \
    _Static_assert(ARRAY_LENGTH(name##_rows) <= SCHEMA_ROWS_MAX, "raise SCHEMA_ROWS_MAX"); \
    static const struct schema_object name##_object = {                                    \
        .rows = name##_rows, .row_count = ARRAY_LENGTH(name##_rows), .size = sizeof(type)}

static const struct schema_word log_levels[] = {
    {"debug", LOG_DEBUG}, {"info", LOG_INFO}, {"warn", LOG_WARN}, {"error", LOG_ERROR}, {NULL, 0}};

static const struct schema_word log_formats[] = {{"logfmt", LOG_LOGFMT}, {"json", LOG_JSON}, {NULL, 0}};

static const struct schema_word verify_modes[] = {
    {"none", VERIFY_NONE}, {"relaxed", VERIFY_RELAXED}, {"strict", VERIFY_STRICT}, {NULL, 0}};

static const struct schema_word tls_versions[] = {{"1.2", TLS_MINIMUM_1_2}, {"1.3", TLS_MINIMUM_1_3}, {NULL, 0}};

static const struct schema_word balancers[] = {{"none", BALANCER_NONE},
                                               {"failover", BALANCER_FAILOVER},
                                               {"round-robin", BALANCER_ROUND_ROBIN},
                                               {"least-connections", BALANCER_LEAST_CONNECTIONS},
                                               {"sni", BALANCER_SNI},
                                               {NULL, 0}};

static const struct schema_word proxy_header_versions[] = {
    {"1", PROXY_HEADER_VERSION_1}, {"2", PROXY_HEADER_VERSION_2}, {NULL, 0}};

static const struct schema_word metrics_tag_formats[] = {
    {"none", METRICS_TAGS_NONE}, {"dogstatsd", METRICS_TAGS_DOGSTATSD}, {"influxdb", METRICS_TAGS_INFLUXDB}, {NULL, 0}};

static const struct schema_word schedulings[] = {
    {"batch", THREAD_SCHEDULING_BATCH}, {"normal", THREAD_SCHEDULING_NORMAL}, {NULL, 0}};

static const struct schema_row metrics_rows[] = {
    {.key = "address",
     .type = SCHEMA_STRING,
     .offset = offsetof(struct config, metrics_address),
     .check = syntax_metrics_address,
     .fallback_text = "off",
     .syntax = "`HOST:PORT`, `udp://HOST:PORT` or `unix:///path`",
     .description = "The statsd server that metrics are sent to, by UDP or by a Unix datagram socket."},
    {.key = "prefix",
     .type = SCHEMA_STRING,
     .offset = offsetof(struct config, metrics_prefix),
     .check = syntax_metric_prefix,
     .fallback_text = "none",
     .description = "Put before every metric's name, with a dot between them."},
    {.key = "tag_format",
     .type = SCHEMA_ENUM,
     .offset = offsetof(struct config, metrics_tag_format),
     .fallback = METRICS_TAGS_NONE,
     .words = metrics_tag_formats,
     .description =
         "`none`: proxies, targets and reasons are part of the names. `dogstatsd`, `influxdb`: they are tags, "
         "in Datadog's or in Telegraf's way."},
};
OBJECT(metrics, struct config);

static const struct schema_row log_rows[] = {
    {.key = "level",
     .type = SCHEMA_ENUM,
     .offset = offsetof(struct config, log_level),
     .fallback = LOG_OFF,
     .words = log_levels,
     .fallback_text = "off",
     .description = "The application log on stderr, from this level up. Start-up errors are printed without it, too."},
    {.key = "format",
     .type = SCHEMA_ENUM,
     .offset = offsetof(struct config, log_format),
     .fallback = LOG_LOGFMT,
     .words = log_formats,
     .description = "How its lines are written: logfmt, or JSON objects, one a line."},
};
OBJECT(log, struct config);

static const struct schema_row application_rows[] = {
    {.key = "sentry_dsn",
     .type = SCHEMA_STRING,
     .is_secret = true,
     .offset = offsetof(struct config, sentry_dsn),
     .check = syntax_sentry_dsn,
     .fallback_text = "off",
     .syntax = "`https://KEY@HOST[:PORT]/[PATH/]PROJECT`",
     .description = "The Sentry project that errors are reported to."},
    {.key = "sentry_environment",
     .type = SCHEMA_STRING,
     .offset = offsetof(struct config, sentry_environment),
     .check = syntax_sentry_environment,
     .fallback_text = "production",
     .description = "The environment that the reports name."},
    {.key = "sentry_authority",
     .type = SCHEMA_PATH,
     .offset = offsetof(struct config, sentry_authority),
     .mark_offset = offsetof(struct config, sentry_authority_mark),
     .has_mark = true,
     .check = syntax_path,
     .fallback_text = "the system's",
     .description = "The bundle of CA certificates, a PEM file, that Sentry's certificate must chain to."},
    {.key = "metrics", .type = SCHEMA_OBJECT, .object = &metrics_object, .description = "Where metrics go."},
    {.key = "log", .type = SCHEMA_OBJECT, .object = &log_object, .description = "The application log."},
};
OBJECT(application, struct config);

static const struct schema_row certificate_rows[] = {
    {.key = "key",
     .type = SCHEMA_PATH,
     .offset = offsetof(struct certificate_config, key),
     .mark_offset = offsetof(struct certificate_config, key_mark),
     .has_mark = true,
     .check = syntax_path,
     .fallback_text = "none",
     .description = "The private key, a PEM file: the server's in a listener, the client's in a target. "
                    "Goes together with `certificate`."},
    {.key = "certificate",
     .type = SCHEMA_PATH,
     .offset = offsetof(struct certificate_config, certificate),
     .mark_offset = offsetof(struct certificate_config, certificate_mark),
     .has_mark = true,
     .check = syntax_path,
     .fallback_text = "none",
     .description = "The certificate and its chain, a PEM file."},
    {.key = "authority",
     .type = SCHEMA_PATH,
     .offset = offsetof(struct certificate_config, authority),
     .mark_offset = offsetof(struct certificate_config, authority_mark),
     .has_mark = true,
     .check = syntax_path,
     .fallback_text = "none",
     .description = "The bundle of CA certificates, a PEM file, that the other side's certificate must chain to."},
    {.key = "revocation_list",
     .type = SCHEMA_PATH,
     .offset = offsetof(struct certificate_config, revocation_list),
     .mark_offset = offsetof(struct certificate_config, revocation_list_mark),
     .has_mark = true,
     .check = syntax_path,
     .fallback_text = "none",
     .description = "What has been revoked, a PEM file of CRLs: a current one of every CA that a chain leads over is "
                    "needed, or the certificate is refused. Goes together with `authority`."},
};
OBJECT(certificate, struct certificate_config);

#define CERTIFICATES_ROW                                             \
    {.key = "certificates",                                          \
     .type = SCHEMA_OBJECTS,                                         \
     .offset = offsetof(struct tls_config, certificates),            \
     .count_offset = offsetof(struct tls_config, certificate_count), \
     .object = &certificate_object,                                  \
     .fallback_text = "none",                                        \
     .description = "Keys, certificates and authorities."}

#define MINIMUM_VERSION_ROW                                  \
    {.key = "minimum_version",                               \
     .type = SCHEMA_ENUM,                                    \
     .offset = offsetof(struct tls_config, minimum_version), \
     .fallback = TLS_MINIMUM_1_2,                            \
     .words = tls_versions,                                  \
     .description = "The oldest version of TLS that is spoken."}

#define HANDSHAKE_TIMEOUT_ROW(text)                            \
    {.key = "handshake_timeout",                               \
     .type = SCHEMA_DURATION,                                  \
     .offset = offsetof(struct tls_config, handshake_timeout), \
     .fallback = 10 * NS_PER_S,                                \
     .description = text}

static const struct schema_row listener_tls_rows[] = {
    {.key = "verify_mode",
     .type = SCHEMA_ENUM,
     .offset = offsetof(struct tls_config, verify_mode),
     .fallback = VERIFY_NONE,
     .words = verify_modes,
     .description = "`none`: clients are not asked for a certificate. `relaxed`: they are asked for one, and if one is "
                    "sent it must verify. `strict`: one must be sent and must verify."},
    CERTIFICATES_ROW,
    {.key = "application_protocols",
     .type = SCHEMA_STRINGS,
     .offset = offsetof(struct tls_config, application_protocols),
     .count_offset = offsetof(struct tls_config, application_protocol_count),
     .check = syntax_alpn_protocol,
     .fallback_text = "none",
     .description = "ALPN: what is chosen from among a client's offers, the first here that it has."},
    MINIMUM_VERSION_ROW,
    HANDSHAKE_TIMEOUT_ROW("How long a client's TLS handshake may take, whatever the read timeout; 0: without a bound."),
};
OBJECT(listener_tls, struct tls_config);

static const struct schema_row target_tls_rows[] = {
    {.key = "verify_mode",
     .type = SCHEMA_ENUM,
     .offset = offsetof(struct tls_config, verify_mode),
     .fallback = VERIFY_STRICT,
     .words = verify_modes,
     .description = "`none`: any certificate will do. `relaxed`: its chain must verify. `strict`: its chain must "
                    "verify, and it must be for the target's host name or IP address."},
    CERTIFICATES_ROW,
    {.key = "application_protocols",
     .type = SCHEMA_STRINGS,
     .offset = offsetof(struct tls_config, application_protocols),
     .count_offset = offsetof(struct tls_config, application_protocol_count),
     .check = syntax_alpn_protocol,
     .fallback_text = "none",
     .description = "ALPN: what the target is offered."},
    {.key = "server_name",
     .type = SCHEMA_STRING,
     .offset = offsetof(struct tls_config, server_name),
     .check = syntax_server_name,
     .fallback_text = "the address's host",
     .description =
         "The name that is sent as SNI, and that the target's certificate must be for. An IP address is only "
         "verified, not sent."},
    MINIMUM_VERSION_ROW,
    HANDSHAKE_TIMEOUT_ROW(
        "How long the TLS handshake may take, within `connect_timeout`; 0: without a bound of its own."),
};
OBJECT(target_tls, struct tls_config);

static const struct schema_row listener_rows[] = {
    {.key = "address",
     .type = SCHEMA_LISTEN_ADDRESS,
     .is_required = true,
     .offset = offsetof(struct listener_config, address),
     .description = "Where it listens."},
    {.key = "read_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct listener_config, read_timeout),
     .description = "How long nothing may come from a client. What is written to it starts the time anew."},
    {.key = "write_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct listener_config, write_timeout),
     .description = "How long a client may take nothing of what is written to it."},
    {.key = "authorized_sources",
     .type = SCHEMA_CIDRS,
     .needs_value = true,
     .offset = offsetof(struct listener_config, authorized_sources),
     .count_offset = offsetof(struct listener_config, authorized_source_count),
     .min = 1,
     .fallback_text = "all",
     .description = "The clients that may connect; the others are rejected before anything is read from them. A bare "
                    "address is a block of one. An IPv4-mapped IPv6 client matches IPv4 blocks."},
    {.key = "tls_context",
     .type = SCHEMA_OPTIONAL_OBJECT,
     .needs_value = true,
     .offset = offsetof(struct listener_config, tls),
     .mark_offset = offsetof(struct tls_config, mark),
     .has_mark = true,
     .object = &listener_tls_object,
     .fallback_text = "plain",
     .description = "Clients must speak TLS."},
    {.key = "client_hello_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct listener_config, client_hello_timeout),
     .fallback = 10 * NS_PER_S,
     .description = "How long a client may take for its ClientHello where `sni` chooses the target and TLS is passed "
                    "through; 0: without a bound."},
    {.key = "proxy_protocol",
     .type = SCHEMA_BOOL,
     .offset = offsetof(struct listener_config, proxy_protocol),
     .description = "Every client must begin with the PROXY protocol's header, version 1 or 2; whom it declares is the "
                    "client from then on. Only for clients that are trusted to tell the truth: see "
                    "`proxy_protocol_sources`."},
    {.key = "proxy_protocol_sources",
     .type = SCHEMA_CIDRS,
     .needs_value = true,
     .offset = offsetof(struct listener_config, proxy_protocol_sources),
     .count_offset = offsetof(struct listener_config, proxy_protocol_source_count),
     .min = 1,
     .fallback_text = "all that `authorized_sources` lets in",
     .description = "Who is trusted to declare clients, by the socket's own address; others are rejected before "
                    "anything is read from them."},
    {.key = "proxy_protocol_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct listener_config, proxy_protocol_timeout),
     .fallback = 3 * NS_PER_S,
     .description = "How long the header may take to come; 0: without a bound."},
};
OBJECT(listener, struct listener_config);

static const struct schema_row target_rows[] = {
    {.key = "name",
     .type = SCHEMA_STRING,
     .is_required = true,
     .offset = offsetof(struct target_config, name),
     .check = syntax_target_name,
     .description = "Its name in logs and metrics, unique in its proxy. Under `sni` the server name that it serves: in "
                    "any case, `*.example.com` for one label more, `*` for all that no other target has."},
    {.key = "address",
     .type = SCHEMA_TARGET_ADDRESS,
     .is_required = true,
     .offset = offsetof(struct target_config, address),
     .description = "Where to connect."},
    {.key = "proxy",
     .type = SCHEMA_STRING,
     .is_secret = true,
     .offset = offsetof(struct target_config, socks_proxy),
     .check = syntax_socks_proxy,
     .fallback_text = "none",
     .syntax = "`socks5://[USER:PASS@]HOST:PORT`, `HOST:PORT` or `socks5+unix://[USER:PASS@]/path`",
     .description = "The SOCKS5 server to connect through; it resolves the target's host name. In USER and PASS, `%XX` "
                    "is a byte."},
    {.key = "proxy_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct target_config, proxy_timeout),
     .mark_offset = offsetof(struct target_config, proxy_timeout_mark),
     .has_mark = true,
     .fallback = 10 * NS_PER_S,
     .description = "How long the SOCKS5 server may take, from the connection to it until it has answered that it is "
                    "connected to the target; within `connect_timeout`. 0: without a bound of its own."},
    {.key = "connect_backoff",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct target_config, connect_backoff),
     .fallback_text = "0",
     .description = "The pause before the second attempt to connect; it grows exponentially from there."},
    {.key = "connect_attempts",
     .type = SCHEMA_INTEGER,
     .offset = offsetof(struct target_config, connect_attempts),
     .min = 1,
     .max = 1000,
     .fallback = 1,
     .unit = "attempts",
     .description = "How often this target is tried before it counts as failed."},
    {.key = "connect_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct target_config, connect_timeout),
     .description = "The bound on one attempt: name resolution, TCP, SOCKS5 and TLS together."},
    {.key = "resolve_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct target_config, resolve_timeout),
     .mark_offset = offsetof(struct target_config, resolve_timeout_mark),
     .has_mark = true,
     .description = "The bound on name resolution; used only with `enable_dual_stack`."},
    {.key = "max_fails",
     .type = SCHEMA_INTEGER,
     .offset = offsetof(struct target_config, max_fails),
     .max = 1000,
     .unit = "failures",
     .description = "After so many failures within `fail_timeout` the target is passed over for `fail_timeout`, while "
                    "there is another one to go to; 0: never."},
    {.key = "fail_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct target_config, fail_timeout),
     .fallback = 10 * NS_PER_S,
     .description = "Within which time failures count for `max_fails`, and how long the target is then passed over."},
    {.key = "write_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct target_config, write_timeout),
     .description = "How long the target may take nothing of what is written to it. The PROXY protocol's header has "
                    "10 s without it."},
    {.key = "read_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct target_config, read_timeout),
     .description = "How long nothing may come from the target. What is written to it starts the time anew."},
    {.key = "keepalive_interval",
     .type = SCHEMA_DURATION_OR_OFF,
     .offset = offsetof(struct target_config, keepalive_interval),
     .max = KEEPALIVE_MAX,
     .fallback_text = "0",
     .description = "TCP keepalive to the target. 0: the system's default. -1: off. Else: this interval."},
    {.key = "tls_context",
     .type = SCHEMA_OPTIONAL_OBJECT,
     .needs_value = true,
     .offset = offsetof(struct target_config, tls),
     .mark_offset = offsetof(struct tls_config, mark),
     .has_mark = true,
     .object = &target_tls_object,
     .fallback_text = "plain",
     .description = "TLS is spoken to the target; `{}` takes the defaults."},
};
OBJECT(target, struct target_config);

static const struct schema_row options_rows[] = {
    {.key = "connection_limit",
     .type = SCHEMA_INTEGER,
     .offset = offsetof(struct proxy_config, connection_limit),
     .min = 1,
     .fallback_text = "none",
     .unit = "connections",
     .description = "Connections above it are rejected at once."},
    {.key = "source_connection_limit",
     .type = SCHEMA_INTEGER,
     .offset = offsetof(struct proxy_config, source_connection_limit),
     .mark_offset = offsetof(struct proxy_config, source_connection_limit_mark),
     .has_mark = true,
     .min = 1,
     .fallback_text = "none",
     .unit = "connections",
     .description = "Of one source (an IPv4 address, an IPv6 /64), connections above it are rejected at once; behind "
                    "`proxy_protocol` of one declared source, once the header is read."},
    {.key = "connection_lifetime",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct proxy_config, connection_lifetime),
     .description = "A connection older than this is closed."},
    {.key = "connection_log",
     .type = SCHEMA_PATH,
     .offset = offsetof(struct proxy_config, connection_log),
     .check = syntax_path,
     .fallback_text = "off",
     .description = "The connection log: a file of JSON objects, one a line and connection."},
    {.key = "connection_log_connect",
     .type = SCHEMA_BOOL,
     .offset = offsetof(struct proxy_config, connection_log_connect),
     .description = "A record also when the target has answered, before anything is relayed."},
    {.key = "connection_log_interval",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct proxy_config, connection_log_interval),
     .description = "Records also of connections that live, each time this has passed; at least `1s`."},
    {.key = "connection_load_balancer",
     .type = SCHEMA_ENUM,
     .offset = offsetof(struct proxy_config, balancer),
     .fallback = BALANCER_NONE,
     .mark_offset = offsetof(struct proxy_config, balancer_mark),
     .has_mark = true,
     .words = balancers,
     .description = "`none`: only the first target; a warning tells of others, unless `none` is written. "
                    "`failover`: in order, until one connects. `round-robin`: each "
                    "connection begins at the next target and goes on to others if it cannot connect. "
                    "`least-connections`: each begins at the target that has the fewest, and goes on likewise. `sni`: "
                    "the target that the client's SNI names."},
    {.key = "enable_proxy_header",
     .type = SCHEMA_BOOL,
     .offset = offsetof(struct proxy_config, enable_proxy_header),
     .description = "Send the PROXY protocol's header to the target, before all else."},
    {.key = "proxy_header_version",
     .type = SCHEMA_ENUM,
     .offset = offsetof(struct proxy_config, proxy_header_version),
     .fallback = PROXY_HEADER_VERSION_1,
     .words = proxy_header_versions,
     .description = "Its version. `1` is a line of text with the addresses. `2` is binary, and tells of Unix sockets, "
                    "the server name, ALPN, the connection's id in the logs and the client's TLS, too."},
    {.key = "enable_dual_stack",
     .type = SCHEMA_BOOL,
     .offset = offsetof(struct proxy_config, enable_dual_stack),
     .description = "Connect to the target over the IP family that the client came by, where the target has it; else "
                    "over the other."},
};
OBJECT(options, struct proxy_config);

static const struct schema_row proxy_rows[] = {
    {.key = "name",
     .type = SCHEMA_STRING,
     .is_required = true,
     .offset = offsetof(struct proxy_config, name),
     .check = syntax_name,
     .description = "Its name in logs, metrics and threads' names; unique."},
    {.key = "listener",
     .type = SCHEMA_OBJECT,
     .is_required = true,
     .offset = offsetof(struct proxy_config, listener),
     .object = &listener_object,
     .description = "Where clients come in."},
    {.key = "targets",
     .type = SCHEMA_OBJECTS,
     .is_required = true,
     .offset = offsetof(struct proxy_config, targets),
     .count_offset = offsetof(struct proxy_config, target_count),
     .mark_offset = offsetof(struct proxy_config, targets_mark),
     .has_mark = true,
     .min = 1,
     .object = &target_object,
     .description = "Where connections go; at least one."},
    {.key = "options", .type = SCHEMA_OBJECT, .object = &options_object, .description = "The proxy's other settings."},
};
OBJECT(proxy, struct proxy_config);

static const struct schema_row server_rows[] = {
    {.key = "drain_timeout",
     .type = SCHEMA_DURATION,
     .offset = offsetof(struct config, drain_timeout),
     .fallback = 25 * NS_PER_S,
     .description = "How long live connections may go on after SIGTERM, SIGINT or SIGQUIT before they are closed; 0: "
                    "until they end. The default is within the 30s that Kubernetes waits."},
    {.key = "scheduling",
     .type = SCHEMA_ENUM,
     .offset = offsetof(struct config, scheduling),
     .fallback = THREAD_SCHEDULING_BATCH,
     .words = schedulings,
     .description = "How the kernel schedules the threads that serve connections. `batch`: SCHED_BATCH, for more work "
                    "with fewer switches. `normal`: the policy that the process was started with."},
    {.key = "proxies",
     .type = SCHEMA_OBJECTS,
     .is_required = true,
     .offset = offsetof(struct config, proxies),
     .count_offset = offsetof(struct config, proxy_count),
     .min = 1,
     .object = &proxy_object,
     .description = "The proxies; at least one."},
};
OBJECT(server, struct config);

static const struct schema_row root_rows[] = {
    {.key = "application",
     .type = SCHEMA_OBJECT,
     .object = &application_object,
     .description = "What concerns the whole process."},
    {.key = "server",
     .type = SCHEMA_OBJECT,
     .is_required = true,
     .object = &server_object,
     .description = "The proxies."},
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
        bool is_list = row->type == SCHEMA_OBJECTS || row->type == SCHEMA_CIDRS || row->type == SCHEMA_STRINGS;
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
