#include "tls_record_rig.h"

size_t forge(struct record_key *key, unsigned content, const void *data, size_t length, size_t padding, uint8_t *out)
{
    uint8_t plain[80000];
    uint8_t nonce[AEAD_NONCE_SIZE];
    uint8_t additional[TLS_ADDITIONAL_MAX];
    size_t explicit_nonce = record_key_explicit_nonce(key);
    size_t plain_length = length;
    if (length > 0)
        memcpy(plain, data, length);
    if (key->version == TLS_1_3) {
        plain[plain_length++] = (uint8_t)content;
        memset(plain + plain_length, 0, padding);
        plain_length += padding;
        content = TLS_APPLICATION_DATA;
    }
    record_header_write(out, (enum tls_content)content, explicit_nonce + plain_length + AEAD_TAG_SIZE);
    // Any number will do here, if it comes once only.
    for (size_t i = 0; i < explicit_nonce; i++)
        out[TLS_HEADER_SIZE + i] = (uint8_t)(key->sequence >> (i * 8) ^ 0x5a);
    record_key_nonce(key, out + TLS_HEADER_SIZE, nonce);
    size_t additional_length = record_key_additional(key, out, plain_length, additional);
    if (!aead_seal(key->aead, nonce, additional, additional_length, plain, plain_length,
                   out + TLS_HEADER_SIZE + explicit_nonce))
        abort();
    key->sequence++;
    return TLS_HEADER_SIZE + explicit_nonce + plain_length + AEAD_TAG_SIZE;
}

bool unforge(struct record_key *key, uint8_t *bytes, size_t length, struct unforged *out)
{
    uint8_t nonce[AEAD_NONCE_SIZE];
    uint8_t additional[TLS_ADDITIONAL_MAX];
    size_t payload = length < TLS_HEADER_SIZE ? 0 : (size_t)bytes[3] << 8 | bytes[4];
    if (length < TLS_HEADER_SIZE || length < TLS_HEADER_SIZE + payload)
        return false;
    size_t explicit_nonce = record_key_explicit_nonce(key);
    if (payload < explicit_nonce + AEAD_TAG_SIZE)
        abort();
    *out = (struct unforged){.content = bytes[0],
                             .data = bytes + TLS_HEADER_SIZE + explicit_nonce,
                             .length = payload - explicit_nonce - AEAD_TAG_SIZE,
                             .consumed = TLS_HEADER_SIZE + payload};
    record_key_nonce(key, bytes + TLS_HEADER_SIZE, nonce);
    size_t additional_length = record_key_additional(key, bytes, out->length, additional);
    if (!aead_open(key->aead, nonce, additional, additional_length, out->data, out->length + AEAD_TAG_SIZE, out->data))
        abort();
    key->sequence++;
    if (key->version == TLS_1_3) {
        while (out->length > 0 && out->data[out->length - 1] == 0)
            out->length--;
        if (out->length == 0)
            abort();
        out->content = out->data[--out->length];
    }
    return true;
}
