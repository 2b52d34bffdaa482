// The syntax of strings in a configuration that are more than text. Each returns false with ERROR_INVALID and a text
// that says what is wrong with it; those of secrets do not repeat any of it. Plain functions; any thread.

#ifndef BITFLOW_SRC_CONFIG_SYNTAX_H
#define BITFLOW_SRC_CONFIG_SYNTAX_H

#include <stdbool.h>

#include "bitflow/base/error.h"

#define SYNTAX_NAME_MAX 64         // bytes
#define SYNTAX_TARGET_NAME_MAX 255 // bytes
#define SYNTAX_DSN_MAX 1000        // bytes

// A proxy's or a target's name: not empty, no control characters, at most SYNTAX_NAME_MAX bytes; a target's, which may
// be a server name, SYNTAX_TARGET_NAME_MAX.
bool syntax_name(const char *text, struct error *error);
bool syntax_target_name(const char *text, struct error *error);

// What goes before every statsd metric's name: printable ASCII without what statsd gives a meaning.
bool syntax_metric_prefix(const char *text, struct error *error);

// HOST:PORT, udp://HOST:PORT or unix:///path.
bool syntax_metrics_address(const char *text, struct error *error);

// A secret: SCHEME://KEY@HOST[:PORT]/[PATH/]PROJECT, at most SYNTAX_DSN_MAX bytes.
bool syntax_sentry_dsn(const char *text, struct error *error);

// What Sentry takes as an environment's name: up to 64 bytes, no white space, no slash, not "None".
bool syntax_sentry_environment(const char *text, struct error *error);

// A secret: as net/socks.h reads it.
bool syntax_socks_proxy(const char *text, struct error *error);

// RFC 7301, 3.1: 1 to 255 bytes.
bool syntax_alpn_protocol(const char *text, struct error *error);

// A host name, in ASCII and without a dot at its end, or an IP address: what a certificate can be for.
bool syntax_server_name(const char *text, struct error *error);

bool syntax_is_ip_address(const char *text);

// Of a Unix socket's file: as net/unix_access.h reads them, which looks users and groups up.
bool syntax_unix_mode(const char *text, struct error *error);
bool syntax_unix_user(const char *text, struct error *error);
bool syntax_unix_group(const char *text, struct error *error);

bool syntax_path(const char *text, struct error *error);

#endif
