// What a peer may send after the handshake. The input says which records: raw bytes, which never open, or content of
// any kind that is sealed with the right key, as a peer that has the key and breaks the rules would do it.
//
// Input: suite and role, then for each record its kind, a length in two bytes, and that many bytes.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tls_record_rig.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { KIND_RAW = 0x80, KIND_PADDED = 0x40, KIND_CONTENT = 0x3f };

static void check(bool is_right)
{
    if (!is_right)
        abort();
}

static void check_received(const struct tls_received *received, const uint8_t *bytes, size_t length)
{
    check(received->consumed <= length);
    switch (received->event) {
    case TLS_DATA:
        check(received->data >= bytes && received->length <= TLS_PLAIN_MAX);
        check(received->data + received->length + AEAD_TAG_SIZE <= bytes + received->consumed);
        break;
    case TLS_NEEDS_MORE:
        check(received->consumed == 0 && length < TLS_RECORD_MAX);
        break;
    case TLS_KEY_UPDATE:
    case TLS_IGNORED:
    case TLS_CLOSE_NOTIFY:
        check(received->consumed > 0);
        break;
    case TLS_PEER_ALERT:
    case TLS_FAILED:
        check(received->reason != NULL && received->alert < 256);
        break;
    }
}

// False: nothing more will come of it.
static bool deliver(struct tls_receiver *receiver, struct record_key *key, const uint8_t *record, size_t length)
{
    uint8_t *bytes = malloc(length > 0 ? length : 1);
    check(bytes != NULL);
    if (length > 0)
        memcpy(bytes, record, length);
    bool goes_on = true;
    size_t at = 0;
    while (goes_on && at < length) {
        struct tls_received received = tls_receiver_open(receiver, bytes + at, length - at);
        check_received(&received, bytes + at, length - at);
        if (received.event == TLS_KEY_UPDATE)
            check(key->version == TLS_1_3 && record_key_update(key, NULL));
        goes_on = received.event < TLS_PEER_ALERT && received.event != TLS_NEEDS_MORE;
        at += received.consumed;
    }
    free(bytes);
    return goes_on;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    check(aead_prepare(NULL));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t record[80000 + 64];
    if (size < 2)
        return 0;
    const struct tls_keys *keys = &tls_suites[data[0] % TLS_SUITES].keys;
    struct tls_receiver *receiver = tls_receiver_create(keys, data[1] % 2 == 0, NULL);
    struct record_key key;
    check(receiver != NULL && record_key_init(&key, keys, NULL));
    data += 2;
    size -= 2;
    bool goes_on = true;
    while (goes_on && size >= 3) {
        unsigned kind = data[0];
        size_t length = (size_t)data[1] << 8 | data[2];
        data += 3;
        size -= 3;
        if ((kind & KIND_RAW) != 0) {
            length = length < size ? length : size;
            goes_on = deliver(receiver, &key, data, length);
        } else {
            // With less input than that, the rest is padding, or nothing.
            size_t padding = (kind & KIND_PADDED) != 0 && length > size ? length - size : 0;
            length = length < size ? length : size;
            size_t written = forge(&key, kind & KIND_CONTENT, data, length, padding < 20000 ? padding : 20000, record);
            goes_on = deliver(receiver, &key, record, written);
        }
        data += length;
        size -= length;
    }
    tls_receiver_destroy(&receiver);
    record_key_release(&key);
    return 0;
}
