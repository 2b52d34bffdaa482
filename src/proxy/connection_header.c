// Who a connection's client is, for dual stack, the records, and the PROXY protocol's header to its target.

#include "connection_parts.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "bitflow/net/socket.h"
#include "header_end.h"

static bool is_declared(const struct connection *connection)
{
    const struct declaration *declared = connection->ingress.declared;
    return declared != NULL && declared->client.length > 0;
}

const struct endpoint *connection_client(const struct connection *connection)
{
    return is_declared(connection) ? &connection->ingress.declared->client : &connection->client.peer;
}

void connection_ends_of(const struct connection *connection, struct connection_ends *ends)
{
    *ends = (struct connection_ends){.client = *connection_client(connection)};
    if (is_declared(connection))
        ends->local = connection->ingress.declared->local;
    else
        (void)socket_local(connection->client.fd, &ends->local);
}

enum address_family connection_family(const struct connection_ends *ends)
{
    struct proxy_header_end end;
    header_end_of_endpoint(&ends->client, &end);
    if (end.family == PROXY_HEADER_IPV4)
        return ADDRESS_IPV4;
    if (end.family != PROXY_HEADER_IPV6)
        return ADDRESS_ANY;
    struct in6_addr address;
    memcpy(&address, end.address, sizeof address);
    // The client of a socket of both families came by IPv4, too.
    return IN6_IS_ADDR_V4MAPPED(&address) ? ADDRESS_IPV4 : ADDRESS_IPV6;
}

static struct proxy_header_text text_of(const char *text)
{
    return (struct proxy_header_text){.bytes = (const uint8_t *)text, .length = strlen(text)};
}

// What this proxy knows of a client's TLS by itself, rather than by somebody else's declaration.
static void describe_tls(const struct tls_info *info, struct proxy_header *header)
{
    bool has_certificate = *info->peer_fingerprint != '\0'; // only a verified one is told of
    header->protocol = text_of(info->protocol);
    header->tls = (struct proxy_header_tls){
        .is_used = true,
        .has_certificate = has_certificate,
        .is_session_certified = has_certificate, // sessions are not resumed here
        .verify_result = has_certificate ? 0 : 1,
        .version = text_of(info->version == TLS_1_3 ? "TLSv1.3" : "TLSv1.2"),
        .cipher = text_of(tls_openssl_cipher(info->cipher)),
        .common_name = text_of(info->peer_common_name),
    };
}

void connection_describe(const struct connection *connection, const struct connection_ends *ends,
                         char id[CONNECTION_ID_SIZE], struct proxy_header *header)
{
    const struct ingress *ingress = &connection->ingress;
    if (ingress->declared != NULL)
        *header = ingress->declared->header;
    else
        *header = (struct proxy_header){.is_local = false};
    header->is_local = false; // we do not speak for ourselves, even if who connected to us did
    header_end_of_endpoint(&ends->client, &header->source);
    header_end_of_endpoint(&ends->local, &header->destination);
    if (*ingress->server_name != '\0')
        header->authority = text_of(ingress->server_name);
    if (ingress->tls != NULL)
        describe_tls(&ingress->tls->info, header);
    (void)snprintf(id, CONNECTION_ID_SIZE, "%" PRIu64, connection->id);
    header->unique_id = text_of(id);
}
