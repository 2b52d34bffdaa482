#include "record_fields.h"

#include <stdatomic.h>
#include <string.h>

#include "../client/proxy_protocol_in.h"

// A negative one is not known.
static inline void put_known(struct json_line *line, const char *key, int64_t value)
{
    if (value < 0)
        json_line_null(line, key);
    else
        json_line_integer(line, key, value);
}

// A text that the other side chose, up to its first zero byte.
static void put_header_text(struct json_line *line, const char *key, const struct proxy_header_text *text)
{
    char copy[(PROXY_HEADER_TEXT_MAX > PROXY_HEADER_ID_MAX ? PROXY_HEADER_TEXT_MAX : PROXY_HEADER_ID_MAX) + 1];
    size_t length = text->length < sizeof copy ? text->length : sizeof copy - 1;
    if (length > 0)
        memcpy(copy, text->bytes, length);
    copy[length] = '\0';
    record_text(line, key, copy);
}

void record_header(struct json_line *line, const char *key, const struct client *client)
{
    const struct proxy_protocol_in *declared = client->declared;
    char peer[ENDPOINT_TEXT_SIZE];
    if (declared == NULL) {
        json_line_null(line, key);
        return;
    }
    endpoint_format(&client->peer, peer);
    json_line_begin_object(line, key);
    json_line_integer(line, "version", declared->version);
    json_line_boolean(line, "local", declared->header.is_local);
    record_text(line, "peer", peer);
    put_header_text(line, "authority", &declared->header.authority);
    put_header_text(line, "unique_id", &declared->header.unique_id);
    json_line_end_object(line);
}

void record_client_identity(struct json_line *line, const struct client *client, const struct tls_session *session)
{
    char user[UNIX_PEER_TEXT_SIZE] = "";
    const char *identity = session != NULL ? session->info.peer_identity : "";
    if (*identity == '\0' && client->credentials.is_known)
        unix_peer_format(&(struct unix_peer){.id = client->credentials.user}, user);
    record_text(line, "client_identity", *identity != '\0' ? identity : user);
}

void record_target_identity(struct json_line *line, const struct tls_session *session)
{
    record_text(line, "target_identity", session != NULL ? session->info.peer_identity : NULL);
}

void record_tls(struct json_line *line, const char *key, const struct tls_session *session,
                const struct relay_socket *socket)
{
    if (session == NULL) { // or no handshake was begun
        json_line_null(line, key);
        return;
    }
    const struct tls_info *info = &session->info;
    const char *version = info->version == TLS_1_3 ? "TLSv1.3" : "TLSv1.2";
    json_line_begin_object(line, key);
    record_text(line, "version", *info->cipher == '\0' ? NULL : version); // both are agreed upon together
    record_text(line, "cipher", info->cipher);
    record_text(line, "server_name", info->server_name);
    record_text(line, "protocol", info->protocol);
    json_line_milliseconds(line, "handshake_ms", info->handshake_time);
    json_line_boolean(line, "truncated", atomic_load_explicit(&socket->is_truncated, memory_order_relaxed));
    record_text(line, "peer_subject", info->peer_subject);
    record_text(line, "peer_names", info->peer_names);
    record_text(line, "peer_fingerprint", info->peer_fingerprint);
    json_line_end_object(line);
}

void record_address(struct json_line *line, const char *key, const struct address *address)
{
    static const char scheme[] = "tcp://";
    char text[ADDRESS_TEXT_SIZE];
    address_format(address, text);
    record_text(line, key, strncmp(text, scheme, sizeof scheme - 1) == 0 ? text + sizeof scheme - 1 : text);
}

void record_target(struct json_line *line, const char *key, const struct upstream *upstream)
{
    if (upstream->target == NULL) {
        json_line_null(line, key);
        return;
    }
    const struct target_config *settings = upstream->target->settings;
    bool has_socks = settings->socks_proxy != NULL;
    char dialled[ENDPOINT_TEXT_SIZE] = "";
    if (upstream->dialled.remote.length > 0)
        endpoint_format(&upstream->dialled.remote, dialled);
    json_line_begin_object(line, key);
    record_text(line, "name", settings->name);
    if (has_socks && *dialled != '\0')
        record_address(line, "address", &settings->address);
    else
        record_text(line, "address", dialled);
    record_text(line, "via", has_socks ? dialled : NULL);
    json_line_end_object(line);
}

void record_tcp(struct json_line *line, const char *key, const struct connection_sockets *sockets, enum relay_side side)
{
    const struct tcp_path_info *tcp = &sockets->tcp[side];
    if (!sockets->has_tcp[side]) {
        json_line_null(line, key);
        return;
    }
    json_line_begin_object(line, key);
    record_known_time(line, "rtt_ms", tcp->rtt);
    record_known_time(line, "rttvar_ms", tcp->rttvar);
    record_known_time(line, "min_rtt_ms", tcp->min_rtt);
    put_known(line, "retransmits", tcp->retransmits);
    put_known(line, "lost", tcp->lost);
    put_known(line, "unacked", tcp->unacked);
    put_known(line, "unsent_bytes", tcp->unsent);
    put_known(line, "bytes_acked", tcp->bytes_acked);
    put_known(line, "bytes_received", tcp->bytes_received);
    put_known(line, "delivery_rate", tcp->delivery_rate);
    json_line_end_object(line);
}
