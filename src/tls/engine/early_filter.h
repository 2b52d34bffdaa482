// Early data (0-RTT) that a client sends on the strength of a ticket: no server of ours gave it out, and none takes it,
// but the client cannot know, and a full handshake follows. RFC 8446 4.2.10 has a server skip such data; mbedTLS, as it
// is built, ends the handshake. This filter takes it out of what mbedTLS reads, between a ClientHello that announces it
// and the first record that is none of it:
//  - after a HelloRetryRequest, each record of application data before the second ClientHello;
//  - after a ServerHello, each that does not open under the client's handshake key as its first one.
// Nothing else is ever skipped. One handshake's, and its thread's only.

#ifndef BITFLOW_SRC_TLS_ENGINE_EARLY_FILTER_H
#define BITFLOW_SRC_TLS_ENGINE_EARLY_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitflow/wire/early_data.h"
#include "key_export.h"

// Bytes of records that are skipped at most. How many a ticket allows is its server's to say: 16 KiB with OpenSSL,
// nginx, HAProxy and GnuTLS, 64 KiB with NSS, and each record adds 22. Who sends more than this wants something else
// than a handshake (which has a time limit besides).
#define EARLY_DATA_SKIPPED_MAX ((size_t)128 * 1024)

struct early_record;

// All zeros at the beginning.
struct early_filter {
    struct early_data_offer offer; // of the ClientHello
    enum early_data_answer answer; // ours, the last one
    uint16_t suite;                // with EARLY_DATA_HELLO: chosen by it
    bool is_over;                  // no record more is looked at
    bool is_exceeded;              // more came than is skipped
    size_t skipped;                // bytes
    struct early_record *record;   // NULL: none has been looked at
};

void early_filter_release(struct early_filter *filter);

// Each record that mbedTLS sends, header included.
void early_filter_sent(struct early_filter *filter, const uint8_t *record, size_t length);

// Whether the record that begins now is to be looked at, by early_filter_receive().
bool early_filter_is_due(const struct early_filter *filter);

// Reads `length` bytes from the peer into `bytes`. 0, or mbedTLS's error.
typedef int early_filter_read(void *argument, uint8_t *bytes, size_t length);

// Reads records up to the first one that is for mbedTLS, of which at least the header has been read then, and is to be
// had from early_filter_take(). `keys`: what has been exported so far. 0, or mbedTLS's error: that of `read`,
// MBEDTLS_ERR_SSL_ALLOC_FAILED, or MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE where there is too much early data.
int early_filter_receive(struct early_filter *filter, const struct key_export *keys, early_filter_read *read,
                         void *argument);

// Hands out what has been read and not been skipped; how many bytes.
size_t early_filter_take(struct early_filter *filter, uint8_t *buffer, size_t room);

#endif
