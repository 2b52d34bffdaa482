// Handshake messages that come after the handshake: what is allowed of them, and how they lie in the records. They may
// be split over several records, and several may be in one. Belongs to a receiver.

#ifndef BITFLOW_SRC_TLS_RECORD_HANDSHAKE_H
#define BITFLOW_SRC_TLS_RECORD_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "record_key.h"

struct handshake_reader {
    enum tls_version version;
    bool is_client; // we are
    uint8_t header[TLS_HANDSHAKE_HEADER_SIZE];
    size_t header_length; // more than 0: in the middle of a message
    size_t body_left;
};

struct handshake_read {
    unsigned messages; // how many ended
    bool is_key_update;
    bool update_requested;
    bool wants_renegotiation;
    enum tls_alert alert; // when it fails
    const char *reason;
};

// Reads one record's content. False: it breaks the rules.
bool handshake_read(struct handshake_reader *reader, const uint8_t *bytes, size_t length, struct handshake_read *read);

#endif
