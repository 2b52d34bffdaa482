#include "proxy_protocol_out.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../client/proxy_protocol_in.h"
#include "../proxy_address.h"
#include "bitflow/base/compiler.h"

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

// Takes out what is not to be told.
static void select_fields(const struct proxy_config *settings, struct proxy_header *header)
{
    const struct {
        enum proxy_header_tlv tlv;
        struct proxy_header_text *text;
    } texts[] = {
        {PROXY_HEADER_TLV_ALPN, &header->protocol},           {PROXY_HEADER_TLV_AUTHORITY, &header->authority},
        {PROXY_HEADER_TLV_UNIQUE_ID, &header->unique_id},     {PROXY_HEADER_TLV_SSL_CIPHER, &header->tls.cipher},
        {PROXY_HEADER_TLV_CERT_CN, &header->tls.common_name},
    };
    unsigned told = settings->proxy_header_tlvs;
    for (size_t i = 0; i < ARRAY_LENGTH(texts); i++)
        if ((told & texts[i].tlv) != texts[i].tlv)
            texts[i].text->length = 0;
    header->tls.is_used = header->tls.is_used && (told & PROXY_HEADER_TLV_SSL) != 0;
    header->has_no_checksum = (told & PROXY_HEADER_TLV_CRC32C) == 0;
    if (!settings->proxy_header_pass_tlvs)
        header->fields.length = 0;
}

void proxy_protocol_out_describe(const struct client *client, const struct proxy_config *settings, uint64_t id,
                                 char id_text[PROXY_PROTOCOL_OUT_ID_SIZE], struct proxy_header *header)
{
    struct endpoint local;
    client_local_address(client, &local);
    *header = client->declared != NULL ? client->declared->header : (struct proxy_header){.is_local = false};
    header->is_local = false; // we do not speak for ourselves, even if who connected to us did
    proxy_address_of_endpoint(client_address(client), &header->source);
    proxy_address_of_endpoint(&local, &header->destination);
    if (*client->server_name != '\0')
        header->authority = text_of(client->server_name);
    if (client->tls != NULL)
        describe_tls(&client->tls->info, header);
    (void)snprintf(id_text, PROXY_PROTOCOL_OUT_ID_SIZE, "%" PRIu64, id);
    header->unique_id = text_of(id_text);
    select_fields(settings, header);
}
